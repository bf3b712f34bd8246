"""A database of many fingerprints, from its build to its answers: memory, time and recall.

    python -m benchmarks.hard_queries DATASET QUERIES... --out hard.pkl
    python -m benchmarks.large hard.pkl --rows 1000000 --folder DIR

The rows are real ones and copies with a tenth of their bits flipped, stored as signs. The build and
the search are processes of their own; the queries are hard windows, one at a time. Times of the
processor stand beside those of the clock. The database is kept in the folder.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

from benchmarks.bits import fill
from benchmarks.hard_queries import read_hard_queries
from confp_jax.database import Database, ModelId, NewTrack
from confp_jax.database.vectors import decode, encode
from confp_jax.index import ExactIndex, on_disk
from confp_jax.index.on_disk import open_index

_TRACK_ROWS = 600
_COMMIT_TRACKS = 200
_NUM_TRUTH = 100


def main() -> None:
    """Makes, builds and searches; prints a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queries", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--step", choices=("make", "build", "search"), default="")
    args = parser.parse_args()
    folder = args.folder / f"{args.rows}.db"
    steps = {"make": _make, "build": _build, "search": _search}
    if args.step:
        print(json.dumps({"step": args.step} | steps[args.step](folder, args)), flush=True)
        return
    print(f"$ python {' '.join(sys.argv)} ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})")
    for step in steps:
        if step != "make" or not folder.exists():
            command = [sys.executable, "-m", "benchmarks.large", *sys.argv[1:], "--step", step]
            subprocess.run(command, check=True)


def _make(folder: pathlib.Path, args: argparse.Namespace) -> dict:
    real = encode(read_hard_queries(args.queries).rows, "binary")
    bits = fill(real, args.rows)
    began = time.process_time()
    database = Database.create(folder, ModelId("m", "0", 0.3), precision="binary")
    with database.writing():
        for first in range(0, len(bits), _TRACK_ROWS * _COMMIT_TRACKS):
            starts = range(first, min(first + _TRACK_ROWS * _COMMIT_TRACKS, len(bits)), _TRACK_ROWS)
            parts = [(n, decode(bits[n : n + _TRACK_ROWS])) for n in starts]
            database.add(
                [NewTrack(f"{n}", f"/{n}", f"{n:064x}", 0.3 * len(part), part) for n, part in parts]
            )
    return {"rows": len(bits), "cpu_s": round(time.process_time() - began, 1)}


def _build(folder: pathlib.Path, _: argparse.Namespace) -> dict:
    database = Database(folder)
    began = time.process_time()
    wall = time.perf_counter()
    with database.writing():
        manifest = on_disk.rebuild(database)
    used = {"cpu_s": time.process_time() - began, "wall_s": time.perf_counter() - wall}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    num_bytes = sum(path.stat().st_size for path in (folder / "index").rglob("*"))
    return _rounded(used | {"peak_rss_mib": peak, "index_mib": num_bytes / 2**20}) | {
        "cells": manifest and manifest.num_cells,
        "effort": manifest and vars(manifest.effort),
    }


def _search(folder: pathlib.Path, args: argparse.Namespace) -> dict:
    hard = read_hard_queries(args.queries)
    windows, tracks = hard.windows(400)
    row_tracks = hard.row_tracks()
    del hard
    before = _resident_mib()
    began = time.process_time()
    wall = time.perf_counter()
    database = Database(folder)
    snapshot = database.snapshot()
    read_s = time.perf_counter() - wall
    index = open_index(database, snapshot)
    opened = {"snapshot_s": read_s, "open_s": time.perf_counter() - wall}
    opened |= {"open_cpu_s": time.process_time() - began}
    singles = []
    own = []
    found = []
    for window in windows:
        began = time.thread_time()
        wall = time.perf_counter()
        found.append(index.search(window[None], k=1).rows[0, 0])
        singles.append(1000 * (time.perf_counter() - wall))
        own.append(1000 * (time.thread_time() - began))
    resident = _resident_mib()
    some = slice(None, None, max(1, len(windows) // _NUM_TRUTH))
    truth = ExactIndex(snapshot.vectors).search(windows[some], k=1).rows[:, 0]
    is_right = truth < len(row_tracks)
    is_right &= row_tracks[np.where(is_right, truth, 0)] == tracks[some]
    same = truth == np.array(found)[some]
    measured = {
        "p50_ms": np.median(singles),
        "p50_cpu_ms": np.median(own),
        "p99_cpu_ms": np.percentile(own, 99),
        "resident_mib": resident["Rss"] - before["Rss"],
        "of_it_files_mib": resident["Shared_Clean"] - before["Shared_Clean"],
        "recall_1_all": same.mean(),
        "exact_right": is_right.mean(),
        "recall_1_right": same[is_right].mean(),
    }
    return _rounded(opened | measured)


def _resident_mib() -> dict[str, float]:
    """Returns what the process holds in memory; pages of mapped files can be given up."""
    text = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: float(line.split()[1]) / 1024 for line in text}
    mapped = values.get("Shared_Clean", 0.0) + values.get("Private_Clean", 0.0)
    return {"Rss": values["Rss"], "Shared_Clean": mapped}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in values.items()}


if __name__ == "__main__":
    main()
