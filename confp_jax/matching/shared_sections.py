"""Tracks of a database that share long sections."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from confp_jax.matching.blocks import scan
from confp_jax.matching.decision import FALSE_ALARM_RATE, Decision
from confp_jax.matching.searchable import Reference, some_tracks
from confp_jax.matching.spans import accepted

SHORTEST_S = 10.0  # of a section that makes two tracks share something
_PROBE_S = 3.0  # distance of the rows that are searched for
_PROBE_COSINE = 0.7
# of models whose queries lie more densely: rows half a hop apart have 0.32 (median), others 0.15
_DENSE_PROBE_COSINE = 0.3
_PROBE_HITS = 50
_MORE_HITS = 4  # times as many where all are near: the recording is there many times
_MOST_HITS = 3_200
_PROBES_AT_ONCE = 512
_LEAST_PROBES = 2


@dataclasses.dataclass(frozen=True)
class SharedSection:
    """A stretch of `track` (at `track_s`) that `other` also holds (at `other_s`); both are indices
    into the snapshot's tracks.
    """

    track: int
    other: int
    track_s: float
    other_s: float
    length_s: float
    tempo: float
    score: float
    confidence: float


def shared_sections(
    reference: Reference,
    decision: Decision,
    *,
    shortest_s: float = SHORTEST_S,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[SharedSection]:
    """Returns the pairs of tracks that share a section of at least `shortest_s`, each with its
    longest common section, longest first.

    Rows every 3 s are searched for in all tracks at once; only pairs that two such rows agree on
    are compared in full.
    """
    pairs = _suspected_pairs(reference, report)
    found = []
    for track, other in pairs:
        section = _longest_section(reference, int(track), int(other), decision)
        if section is not None and section.length_s >= shortest_s:
            found.append(section)
    return sorted(found, key=lambda section: -section.length_s)


def _suspected_pairs(
    reference: Reference, report: Callable[[int, int], None]
) -> Int64[np.ndarray, "P 2"]:
    """Returns pairs (lower, higher) of tracks: several rows of one have near rows in the other."""
    step = max(1, round(_PROBE_S / reference.hop_s))
    least = _DENSE_PROBE_COSINE if reference.query_phases > 1 else _PROBE_COSINE
    row_tracks = reference.snapshot.row_tracks
    within = np.arange(len(row_tracks)) - reference.first_rows[row_tracks]
    probes = np.flatnonzero(within % step == 0)
    pairs = [np.zeros((0, 2), np.int64)]
    for first in range(0, len(probes), _PROBES_AT_ONCE):
        rows = probes[first : first + _PROBES_AT_ONCE]
        probe, near = _near_rows(reference, rows, least)
        both = np.stack([row_tracks[rows[probe]], row_tracks[near]], axis=1).astype(np.int64)
        is_other = both[:, 0] != both[:, 1]
        keys = np.unique(
            np.column_stack([probe, np.sort(both, axis=1)])[is_other], axis=0
        )  # one voice a probe
        pairs.append(keys[:, 1:])
        report(min(first + _PROBES_AT_ONCE, len(probes)), len(probes))
    found, votes = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    return found[votes >= _LEAST_PROBES]


def _near_rows(
    reference: Reference, rows: Int64[np.ndarray, " P"], least: float
) -> tuple[Int64[np.ndarray, " H"], Int64[np.ndarray, " H"]]:
    """Returns pairs of rows whose cosine is at least `least`: the place of one in `rows`, and the
    other. More hits are searched for a recording that is stored many times.
    """
    asked = np.arange(len(rows))
    probes = [np.zeros(0, np.int64)]
    near = [np.zeros(0, np.int64)]
    most = min(_MOST_HITS, len(reference.snapshot.vectors))
    num_hits = _PROBE_HITS
    while len(asked):
        vectors = reference.snapshot.vectors[rows[asked]].astype(np.float32)
        hits = reference.index.search(vectors, k=num_hits)
        is_near = (hits.rows >= 0) & (hits.scores >= least)
        num_near = np.count_nonzero(is_near, axis=1)
        is_full = num_near == (num_hits if num_hits < most else -1)
        probe, place = np.nonzero(is_near & ~is_full[:, None])
        probes.append(asked[probe])
        near.append(hits.rows[probe, place].astype(np.int64))
        asked = asked[is_full]
        num_hits *= _MORE_HITS
    return np.concatenate(probes), np.concatenate(near)


def _longest_section(
    reference: Reference, track: int, other: int, decision: Decision
) -> SharedSection | None:
    query = reference.query_of(track)
    if not query.vectors.any():
        return None
    spans = accepted(
        scan(query, some_tracks(reference, [other]), decision), false_alarm_rate=FALSE_ALARM_RATE
    )
    if not spans:
        return None
    best = max(spans, key=lambda span: span.length_s)
    return SharedSection(
        track,
        other,
        best.query_s,
        best.track_s,
        best.length_s,
        best.tempo,
        min(best.score, 1.0),
        best.confidence,
    )
