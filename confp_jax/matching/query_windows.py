"""What a query is searched by: its windows, and where they lie in it."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from confp_jax.fingerprint.query import Query

# Tempos that a query may have, as logarithms either way. All of them are tried with windows of the
# conformer, which hears the tempo; those that a projection hears too differ by a clock at most.
# A fixed tempo leaves fewer tracks in the cohort that fit by chance (docs/research/experiments.md).
_FREE, _STEADY, _STILL = (np.log(0.48), np.log(2.08)), (-0.02, 0.02), (0.0, 0.0)


def centres_s(query: Query) -> Float64[np.ndarray, " W"]:
    """Returns where in the query the middle of each window lies."""
    from_middle = np.arange(len(query.vectors)) - (len(query.vectors) - 1) / 2
    return middle_s(query) + from_middle * query.hop_s


def middle_s(query: Query) -> float:
    """Returns the middle of the query, in seconds. The anchor of a line is the track's moment
    there.
    """
    return query.duration_s / 2


@dataclasses.dataclass(frozen=True)
class QueryWindows:
    """What a query is searched by."""

    vectors: Float32[np.ndarray, "W E"]
    loud: Bool[np.ndarray, " W"]
    from_middle_s: Float64[np.ndarray, " W"]  # of the query to the middle of each
    needed: Bool[
        np.ndarray, " W"
    ]  # full of the query: where the track has nothing there, something of the query is missing
    log_tempos: tuple[float, float]  # the least and the greatest that is tried
    num_phases: int = 1  # so many begin within a hop; then they lie in order of their beginning

    @property
    def is_steady(self) -> bool:
        """Returns whether the windows are dense, and the tempo is fixed."""
        return self.num_phases > 1 and self.log_tempos != _FREE

    @property
    def searched(self) -> Int64[np.ndarray, " S"]:
        """Those whose nearest rows are searched: of dense ones every second is enough to find a
        line; all, if sound begins so late that only others hear it.
        """
        step = max(1, self.num_phases // 2)
        spaced = self.loud & (np.arange(len(self.loud)) % step == 0)
        return np.flatnonzero(spaced if spaced.any() else self.loud)


def query_windows(query: Query) -> QueryWindows:
    """Returns the windows of a query, dense ones in the order of their beginning."""
    if len(query.between):
        return _dense_windows(query)
    num_edge_windows, num = query.num_edge_windows, len(query.vectors)
    vectors = (
        np.concatenate([query.edge_windows[0], query.vectors, query.edge_windows[1]])
        if num_edge_windows
        else query.vectors
    )
    place = np.arange(-num_edge_windows, num + num_edge_windows)
    return QueryWindows(
        vectors,
        np.any(vectors != 0, axis=1),
        (place - (num - 1) / 2) * query.hop_s,
        (place >= 0) & (place < num) & (not query.is_partial),
        _tempo_range(query),
    )


def _dense_windows(query: Query) -> QueryWindows:
    num_phases, num = 1 + len(query.between), len(query.vectors)
    vectors = (
        np.concatenate([query.vectors[None], query.between])
        .swapaxes(0, 1)
        .reshape(num_phases * num, -1)
    )
    from_middle_s = (np.arange(len(vectors)) / num_phases - (num - 1) / 2) * query.hop_s
    loud = np.any(vectors != 0, axis=1)
    needed = loud & (not query.is_partial)
    return QueryWindows(vectors, loud, from_middle_s, needed, _tempo_range(query), num_phases)


def _tempo_range(query: Query) -> tuple[float, float]:
    if not query.tells_tempo:
        return _STILL
    return _FREE if query.by_conformer is None else _STEADY
