"""Where a section that two recordings share begins and ends, more exactly than a search tells."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Float64

from confp_jax.fingerprint.query import Query
from confp_jax.matching.spans import Span

_REACH_ROWS = 6  # either side of an edge: as far off as the search may be
_STEADY = 0.02  # ln tempo: a projection hears no other tempo, its cosines show no edge then
_LEAST_ROWS = 4  # of a section: fewer do not show how alike its inside is


def with_exact_edges(span: Span, query: Query, rows: Float32[np.ndarray, "M E"]) -> Span:
    """Returns a span whose edges lie where a window is half as alike as those inside are: there it
    holds as much of the section as of what lies around it. Where a recording begins or ends in the
    section, so does the section. One that is played faster or slower stays as it is.

    Args:
      span: of the query, in one other recording.
      query: one recording.
      rows: what is stored of the other, as far apart as the query's windows.
    """
    if query.is_partial or abs(np.log(span.tempo)) > _STEADY:
        return span
    times_s, cosines = _along(span, query, rows)
    inside = np.flatnonzero((times_s >= span.query_s) & (times_s <= span.query_s + span.length_s))
    if len(inside) < _LEAST_ROWS:
        return span
    half = float(np.median(cosines[inside])) / 2
    middle = int(inside[len(inside) // 2])
    begin_s = -_edge_s(-times_s[middle::-1], cosines[middle::-1], half, middle - int(inside[0]))
    end_s = _edge_s(times_s[middle:], cosines[middle:], half, int(inside[-1]) - middle)
    begin_s -= _missing_s(begin_s, times_s[0], query)
    end_s += _missing_s(end_s, times_s[-1], query)
    track_s = span.track_s + span.tempo * (begin_s - span.query_s)
    late_s = max(0.0, -track_s / span.tempo, -begin_s)
    length_s = end_s - begin_s - late_s
    moved = {"query_s": begin_s + late_s, "track_s": max(track_s + span.tempo * late_s, 0.0)}
    return dataclasses.replace(span, length_s=length_s, **moved)


def _along(
    span: Span, query: Query, rows: Float32[np.ndarray, "M E"]
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, " R"]]:
    """Returns the moment of the query at each row along the span's line, and the cosine of the
    window that lies nearest to it.
    """
    phases = [query.vectors, *query.between]
    windows = np.stack(phases, axis=1).reshape(-1, query.vectors.shape[1])
    step_s = query.hop_s * len(query.vectors) / len(windows)
    middle_s = query.segment_s / 2
    rows_s = np.arange(len(rows)) * query.hop_s + middle_s
    times_s = span.query_s + (rows_s - span.track_s) / span.tempo
    nearest = np.round((times_s - middle_s) / step_s).astype(np.int64)
    there = np.flatnonzero((nearest >= 0) & (nearest <= len(windows) - 1 - len(query.between)))
    cosines = (windows[nearest[there]] * rows[there]).sum(axis=1, dtype=np.float64)
    return times_s[there], cosines


def _edge_s(
    times_s: Float64[np.ndarray, " R"], cosines: Float64[np.ndarray, " R"], half: float, last: int
) -> float:
    """Returns the moment when the cosines, from inside on, fall below `half` for good: near row
    `last`, where the rows so far are above it most.
    """
    near = slice(max(last - _REACH_ROWS, 0), last + _REACH_ROWS + 1)
    gained = np.cumsum(cosines - half)[near]
    row = near.start + int(np.argmax(gained))
    if row + 1 >= len(times_s) or cosines[row] <= half:
        return float(times_s[row])
    fallen = (cosines[row] - half) / max(cosines[row] - cosines[row + 1], 1e-6)
    return float(times_s[row] + min(fallen, 1.0) * (times_s[row + 1] - times_s[row]))


def _missing_s(edge_s: float, outermost_s: float, query: Query) -> float:
    """Returns half a window where the edge is the outermost row, as one of the recordings begins or
    ends there; else 0.
    """
    return query.segment_s / 2 if edge_s == outermost_s else 0.0
