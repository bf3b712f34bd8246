"""Bits against floats: every way to propose rows of signs, at equal recall on hard queries.

    python -m benchmarks.hard_queries DATASET QUERIES... --out hard.pkl
    python -m benchmarks.bits hard.pkl --rows 100000 1000000

The rows are real ones and copies whose bits are flipped; the queries are windows as they are
searched. Each method proposes candidates, which the stored rows score; it is given the least
effort (cells and candidates) that finds the first hit of exact search often enough, of the
windows where that is of the right track. One thread;
the times are of the processor, one query at a time.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import sys
import time
from typing import Protocol

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from benchmarks.hard_queries import read_hard_queries
from confp_jax.database.vectors import StoredVectors, encode
from confp_jax.index import ExactIndex
from confp_jax.index.approximate import ApproximateIndex, SearchBudget

_FLIPPED = 0.1  # of a copy's bits: a cosine of 0.8
_SHARD_ROWS = 262_144
_TRAINING_ROWS = 50_000
_CELL_SHARES = (0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_CANDIDATES = (50, 100, 200, 400, 800, 1600)
_NUM_TIMED = 50


class Method(Protocol):
    """What proposes rows."""

    num_rows: int
    num_cells: int

    def candidates(self, queries: np.ndarray, *, num: int, num_cells: int) -> np.ndarray: ...


class BinaryFlat:
    """Hamming distance to every row."""

    def __init__(self, bits: UInt8[np.ndarray, "N B"]):
        self._index: faiss.IndexBinary = faiss.IndexBinaryFlat(8 * bits.shape[1])
        self._index.add(bits)
        self.num_rows = len(bits)
        self.num_cells = 1

    def candidates(self, queries: np.ndarray, *, num: int, num_cells: int) -> np.ndarray:
        return self._index.search(np.packbits(queries > 0, axis=1), num)[1]


class BinaryHnsw(BinaryFlat):
    """A graph by Hamming distance; `num_cells` is the width of its beam."""

    def __init__(self, bits: UInt8[np.ndarray, "N B"]):
        self._graph = faiss.IndexBinaryHNSW(8 * bits.shape[1], 24)
        self._graph.hnsw.efConstruction = 80
        self._graph.add(bits)
        self._index = self._graph
        self.num_rows = len(bits)
        self.num_cells = 6400

    def candidates(self, queries: np.ndarray, *, num: int, num_cells: int) -> np.ndarray:
        self._graph.hnsw.efSearch = max(num, num_cells)
        return super().candidates(queries, num=num, num_cells=num_cells)


class BinaryIvf:
    """Hamming distance within the cells whose float centroids are nearest."""

    def __init__(self, bits: UInt8[np.ndarray, "N B"], cells: "Cells"):
        index = faiss.IndexBinaryFlat(8 * bits.shape[1])
        index.add(np.packbits(cells.centroids > 0, axis=1))
        self._index = faiss.IndexBinaryIVF(index, 8 * bits.shape[1], len(cells.centroids))
        self._index.own_fields = False
        self._kept = index
        self._index.is_trained = True
        order = np.argsort(cells.of_row, kind="stable")
        bounds = np.searchsorted(cells.of_row[order], np.arange(len(cells.centroids) + 1))
        for cell, (begin, end) in enumerate(itertools.pairwise(bounds)):
            rows = order[begin:end].astype(np.int64)
            codes = bits[rows]  # kept while the lists copy from them
            self._index.invlists.add_entries(
                cell, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(codes)
            )
        self._index.ntotal = len(bits)
        self._cells = cells
        self.num_rows = len(bits)
        self.num_cells = len(cells.centroids)

    def candidates(self, queries: np.ndarray, *, num: int, num_cells: int) -> np.ndarray:
        self._index.nprobe = num_cells
        nearest = np.argsort(-(queries @ self._cells.centroids.T), axis=1)[:, :num_cells]
        nearest = np.ascontiguousarray(nearest, np.int64)
        far = np.zeros(nearest.shape, np.int32)
        bits = np.packbits(queries > 0, axis=1)
        return self._index.search_preassigned(bits, num, nearest, far)[1]


class FloatIvf:
    """Any inverted lists of Faiss over floats."""

    def __init__(self, index: faiss.IndexIVF, vectors: StoredVectors, quantizer: faiss.Index):
        sample = np.sort(
            np.random.default_rng(0).permutation(len(vectors))[: min(_TRAINING_ROWS, len(vectors))]
        )
        index.train(vectors[sample])
        for _, block in vectors.blocks():
            index.add(block)
        self._index = index
        self._kept = quantizer
        self.num_rows = len(vectors)
        self.num_cells = index.nlist

    def candidates(self, queries: np.ndarray, *, num: int, num_cells: int) -> np.ndarray:
        self._index.nprobe = num_cells
        return self._index.search(queries, num)[1]


class Cells:
    """Centroids of a sample, and the nearest one of every row."""

    def __init__(self, vectors: StoredVectors):
        dim = vectors.shape[1]
        num = round(len(vectors) ** 0.5)
        sample = np.random.default_rng(0).permutation(len(vectors))[:_TRAINING_ROWS]
        kmeans = faiss.Kmeans(dim, num, niter=8, spherical=True, min_points_per_centroid=1)
        kmeans.train(vectors[np.sort(sample)])
        self.centroids = np.asarray(kmeans.centroids)
        self.of_row = np.concatenate(
            [(block @ self.centroids.T).argmax(axis=1) for _, block in vectors.blocks(16_384)]
        )


def main() -> None:
    """Measures each size and prints a line a method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queries", type=pathlib.Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["flat", "ivf", "hnsw", "rabitq", "rabitq_fastscan", "scann", "faiss"],
    )
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--num", type=int, default=400, help="windows that are asked")
    args = parser.parse_args()
    print(f"$ python {' '.join(sys.argv)} ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})")
    faiss.omp_set_num_threads(1)
    hard = read_hard_queries(args.queries)
    windows, tracks = hard.windows(args.num)
    row_tracks = hard.row_tracks()
    for num_rows in args.rows:
        bits = fill(encode(hard.rows, "binary"), num_rows)
        vectors = StoredVectors(
            np.array_split(bits, -(-num_rows // _SHARD_ROWS)), 8 * bits.shape[1]
        )
        truth = ExactIndex(vectors).search(windows, k=1).rows[:, 0]
        real = truth < len(row_tracks)
        is_right = real & (row_tracks[np.where(real, truth, 0)] == tracks)
        print(f"{num_rows} rows; of {len(windows)} windows, exact search finds the track of "
              f"{is_right.mean():.1%}")  # fmt: skip
        for method in args.methods:
            print(
                json.dumps(measure(method, bits, vectors, windows, (truth, is_right), args.recall)),
                flush=True,
            )


def fill(real: UInt8[np.ndarray, "n B"], num_rows: int) -> UInt8[np.ndarray, "N B"]:
    """The real rows, and copies of them with a tenth of the bits flipped."""
    rng = np.random.default_rng(0)
    parts = [real[:num_rows]]
    while (missing := num_rows - sum(map(len, parts))) > 0:
        rows = real[:missing]
        flips = rng.random((len(rows), 8 * rows.shape[1]), np.float32) < _FLIPPED
        parts.append(rows ^ np.packbits(flips, axis=1))
    return np.concatenate(parts)


def build(method: str, bits: np.ndarray, vectors: StoredVectors) -> Method:
    """The method's index of all rows."""
    num_cells = round(len(bits) ** 0.5)
    dim = vectors.shape[1]
    if method in ("flat", "hnsw"):
        return (BinaryFlat if method == "flat" else BinaryHnsw)(bits)
    if method == "ivf":
        return BinaryIvf(bits, Cells(vectors))
    quantizer = faiss.IndexFlatIP(dim)
    arguments = quantizer, dim, num_cells, faiss.METRIC_INNER_PRODUCT
    if method.startswith("rabitq"):
        kind = faiss.IndexIVFRaBitQFastScan if "fast" in method else faiss.IndexIVFRaBitQ
        index = kind(*arguments)
        index.qb = 8
        return FloatIvf(index, vectors, quantizer)
    from confp_jax.index import build_coarse

    return build_coarse(vectors, method)


def measure(
    method: str,
    bits: np.ndarray,
    vectors: StoredVectors,
    windows: Float32[np.ndarray, "Q E"],
    truth: tuple[Int64[np.ndarray, " Q"], Bool[np.ndarray, " Q"]],
    recall: float,
) -> dict:
    """The least effort that reaches the recall, and what a query costs with it."""
    began = time.process_time()
    coarse = build(method, bits, vectors)
    build_s = time.process_time() - began
    best = {"recall": 0.0}
    for share in _CELL_SHARES:
        num_cells = max(1, round(share * coarse.num_cells))
        found = coarse.candidates(windows, num=_CANDIDATES[-1], num_cells=num_cells)
        right = (found == truth[0][:, None])[truth[1]]
        reached = {num: float(right[:, :num].any(axis=1).mean()) for num in _CANDIDATES}
        enough = [num for num in _CANDIDATES if reached[num] >= recall]
        if enough:
            p50 = _p50_cpu_ms(coarse, vectors, windows, SearchBudget(num_cells, enough[0]))
            if p50 < best.get("p50_cpu_ms", math.inf):
                best = {"cells": num_cells, "candidates": enough[0], "recall": reached[enough[0]]}
                best |= {"p50_cpu_ms": p50}
        elif "cells" not in best:
            best = {"recall": reached[_CANDIDATES[-1]]}
        if coarse.num_cells == 1 or ("cells" in best and best["cells"] < num_cells):
            break
    about = {"rows": len(bits), "method": method, "build_cpu_s": round(build_s, 1)}
    return about | {"of_cells": coarse.num_cells} | best


def _p50_cpu_ms(
    coarse: Method, vectors: StoredVectors, windows: np.ndarray, effort: SearchBudget
) -> float:
    index = ApproximateIndex(coarse, vectors, effort)
    took = []
    for window in windows[:_NUM_TIMED]:
        began = time.thread_time()
        index.search(window[None], k=1)
        took.append(1000 * (time.thread_time() - began))
    return round(float(np.median(took)), 2)


if __name__ == "__main__":
    main()
