"""How much must be searched so that the first hit is the exact one often enough: measured on the
rows themselves.
"""

import numpy as np
from jaxtyping import Float32

from confp_jax.index.approximate import SearchBudget
from confp_jax.index.exact import ExactIndex
from confp_jax.index.protocol import CandidateIndex, Index, Vectors

DEFAULT_RECALL = 0.99
_NUM_QUERIES = 500
# The cosine of the most distorted excerpts that are still found: with noise at 0 dB, 5 % of them
# are below 0.6 at 128 dimensions. Chance similarities shrink with the root of the dimensions, and
# so does the least cosine that is found.
_QUERY_COSINE = 0.55
_QUERY_DIMENSIONS = 128
_MAX_TIES = 16
_CANDIDATES = (50, 100, 200, 400, 800, 1600)
_CELL_SHARES = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def sample_queries(
    vectors: Vectors, *, num: int = _NUM_QUERIES, seed: int = 0
) -> Float32[np.ndarray, "Q E"]:
    """Returns rows with noise added, as distorted excerpts are; rows of silence are left out."""
    rng = np.random.default_rng(seed)
    rows = vectors[np.sort(rng.choice(len(vectors), min(num, len(vectors)), replace=False))]
    rows = rows[rows.any(axis=1)]
    noise = rng.normal(size=rows.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosine = _QUERY_COSINE * min(1.0, float(np.sqrt(_QUERY_DIMENSIONS / max(1, rows.shape[1]))))
    queries = (
        cosine * rows / np.linalg.norm(rows, axis=1, keepdims=True) + np.sqrt(1 - cosine**2) * noise
    )
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def tune(coarse: CandidateIndex, vectors: Vectors, *, recall: float) -> SearchBudget:
    """Returns the least effort whose recall of the first hit exceeds the target, with a third of
    the misses to spare.

    The most there is (every cell, 1,600 candidates) where the target cannot be reached;
    `SearchBudget.recall` then says so.
    """
    queries = sample_queries(vectors)
    if not len(queries):
        return SearchBudget(1, _CANDIDATES[0], 1.0)
    truth = ExactIndex(vectors).search(queries, k=_MAX_TIES)
    best = np.where(
        truth.scores >= truth.scores[:, :1] - 1e-6, truth.rows, -2
    )  # music that repeats has equal rows
    wanted = recall + (1 - recall) / 3
    effort = SearchBudget(coarse.num_cells, _CANDIDATES[-1])
    for share in _CELL_SHARES:
        num_cells = max(1, round(share * coarse.num_cells))
        found = coarse.candidates(queries, num=_CANDIDATES[-1], num_cells=num_cells)
        right = (found[:, :, None] == best[:, None, :]).any(axis=2)
        for num in _CANDIDATES:
            effort = SearchBudget(num_cells, num, float(right[:, :num].any(axis=1).mean()))
            if effort.recall >= wanted:
                return effort
    return effort


def measure_recall(index: Index, vectors: Vectors) -> float:
    """Share of noisy rows whose first hit is the exact one; equal scores count as right."""
    queries = sample_queries(vectors, seed=1)
    if not len(queries):
        return 1.0
    exact = ExactIndex(vectors).search(queries, k=1)
    found = index.search(queries, k=1)
    return float(((found.rows == exact.rows) | (found.scores >= exact.scores - 1e-6)).mean())
