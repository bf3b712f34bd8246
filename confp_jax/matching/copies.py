"""Which of the tracks that a query resembles are one recording, at the same place."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from confp_jax.matching.searchable import Reference

# The part of the way from the usual cosine of two tracks to 1 that the cosine of copies covers.
# Measured on 12 copies of 4 tracks (other codecs, other beginnings) among 24: copies 0.87 and more,
# others 0.53 and less. For models with dense queries: copies 0.20 and more (99 % of them 0.23),
# others 0.23 and less (99.9 % of them 0.21).
_SAME = 0.75
_DENSE_SAME = 0.24
_LEAST_SHARE = 0.75  # of the first track's score
_NUM_COMPARED = 8  # rows, along the query
_LEAST_HALF_S = 0.6


def same_as_first(
    reference: Reference,
    tracks: Int64[np.ndarray, " T"],
    scores: Float32[np.ndarray, " T"],
    middles_s: Float64[np.ndarray, " T"],
    tempos: Float64[np.ndarray, " T"],
    *,
    length_s: float,
) -> Bool[np.ndarray, " T"]:
    """Returns which tracks hold the recording that the first one does, itself included.

    Args:
      reference: what was searched.
      tracks: the first one and those to compare it with.
      scores: of each; one much below the first's is no copy.
      middles_s: where each track is at the query's middle.
      tempos: of the query, for each.
      length_s: of the query.
    """
    same = np.zeros(len(tracks), bool)
    same[:1] = True
    likely = np.flatnonzero(scores >= _LEAST_SHARE * scores[0])[1:]
    half_s = max((length_s - reference.segment_s) / 2, _LEAST_HALF_S)
    own, from_middle_s = _rows_near(reference, int(tracks[0]), middles_s[0], half_s * tempos[0])
    usual = reference.usual_cosine
    part = _DENSE_SAME if reference.query_phases > 1 else _SAME
    for place in likely:
        tempo = tempos[place] / tempos[0]
        times_s = middles_s[place] + tempo * from_middle_s
        rows, inside = _between_rows(reference, int(tracks[place]), times_s)
        if inside.any():
            cosine = float((own * rows).sum(axis=1)[inside].mean())
            same[place] = cosine >= usual + part * (1 - usual)
    return same


def _rows_near(
    reference: Reference, track: int, middle_s: float, half_s: float
) -> tuple[Float32[np.ndarray, "R E"], Float64[np.ndarray, " R"]]:
    """Returns some stored rows of a track around a moment, and how far from it each lies."""
    first_s = reference.first_middles_s[track]
    last = reference.num_rows[track] - 1
    wanted_s = np.linspace(middle_s - half_s, middle_s + half_s, _NUM_COMPARED)
    rows = np.unique(np.clip(np.round((wanted_s - first_s) / reference.hop_s), 0, last))
    rows = rows.astype(np.int64)
    stored = reference.snapshot.vectors[reference.first_rows[track] + rows].astype(np.float32)
    return stored, first_s + rows * reference.hop_s - middle_s


def _between_rows(
    reference: Reference, track: int, times_s: Float64[np.ndarray, " R"]
) -> tuple[Float32[np.ndarray, "R E"], Bool[np.ndarray, " R"]]:
    """Returns what lies between the two rows around each moment of a track, and whether it is in
    it.
    """
    place = (times_s - reference.first_middles_s[track]) / reference.hop_s
    last = reference.num_rows[track] - 1
    inside = (place >= -0.5) & (place <= last + 0.5)
    row = np.clip(np.floor(place), 0, last).astype(np.int64)
    part = np.clip(place - row, 0, 1).astype(np.float32)[:, None]
    first = reference.first_rows[track] + row
    following = first + (row < last)
    vectors = reference.snapshot.vectors
    mixed = (1 - part) * vectors[first].astype(np.float32)
    mixed += part * vectors[following].astype(np.float32)
    return mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9), inside
