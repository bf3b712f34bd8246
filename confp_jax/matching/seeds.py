"""From segment hits to lines: the nearest rows of all windows vote for where a track runs."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from confp_jax.matching.query_windows import QueryWindows
from confp_jax.matching.searchable import Reference

COHORT_SIZE = 10  # tracks that the best one is compared with
_NUM_TRACKS = 64  # that are scored: the best, its cohort, and some more, as votes misjudge
_NUM_REPEATING, _NUM_PLACES = 8, 4  # of the first tracks, so many lines each are scored
_HITS_PER_QUERY = 1_200  # of all windows together
_HITS_PER_DENSE_QUERY = 2_400
_MIN_HITS = 50
_MAX_HITS = 12_800
_SLOWED = (0.5, 0.545, 0.595, 0.645, 0.7, 0.77, 0.845, 0.92)
_TEMPOS = np.array([*_SLOWED, 1.0, 1.08, 1.17, 1.27, 1.38, 1.5, 1.63, 1.78, 1.94])
_BIN_S = 0.6
# What a tempo must earn: music is rarely played at another one, and a free tempo fits noise. By the
# square of its logarithm up to here, in proportion beyond: a square would pull half and double
# tempo by 4 %.
_TEMPO_COST, _SQUARED_TEMPO = 0.25, 0.38


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One line for each track: it passes `anchors_s` (centre of a window in the track) at the
    query's middle.
    """

    tracks: Int64[np.ndarray, " T"]
    tempos: Float64[np.ndarray, " T"]
    anchors_s: Float64[np.ndarray, " T"]


def seed_lines(windows: QueryWindows, reference: Reference, without: Sequence[int]) -> Seeds:
    """Returns the lines with most votes of each track.

    A hit's vote is what it stands out by over its window's last hit.
    """
    searched = windows.searched
    num = len(searched)
    window, rows, votes = _hits(windows.vectors[searched], reference, without)
    tracks = reference.snapshot.row_tracks[rows].astype(np.int64)
    times_s = (rows - reference.first_rows[tracks]) * reference.hop_s
    times_s += reference.first_middles_s[tracks]
    from_middle_s = windows.from_middle_s[searched][window]
    found: list[tuple[np.ndarray, ...]] = []
    for tempo in _TEMPOS[_is_within(np.log(_TEMPOS), windows.log_tempos)]:
        anchors_s = times_s - tempo * from_middle_s
        cells = tracks * (1 << 32) + np.floor(anchors_s / _BIN_S).astype(np.int64) + (1 << 31)
        cell, inverse = np.unique(cells, return_inverse=True)
        ballots, ballot = np.unique(inverse * num + window, return_inverse=True)
        loudest = np.zeros(len(ballots))
        np.maximum.at(
            loudest, ballot, votes
        )  # a window has one vote in a cell, however many of its rows it holds
        total = np.bincount(ballots // num, weights=loudest)
        total *= 1 - tempo_cost(np.log(tempo))
        mean_s = np.bincount(inverse, weights=votes * anchors_s) / np.bincount(
            inverse, weights=votes
        )
        found.append((cell >> 32, total, mean_s, np.full(len(cell), tempo)))
    cell_tracks, total, anchors_s, tempos = (
        np.concatenate(parts) for parts in zip(*found, strict=True)
    )
    order = np.argsort(-total, kind="stable")
    best = order[_chosen(cell_tracks[order])]
    return Seeds(cell_tracks[best], tempos[best], anchors_s[best])


def tempo_cost(log_tempos: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Returns by how much more similar a line at each tempo must be than one at the original's."""
    size = np.abs(log_tempos)
    near = np.minimum(size, _SQUARED_TEMPO)
    return _TEMPO_COST * (near**2 + 2 * _SQUARED_TEMPO * (size - near))


def _is_within(
    values: Float64[np.ndarray, " N"], limits: tuple[float, float]
) -> Bool[np.ndarray, " N"]:
    return (values >= limits[0]) & (values <= limits[1])


def _chosen(tracks: Int64[np.ndarray, " C"]) -> Int64[np.ndarray, " S"]:
    """Of cells with most votes first, by track: one of each of `_NUM_TRACKS`, and the first tracks'
    next ones: music repeats.
    """
    by_track = np.argsort(tracks, kind="stable")
    starts = np.flatnonzero(np.diff(tracks[by_track], prepend=-1))
    nth = np.empty(len(tracks), np.int64)  # of its track
    nth[by_track] = np.arange(len(tracks)) - np.repeat(starts, np.diff(starts, append=len(tracks)))
    _, first, inverse = np.unique(tracks, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[inverse]  # of its track among the tracks
    return np.flatnonzero(
        (place < _NUM_TRACKS) & (nth == 0) | (place < _NUM_REPEATING) & (nth < _NUM_PLACES)
    )


def _hits(
    vectors: Float32[np.ndarray, "W E"], reference: Reference, without: Sequence[int]
) -> tuple[Int64[np.ndarray, " H"], Int64[np.ndarray, " H"], Float64[np.ndarray, " H"]]:
    """Returns window, row and vote of every hit, with enough tracks among them for a cohort."""
    wanted = _HITS_PER_DENSE_QUERY if reference.query_phases > 1 else _HITS_PER_QUERY
    k, num_rows = max(_MIN_HITS, wanted // len(vectors)), len(reference.snapshot.vectors)
    while True:
        hits = reference.index.search(vectors, k=k)
        tracks = reference.snapshot.row_tracks[hits.rows]
        used = (hits.rows >= 0) & ~np.isin(tracks, without)
        if k >= num_rows or k >= _MAX_HITS or len(np.unique(tracks[used])) > COHORT_SIZE:
            break
        k *= 8  # one long or repetitive track fills the hits: the decision needs a cohort too
    least = np.where(hits.rows >= 0, hits.scores, np.inf).min(axis=1, keepdims=True)
    window, place = np.nonzero(used)
    return (
        window,
        hits.rows[window, place],
        (hits.scores - least)[window, place].astype(np.float64) + 1e-3,
    )
