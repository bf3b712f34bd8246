"""Exact search: one matrix product. The twin that every approximate index is tested against."""

import numpy as np
from jaxtyping import Float32

from confp_jax.retrieval.index.protocol import Hits

_BLOCK_SCORES = 1 << 24  # 64 MiB of scores at a time


class ExactIndex:
    """Inner products with every row."""

    def __init__(self, vectors: Float32[np.ndarray, "N E"]):
        self._vectors = vectors

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """The `k` (or all, if fewer) rows of greatest inner product; ties go to the lower row."""
        k = min(k, len(self._vectors))
        rows = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        step = max(1, _BLOCK_SCORES // max(1, len(self._vectors)))
        for first in range(0, len(queries), step):
            product = queries[first : first + step] @ self._vectors.T
            best = _best_rows(product, k) if k else rows[first : first + step]
            found = np.take_along_axis(product, best, axis=1)
            order = np.argsort(-found, axis=1, kind="stable")
            rows[first : first + step] = np.take_along_axis(best, order, axis=1)
            scores[first : first + step] = np.take_along_axis(found, order, axis=1)
        return Hits(rows, scores)


def _best_rows(product: Float32[np.ndarray, "Q N"], k: int) -> np.ndarray:
    """Each query's k rows of greatest score, by row; where several tie for the last places, the lowest rows."""
    best = np.sort(np.argpartition(product, -k, axis=1)[:, -k:], axis=1)
    last = np.take_along_axis(product, best, axis=1).min(axis=1, keepdims=True)
    for query in np.flatnonzero((product >= last).sum(axis=1) > k):
        above, equal = np.flatnonzero(product[query] > last[query]), np.flatnonzero(product[query] == last[query])
        best[query] = np.sort(np.concatenate([above, equal[: k - len(above)]]))
    return best
