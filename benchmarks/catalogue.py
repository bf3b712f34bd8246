"""What a large catalogue costs: every command on half a million tracks of two rows each.

    python -m benchmarks.catalogue --tracks 500000 --folder DIR

Each line is a process of its own: seconds of its processor time, and the most memory it held. The
database is made once and kept in the folder.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

from confp_jax.database import Database, ModelId, NewTrack

_ROWS_PER_TRACK = 2
_DIM = 640
_BATCH = 25_000
_STEPS = {
    "open (snapshot)": "database.snapshot()",
    "list (50 tracks)": "list(database.page(offset=1000, limit=50))",
    "list --search": "list(database.page(search='track 77', limit=50))",
    "info": "describe(database)",
    "add one track": "add_one(database)",
    "remove one track": "remove(database, ['track 17'])",
    "rename one track": "rename_one(database)",
    "verify": "verify(database)",
    "compact": "compact(database, kind='exact')",
}
_PROGRAM = """
import resource, sys, time
from confp_jax.database import Database
from confp_jax.library.maintenance import compact, describe, remove, verify
from benchmarks.catalogue import add_one, rename_one
database = Database(sys.argv[1])
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, wall = time.process_time(), time.perf_counter()
eval(sys.argv[2])
took, wall = time.process_time() - began, time.perf_counter() - wall
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{took:7.2f} s of processor, {wall:7.2f} s, {(most - held) // 1024:5} MiB more than before")
"""


def main() -> None:
    """Makes the database and measures every step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=500_000)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--steps", nargs="+", default=list(_STEPS))
    args = parser.parse_args()
    print(
        "$ python", " ".join(sys.argv), f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})"
    )
    source = args.folder / f"{args.tracks}.db"
    copy = args.folder / "copy.db"
    if not source.exists():
        began = time.process_time()
        make(source, args.tracks)
        print(f"made {args.tracks} tracks: {time.process_time() - began:.1f} s of processor")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    for step in args.steps:
        command = [sys.executable, "-c", _PROGRAM, copy, _STEPS[step]]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{step:20}", found.stdout.strip() or found.stderr.strip()[-300:], flush=True)
    shutil.rmtree(copy)


def make(folder: pathlib.Path, num_tracks: int) -> None:
    """A database of this many tracks, each of `_ROWS_PER_TRACK` random rows."""
    database = Database.create(folder, ModelId("m", "0", 0.3), precision="binary")
    rng = np.random.default_rng(0)
    with database.writing():
        for first in range(0, num_tracks, _BATCH):
            numbers = range(first, min(first + _BATCH, num_tracks))
            rows = rng.normal(size=(len(numbers), _ROWS_PER_TRACK, _DIM)).astype(np.float32)
            database.add([_track(n, part) for n, part in zip(numbers, rows, strict=True)])


def add_one(database: Database) -> None:
    """Adds a track, as `confp add` does once a file is fingerprinted."""
    rows = np.random.default_rng(1).normal(size=(_ROWS_PER_TRACK, _DIM)).astype(np.float32)
    with database.writing():
        database.add([_track(10**9, rows)])


def rename_one(database: Database) -> None:
    """Renames a track, as the service does."""
    with database.writing():
        database.rename(5, {"title": "other"})


def _track(number: int, rows: np.ndarray) -> NewTrack:
    path = f"/music/artist {number % 1000}/album {number % 7919}/track {number}.flac"
    names = {"title": f"title {number}", "artist": f"artist {number % 1000}"}
    return NewTrack(f"track {number}", path, f"{number:064x}", 30.0, rows, **names)


if __name__ == "__main__":
    main()
