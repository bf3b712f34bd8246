"""What the checks of damage add to opening a database: CPU seconds, with them and without.

python -m benchmarks.open_database --model edge2 --rows 1000000

Each opening is a process of its own, as `confp identify` is one: nothing was looked at before.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from confp_jax.database import Database, NewTrack
from confp_jax.fingerprint.embedder import load_encoder
from confp_jax.index import on_disk

_ROWS_A_TRACK = 250
_ROWS_A_SHARD = 62_500
_OPEN = """
import resource, sys
import numpy as np
from confp_jax.database import snapshots
from confp_jax.library.open import open_database, open_reference
import scann  # what is imported is no part of it
if sys.argv[2] == "without":
    snapshots.damaged_rows = lambda *_: np.zeros(0, np.int64)
began = resource.getrusage(resource.RUSAGE_SELF)
open_reference(*open_database(sys.argv[1], None), build_index=False)
ended = resource.getrusage(resource.RUSAGE_SELF)
print(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
"""


def fill(folder: pathlib.Path, model: str, num_rows: int) -> None:
    """Makes a database of random rows, with its search index."""
    embedder = load_encoder(model)
    database = Database.create(folder, embedder.model_id, precision=embedder.precision)
    rng = np.random.default_rng(0)
    with database.writing():
        for first in range(0, num_rows, _ROWS_A_SHARD):
            rows = rng.standard_normal(
                (min(_ROWS_A_SHARD, num_rows - first), embedder.config.encoder.embedding_dim)
            )
            rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
            parts = [rows[place : place + _ROWS_A_TRACK] for place in range(0, len(rows), 250)]
            database.add(
                [
                    NewTrack(f"{first} {n}", f"/{first}/{n}", f"{first + n:064x}", 75.0, part)
                    for n, part in enumerate(parts)
                ]
            )
        on_disk.rebuild(database)


def opening_s(folder: pathlib.Path, how: str) -> float:
    """CPU seconds of one opening in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(folder), how], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="edge2", help="a shipped model or a checkpoint folder")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("$ python", " ".join(sys.argv), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "db"
        fill(folder, args.model, args.rows)
        found: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(args.rounds):
            for how, seconds in found.items():
                seconds.append(opening_s(folder, how))
        without, checked = (statistics.median(found[how]) for how in ("without", "with"))
        print(
            f"{args.rows} rows of {args.model}: {without:.2f} s without checks, {checked:.2f} s "
            f"with them ({checked / without - 1:+.0%}); CPU, medians of {args.rounds}"
        )


if __name__ == "__main__":
    main()
