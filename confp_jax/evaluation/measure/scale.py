"""Hits and time against the size of the index: the queries' own tracks, all real ones, then
synthetic distractors.

A distractor is near a fingerprint x of a track without queries: x + (u - v) / 2, scaled to a unit
vector, where u and v are fingerprints drawn from those tracks. Its cosine with x is about 0.8, and
it differs from x in the directions in which music differs. Real music of another kind may be easier
or harder to distinguish.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.evaluation.measure.query_results import Outcomes, Searched
from confp_jax.index import ExactIndex, Index, build_index

_SPREAD = np.float32(0.5)
_BLOCK_ROWS = 100_000
_TIMED_QUERIES = 100


@dataclasses.dataclass(frozen=True)
class ScaleRow:
    """One search ("exact" or "index") in one size of index: top-1 shares by condition."""

    num_rows: int
    num_synthetic: int
    search: str
    track: dict[str, float]
    exact: dict[str, float]
    query_ms: float  # median, one query at a time
    build_s: float


def scale_rows(
    searched: Searched, measured: Mapping[str, Outcomes], distractors: Sequence[int], *, seed: int
) -> list[ScaleRow]:
    """Every size by exact search and by the index that a database of that size has.

    Args:
      distractors: numbers of fingerprints to fill the index up to; those below the real ones are
        left out.
    """
    reference = searched.evaluation.reference
    vectors = np.asarray(reference.snapshot.vectors, np.float32)
    asked = np.unique(np.concatenate([one.track_ids for one in measured.values()]))
    own = np.isin(searched.evaluation.track_ids[reference.snapshot.row_tracks], asked)
    order = np.concatenate([np.flatnonzero(own), np.flatnonzero(~own)])
    sizes = [int(own.sum()), len(vectors)]
    if not own.all():
        sizes += sorted(size for size in distractors if size > len(vectors))
    rows = np.empty((sizes[-1], vectors.shape[1]), np.float32)
    rows[: len(vectors)] = vectors[order]
    fill_up(rows, first_other=sizes[0], num_real=len(vectors), seed=seed)
    out = []
    for size in dict.fromkeys(sizes):
        for search, build in (("exact", ExactIndex), ("index", build_index)):
            began = time.perf_counter()
            index = build(rows[:size])
            build_s = time.perf_counter() - began
            found = {name: _again(index, one, searched, order) for name, one in measured.items()}
            track, exact = (
                {name: float(one.hits(kind, k=1).mean()) for name, one in found.items()}
                for kind in ("track", "exact")
            )
            num_synthetic = max(0, size - len(vectors))
            out.append(
                ScaleRow(
                    size,
                    num_synthetic,
                    search,
                    track,
                    exact,
                    _median_ms(index, measured),
                    round(build_s, 1),
                )
            )
    return out


def fill_up(
    rows: Float32[np.ndarray, "N E"], *, first_other: int, num_real: int, seed: int
) -> None:
    """Writes distractors behind the first `num_real` rows; those from `first_other` on are of
    tracks that no query is of.
    """
    rng = np.random.default_rng(seed)
    for first in range(num_real, len(rows), _BLOCK_ROWS):
        block = rows[first : first + _BLOCK_ROWS]
        x, u, v = rng.integers(first_other, num_real, size=(3, len(block)))
        block[:] = rows[x] + _SPREAD * (rows[u] - rows[v])
        block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-9)


def _again(
    index: Index, one: Outcomes, searched: Searched, order: Int64[np.ndarray, " N"]
) -> Outcomes:
    """Returns the outcomes with this index's first hits; a distractor belongs to no track."""
    found = index.search(one.queries, k=1).rows
    is_real = (found >= 0) & (found < len(order))
    tracks, offsets_s = searched.places(np.where(is_real, order[np.where(is_real, found, 0)], -1))
    return dataclasses.replace(one, exact_tracks=tracks, exact_s=offsets_s)


def _median_ms(index: Index, measured: Mapping[str, Outcomes]) -> float:
    queries = np.concatenate([one.queries for one in measured.values()])[:: len(measured)][
        :_TIMED_QUERIES
    ]
    times = []
    for query in queries:
        began = time.perf_counter()
        index.search(query[None], k=1)
        times.append(1000 * (time.perf_counter() - began))
    return round(float(np.median(times)), 3)
