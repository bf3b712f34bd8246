"""Approximate search: compressed vectors propose rows, the stored vectors score them exactly.

The rows that a compressed index was built from need not be the rows that there are now: those
removed since are passed over, those added since are searched exactly and merged, so that both show
at once.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.index.exact import ExactIndex, merge
from confp_jax.index.protocol import CandidateSource, Hits, Vectors, are_signs

# The last of those that compressed vectors put first are not the best by the stored ones; signs are
# compressed without loss.
_PROPOSED_PER_HIT = 2
_PROPOSED_PER_HIT_OF_SIGNS = 1
_NUM_LOOKED_AT = 64  # rows, to tell signs
_BLOCK_VALUES = 1 << 24  # 64 MiB of candidates' vectors at a time


@dataclasses.dataclass(frozen=True)
class SearchBudget:
    """How much is searched, and the recall of the first hit that was measured with it."""

    num_cells: int
    num_candidates: int
    recall: float = 0.0


class ApproximateIndex:
    """Nearest neighbours by inner product, approximately; scores are exact.

    Args:
      coarse: the compressed vectors.
      vectors: the rows that there are now.
      effort: how much is searched.
      rows: for each of the coarse index's rows, which it is now, -1 if it was removed; None: the
        same.
    """

    def __init__(
        self,
        coarse: CandidateSource,
        vectors: Vectors,
        effort: SearchBudget,
        rows: Int64[np.ndarray, " G"] | None = None,
    ):
        self._coarse = coarse
        self._vectors = vectors
        self._rows = rows
        self._effort = effort
        self._live_share = 1.0
        looked_at = np.asarray(vectors[:_NUM_LOOKED_AT], np.float32)
        heard = looked_at[looked_at.any(axis=1)]
        signs = len(heard) and are_signs(heard)
        self._per_hit = _PROPOSED_PER_HIT_OF_SIGNS if signs else _PROPOSED_PER_HIT
        self._tail_rows = np.zeros(0, np.int64)
        if rows is not None:
            live = rows >= 0
            self._live_share = max(float(live.mean()), 0.1)
            folded = np.zeros(len(vectors), bool)
            folded[rows[live]] = True
            self._tail_rows = np.flatnonzero(~folded)
        self._tail = ExactIndex(vectors[self._tail_rows]) if len(self._tail_rows) else None

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """Returns the `k` (or all, if fewer) rows of greatest inner product.

        Raises:
          ValueError: a query is not finite.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if not np.isfinite(queries).all():
            raise ValueError("a query contains NaN or infinite values")
        k = min(k, len(self._vectors))
        if not len(queries) or not k:
            return Hits(
                np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
            )
        wanted = max(self._per_hit * k, self._effort.num_candidates)
        num = math.ceil(wanted / self._live_share)  # removed rows take their part of the places
        found = self._coarse.candidates(queries, num=num, num_cells=self._effort.num_cells)
        if self._rows is not None:
            found = np.where(found >= 0, self._rows[found], -1)
        hits = _score(queries, found, self._vectors, k)
        if self._tail is None:
            return hits
        tail = self._tail.search(queries, k=k)
        return merge(hits, Hits(self._tail_rows[tail.rows], tail.scores), k=k)


def _score(queries: np.ndarray, found: Int64[np.ndarray, "Q P"], vectors: Vectors, k: int) -> Hits:
    """Returns the best k of each query's candidates by their stored vectors."""
    scores = np.empty(found.shape, np.float32)
    step = max(1, _BLOCK_VALUES // (found.shape[1] * queries.shape[1]))
    for first in range(0, len(queries), step):
        candidates = vectors[np.maximum(found[first : first + step], 0)]
        scores[first : first + step] = np.einsum(
            "qpe,qe->qp", candidates, queries[first : first + step], optimize=True
        )
    scores[found < 0] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    rows = np.take_along_axis(found, order, axis=1)
    best = np.take_along_axis(scores, order, axis=1)
    missing = k - rows.shape[1]
    if missing > 0:
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
        best = np.pad(best, ((0, 0), (0, missing)), constant_values=-np.inf)
    return Hits(rows, best)
