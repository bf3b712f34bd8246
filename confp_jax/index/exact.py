"""Exact search: one matrix product. The twin that every approximate index is tested against."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from confp_jax.database.vectors import StoredVectors
from confp_jax.index.protocol import Hits, Vectors

_BLOCK_SCORES = 1 << 24  # 64 MiB of scores at a time
_IN_MEMORY_ROWS = 100_000  # stored vectors up to here are decoded once, beyond at every search


class ExactIndex:
    """Inner products with every row."""

    def __init__(self, vectors: Vectors):
        small = isinstance(vectors, StoredVectors) and len(vectors) <= _IN_MEMORY_ROWS
        self._vectors = np.asarray(vectors) if small else vectors

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """Returns the `k` (or all, if fewer) rows of greatest inner product; ties go to the lower
        row.
        """
        queries = np.asarray(queries, np.float32)  # double precision would convert every row
        k = min(k, len(self._vectors))
        hits = Hits(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
        for first, block in self._blocks() if k else ():
            hits = merge(hits, _search_block(queries, block, min(k, len(block)), first), k=k)
        return hits

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        if isinstance(self._vectors, StoredVectors):
            return self._vectors.blocks()
        return iter([(0, self._vectors)])


def merge(one: Hits, other: Hits, *, k: int) -> Hits:
    """Returns the best `k` of both; of equals, `one`'s come first."""
    if not one.rows.shape[1]:
        return Hits(other.rows[:, :k], other.scores[:, :k])
    rows = np.concatenate([one.rows, other.rows], axis=1)
    scores = np.concatenate([one.scores, other.scores], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Hits(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))


def _search_block(
    queries: np.ndarray, vectors: Float32[np.ndarray, "N E"], k: int, first_row: int
) -> Hits:
    rows = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    step = max(1, _BLOCK_SCORES // len(vectors))
    for first in range(0, len(queries), step):
        product = queries[first : first + step] @ vectors.T
        best = _best_rows(product, k)
        found = np.take_along_axis(product, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        rows[first : first + step] = np.take_along_axis(best, order, axis=1) + first_row
        scores[first : first + step] = np.take_along_axis(found, order, axis=1)
    return Hits(rows, scores)


def _best_rows(product: Float32[np.ndarray, "Q N"], k: int) -> np.ndarray:
    """Returns each query's k rows of greatest score, by row; where several tie for the last places,
    the lowest rows.
    """
    best = np.sort(np.argpartition(product, -k, axis=1)[:, -k:], axis=1)
    last = np.take_along_axis(product, best, axis=1).min(axis=1, keepdims=True)
    for query in np.flatnonzero((product >= last).sum(axis=1) > k):
        above = np.flatnonzero(product[query] > last[query])
        equal = np.flatnonzero(product[query] == last[query])
        best[query] = np.sort(np.concatenate([above, equal[: k - len(above)]]))
    return best
