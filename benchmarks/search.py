"""Search alone: ScaNN, Faiss and exact search on real fingerprints with jittered copies to fill,
at equal recall.

    confp add real.db MUSIC...
    python benchmarks/search.py real.db --rows 100000 1000000 --out results/search

Queries are real fingerprints with noise (cosine 0.7, like a distorted excerpt). Every approximate
method is given the least effort that reaches the recall of the first hit; one thread throughout.
`--keep DIR` also writes the rows as a database of this project with its index, and times what
`confp identify` does before it can search: open, snapshot, index, first query.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import faiss
import numpy as np
from rich.console import Console

from confp_jax.database import Database, NewTrack, StoredVectors
from confp_jax.database.vectors import encode
from confp_jax.index import ApproximateIndex, ExactIndex, build_coarse, on_disk
from confp_jax.index.tuning import sample_queries, tune

_JITTER_COSINE = 0.8
_NUM_QUERIES = 1000
_NUM_SINGLE = 300
_TRACK_ROWS = 91
_COLD = """
import sys, time
began = time.perf_counter()
from confp_jax.database import Database
from confp_jax.index.on_disk import open_index
imported = time.perf_counter()
database = Database(sys.argv[1])
snapshot = database.snapshot()
read = time.perf_counter()
index = open_index(database, snapshot)
opened = time.perf_counter()
index.search(snapshot.vectors[:1], k=200)
print(imported - began, read - imported, opened - read, time.perf_counter() - opened)
"""


def main() -> None:
    """Measures each size and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("database", type=pathlib.Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--methods", nargs="+", default=["exact", "scann", "faiss", "hnsw"])
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    source = Database(args.database)
    real = np.asarray(source.snapshot().vectors)
    real = real[real.any(axis=1)]
    results = []
    for num_rows in args.rows:
        vectors = fill(real, num_rows)
        queries = sample_queries(real, num=_NUM_QUERIES, seed=7)
        truth = ExactIndex(vectors).search(queries, k=1).rows[:, 0]
        for method in args.methods:
            result = {"rows": num_rows} | measure(method, vectors, queries, truth, args.recall)
            results.append(result)
            Console(width=250).print(result, highlight=False)
        if args.keep:
            result = {"rows": num_rows} | cold_start(source, vectors, args.keep / f"{num_rows}.db")
            results.append(result)
            Console(width=250).print(result, highlight=False)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        about = {
            "command": " ".join(sys.argv),
            "num_cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "real_rows": len(real),
        }
        (args.out / "search.json").write_text(json.dumps(about | {"results": results}, indent=1))


def fill(real: np.ndarray, num_rows: int) -> StoredVectors:
    """The real rows, then copies of them with noise of their own, as float16 in shards of 262,144
    rows.
    """
    rng = np.random.default_rng(0)
    parts = []
    for first in range(0, num_rows, len(real)):
        rows = real[: num_rows - first]
        if first:
            noise = rng.normal(size=rows.shape).astype(np.float32)
            noise /= np.linalg.norm(noise, axis=1, keepdims=True)
            rows = _JITTER_COSINE * rows + np.sqrt(1 - _JITTER_COSINE**2) * noise
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        parts.append(encode(rows, "float16"))
    rows = np.concatenate(parts)
    return StoredVectors(np.array_split(rows, -(-num_rows // 262_144)), rows.shape[1])


def measure(
    method: str, vectors: StoredVectors, queries: np.ndarray, truth: np.ndarray, recall: float
) -> dict:
    """Build time and bytes, then times of one query and queries per second in batches of 100."""
    rows = np.asarray(vectors)
    began = time.perf_counter()
    if method == "exact":
        index = ExactIndex(rows)
        num_bytes = rows.nbytes
        effort = {}

        def search(queries: np.ndarray) -> np.ndarray:
            return index.search(queries, k=10).rows

        build_s = 0.0
    elif method == "hnsw":
        graph = faiss.IndexHNSWFlat(rows.shape[1], 24, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 80
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        graph.add(rows)
        faiss.omp_set_num_threads(1)
        build_s = time.perf_counter() - began
        num_bytes = len(faiss.serialize_index(graph))
        graph.hnsw.efSearch = effort_of_graph(graph, queries, truth, recall)
        effort = {"ef_search": graph.hnsw.efSearch}
        search = lambda q: graph.search(q, 10)[1]  # noqa: E731
    else:
        coarse = build_coarse(vectors, method)
        chosen = tune(coarse, vectors, recall=recall)
        build_s = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            coarse.save(pathlib.Path(folder))
            num_bytes = (
                sum(p.stat().st_size for p in pathlib.Path(folder).iterdir()) + 2 * rows.size
            )  # and the shards
        approximate = ApproximateIndex(coarse, vectors, chosen)
        effort = {
            "cells": chosen.num_cells,
            "of": coarse.num_cells,
            "candidates": chosen.num_candidates,
        }
        search = lambda q: approximate.search(q, k=10).rows  # noqa: E731
    return (
        {
            "method": method,
            "build_s": round(build_s, 1),
            "bytes_per_row": round(num_bytes / len(rows)),
        }
        | effort
        | times(search, queries, truth)
    )


def effort_of_graph(
    graph: faiss.IndexHNSWFlat, queries: np.ndarray, truth: np.ndarray, recall: float
) -> int:
    """The least of a few beam widths that reaches the recall."""
    for width in (16, 32, 64, 128, 256, 512):
        graph.hnsw.efSearch = width
        if np.mean(graph.search(queries, 1)[1][:, 0] == truth) >= recall:
            return width
    return 1024


def times(
    search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, truth: np.ndarray
) -> dict:
    """Milliseconds of single queries (also of this thread alone: other processes disturb), queries
    per second of batches.
    """
    found = search(queries)[:, 0]
    single = []
    own = []
    for i in range(_NUM_SINGLE):
        began = time.perf_counter()
        began_cpu = time.thread_time()
        search(queries[i : i + 1])
        single.append((time.perf_counter() - began) * 1000)
        own.append((time.thread_time() - began_cpu) * 1000)
    began = time.perf_counter()
    for first in range(0, len(queries), 100):
        search(queries[first : first + 100])
    per_s = len(queries) / (time.perf_counter() - began)
    p50, p99 = np.percentile(single, [50, 99])
    recall = float(np.mean(found == truth))
    numbers = {
        "p50_ms": p50,
        "p99_ms": p99,
        "p50_cpu_ms": np.median(own),
        "p99_cpu_ms": np.percentile(own, 99),
    }
    return (
        {"recall_1": recall}
        | {name: round(float(x), 3) for name, x in numbers.items()}
        | {"qps": round(per_s)}
    )


def cold_start(source: Database, vectors: StoredVectors, folder: pathlib.Path) -> dict:
    """Seconds in a new process: importing, reading the catalogue, opening the index, the first
    search.
    """
    shutil.rmtree(folder, ignore_errors=True)
    database = Database.create(folder, source.model_id)
    with database.writing():
        for first, block in vectors.blocks(_TRACK_ROWS * 2_880):
            starts = range(0, len(block), _TRACK_ROWS)
            database.add(
                [
                    NewTrack(
                        f"{first + i}",
                        f"/{first + i}",
                        f"{first + i}",
                        30.0,
                        block[i : i + _TRACK_ROWS],
                    )
                    for i in starts
                ]
            )
        began = time.perf_counter()
        on_disk.rebuild(database)
        fold_s = time.perf_counter() - began
    runs = [
        [
            float(x)
            for x in subprocess.run(
                [sys.executable, "-c", _COLD, folder], capture_output=True, text=True
            ).stdout.split()
        ]
        for _ in range(3)
    ]
    names = ("import_s", "snapshot_s", "index_s", "first_search_s")
    return {"method": "cold start", "fold_s": round(fold_s, 1)} | {
        name: round(float(x), 3) for name, x in zip(names, np.median(runs, axis=0), strict=True)
    }


if __name__ == "__main__":
    main()
