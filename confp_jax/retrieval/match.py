"""From segment hits to ranked (track, offset), and the decision whether the best one counts.

A query of W windows, one hop apart, matches a track where its windows run along consecutive rows: the score of a start row is
the mean cosine along that diagonal, taken from the stored vectors. The decision looks at the field of rivals, not at the
cosine alone: the best track's score must exceed the mean of the next tracks' by a margin (FACTS, "When to say unknown").
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.retrieval.database import Snapshot
from confp_jax.retrieval.embed import Decision
from confp_jax.retrieval.index import Index

_HITS_PER_WINDOW = 200  # enough for a dozen distinct tracks
_MAX_HITS = 12_800
_MAX_DIAGONALS = 512
NUM_RIVALS = 10


@dataclasses.dataclass(frozen=True)
class Match:
    """One track, where in it the query begins, and how similar it is along the way (mean cosine)."""

    track: int  # index into the snapshot's tracks
    offset_s: float  # below 0 where the query begins before the track
    score: float


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Distinct tracks, best first, and the best one's margin over the field."""

    matches: list[Match]
    margin: float


def rank(query: Float32[np.ndarray, "W E"], snapshot: Snapshot, index: Index, *, hop_s: float, decision: Decision) -> Ranking:
    """All tracks that any window came near to, best first."""
    if not len(snapshot.vectors) or not query.any():
        return Ranking([], 0.0)
    starts, tracks = _candidate_diagonals(query, index, snapshot)
    scores = diagonal_scores(query, starts, snapshot, tracks=tracks)
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(tracks[order], return_index=True)
    best = order[np.sort(first)]
    matches = [_refined(query, int(starts[i]), int(tracks[i]), float(scores[i]), snapshot, hop_s) for i in best]
    return Ranking(matches, margin(scores[best], decision))


def margin(track_scores: Float32[np.ndarray, " T"], decision: Decision) -> float:
    """By how much the best of distinct tracks' scores (best first) exceeds the mean of the next ten.

    In a small database the field is thin; then the calibrated `rival_floor` stands for it.
    """
    rivals = track_scores[1 : 1 + NUM_RIVALS]
    field = max(float(rivals.mean()) if len(rivals) else 0.0, decision.rival_floor)
    return float(track_scores[0]) - field


def diagonal_scores(
    query: Float32[np.ndarray, "W E"],
    starts: Int64[np.ndarray, " C"],
    snapshot: Snapshot,
    *,
    tracks: Int64[np.ndarray, " C"] | None = None,
) -> Float32[np.ndarray, " C"]:
    """Mean cosine of the query's windows with the rows from each start on; a window outside the track counts 0.

    `tracks` names each diagonal's track (default: the start row's). A start may lie before its track's first row.
    """
    scores = np.zeros(len(starts), np.float32)
    last_row = len(snapshot.vectors) - 1
    tracks = snapshot.row_tracks[starts] if tracks is None else tracks
    for i, vector in enumerate(query):
        rows = np.clip(starts + i, 0, last_row)
        inside = (starts + i == rows) & (snapshot.row_tracks[rows] == tracks)
        scores += np.where(inside, snapshot.vectors[rows] @ vector, 0.0)
    return scores / max(1, int(query.any(axis=1).sum()))


def _candidate_diagonals(
    query: np.ndarray, index: Index, snapshot: Snapshot
) -> tuple[Int64[np.ndarray, " C"], Int64[np.ndarray, " C"]]:
    """Start rows and tracks of the diagonals that hits lie on, the most promising `_MAX_DIAGONALS`."""
    k, num_rows = _HITS_PER_WINDOW, len(snapshot.vectors)
    while True:
        hits = index.search(query, k=k)
        window, place = np.nonzero(hits.rows >= 0)
        rows, scores = hits.rows[window, place], hits.scores[window, place]
        tracks = snapshot.row_tracks[rows].astype(np.int64)
        if k >= num_rows or k >= _MAX_HITS or len(np.unique(tracks)) > NUM_RIVALS:
            break
        k *= 8  # one long or repetitive track fills the hits: the decision needs its rivals too
    pairs = np.stack([rows - window, tracks], axis=1)
    pairs, number = np.unique(pairs, axis=0, return_inverse=True)
    starts, tracks = pairs[:, 0], pairs[:, 1]
    if len(query) == 1 or len(starts) <= _MAX_DIAGONALS:
        return starts, tracks
    votes = np.bincount(number.reshape(-1), weights=np.maximum(scores, 0.0))
    chosen = np.sort(np.argpartition(votes, -_MAX_DIAGONALS)[-_MAX_DIAGONALS:])
    return starts[chosen], tracks[chosen]


def _refined(query: np.ndarray, start: int, number: int, score: float, snapshot: Snapshot, hop_s: float) -> Match:
    """The offset between two fingerprints: the vertex of the parabola through the best start and its neighbours."""
    track = snapshot.tracks[number]
    row = start - track.first_row
    shift = 0.0
    if 0 < row < track.num_rows - 1:
        neighbours = np.array([start - 1, start + 1])
        before, after = diagonal_scores(query, neighbours, snapshot, tracks=np.array([number, number]))
        curvature = before - 2 * score + after
        if curvature < 0:
            shift = float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5))
    return Match(number, (row + shift) * hop_s, score)
