"""What two recordings have in common: every pair of places, whichever of them is named first."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from confp_jax.fingerprint.query import Query
from confp_jax.matching.blocks import Scan, joined_blocks
from confp_jax.matching.decision import FALSE_ALARM_RATE, Decision, Judgement
from confp_jax.matching.edges import with_exact_edges
from confp_jax.matching.ranking import Ranking
from confp_jax.matching.searchable import Reference, make_reference
from confp_jax.matching.spans import Span, on_same_line

# A recording is searched in pieces that overlap by more than a block: a block that is there many
# times is found in as many pieces.
_PIECE_WINDOWS = 80
_PIECE_STEP_WINDOWS = 40
Stored = Callable[[Query], Float32[np.ndarray, "N E"]]
# A decision is fitted to the best of many tracks, which stands out from the others. Where two
# recordings share nothing, the best place reaches log odds of 4.9 (`edge2`, 60 pairs of tracks of
# one album, `benchmarks/sections.py`); where they share 6 s and more, at least 21 (36 pairs).
_ALONE_LOGIT = 5.5
_SAME_SHARE = 0.5  # of the shorter of two sections, in both recordings: they are one


@dataclasses.dataclass(frozen=True)
class _Alone:
    """A decision about each track of a ranking as if it were the only one: the pieces of one
    recording are no cohort of each other.
    """

    decision: Decision

    def judge(
        self,
        ranking: Ranking,
        *,
        length_s: float,
        num_tracks: int,
        has_edge_windows: bool = False,
        first: int = 1,
    ) -> Judgement:
        """Judges as `Decision.judge` does."""
        judged = [
            self.decision.judge(
                ranking.only(int(track)),
                length_s=length_s,
                num_tracks=1,
                has_edge_windows=has_edge_windows,
            )
            for track in ranking.tracks[:first]
        ]
        logits, rates = ([getattr(j, name) for j in judged] for name in ("logits", "alarm_rates"))
        return Judgement(np.concatenate([[], *logits]), np.concatenate([[], *rates]))


def common_sections(
    a: Query, b: Query, decision: Decision, stored: Stored = lambda query: query.vectors
) -> list[Span]:
    """Returns every pair of places where two recordings sound alike, in the order of the first:
    spans of it, with the place in the second as `track_s`.

    Exchanged recordings have the same sections. The rate of false alarms is that of the whole
    question, and no section is reported that is more likely wrong than right.

    Args:
      a: a recording.
      b: another one.
      decision: the model's.
      stored: gives what a database would store of a recording.
    """
    if (len(a.vectors), a.vectors.tobytes()) > (len(b.vectors), b.vectors.tobytes()):
        turned = map(
            _turned, common_sections(b, a, decision, stored)
        )  # exactly the same, exchanged
        return sorted(turned, key=lambda span: (span.query_s, span.track_s))
    found, num_trials = _sections(a, b, decision, stored)
    backwards, num_turned = _sections(b, a, decision, stored)
    rate = FALSE_ALARM_RATE / max(num_trials + num_turned, 1)
    sections: list[Span] = []
    likely = [
        dataclasses.replace(span, logit=span.logit - _ALONE_LOGIT)
        for span in [*found, *map(_turned, backwards)]
        if span.alarm_rate <= rate and span.logit >= _ALONE_LOGIT
    ]
    for span in sorted(likely, key=lambda span: (-span.logit, span.query_s, span.track_s)):
        for place, other in enumerate(sections):
            if _is_one(span, other):
                sections[place] = _united(other, span)
                break
        else:
            sections.append(span)
    exact = [with_exact_edges(span, a, stored(b)) for span in _each_once(sections)]
    return sorted(exact, key=lambda span: (span.query_s, span.track_s))


def _sections(a: Query, b: Query, decision: Decision, stored: Stored) -> tuple[list[Span], int]:
    """Spans of `a` in the pieces of `b`, and how many searches of a piece were made."""
    reference, first_windows = _pieces(b, stored(b))
    scanning = Scan(reference, _Alone(decision))
    spans = [span for block in joined_blocks([a]) for span in scanning.push(block)]
    placed = [
        dataclasses.replace(span, track=0, track_s=span.track_s + first * b.hop_s, copies=())
        for span in spans
        for first in (first_windows[span.track],)
    ]
    return placed, scanning.num_trials * len(first_windows)


def _pieces(b: Query, rows: Float32[np.ndarray, "N E"]) -> tuple[Reference, list[int]]:
    """Returns a recording as a reference of overlapping pieces, and where each begins."""
    num = len(b.vectors)
    starts = list(range(0, max(num - _PIECE_STEP_WINDOWS, 1), _PIECE_STEP_WINDOWS))
    # That of its windows, or where it is shorter than one the length that puts their middles where
    # they are.
    segment_s = b.duration_s - (num - 1) * b.hop_s
    parts = [(str(start), rows[start : start + _PIECE_WINDOWS]) for start in starts]
    phases = 1 + len(b.between)
    reference = make_reference(
        parts, hop_s=b.hop_s, segment_s=segment_s, query_phases=phases, exact=True
    )
    return reference, starts


def _turned(span: Span) -> Span:
    """Returns the same section as a span of the other recording."""
    return dataclasses.replace(
        span,
        query_s=span.track_s,
        track_s=span.query_s,
        length_s=span.length_s * span.tempo,
        tempo=1 / span.tempo,
    )


def _is_one(span: Span, other: Span) -> bool:
    """Returns whether two spans are parts of one section, or the same once more."""
    in_a = _shared_s(span.query_s, span.length_s, other.query_s, other.length_s)
    lengths_b = span.length_s * span.tempo, other.length_s * other.tempo
    in_b = _shared_s(span.track_s, lengths_b[0], other.track_s, lengths_b[1])
    if on_same_line(span, other):
        return in_a > 0
    shorter_a = min(span.length_s, other.length_s)
    shorter_b = min(lengths_b)
    return in_a > _SAME_SHARE * shorter_a and in_b > _SAME_SHARE * shorter_b


def _shared_s(first_s: float, length_s: float, other_s: float, other_length_s: float) -> float:
    return min(first_s + length_s, other_s + other_length_s) - max(first_s, other_s)


def _united(surer: Span, other: Span) -> Span:
    """Returns the surer one of two spans, as long as both together where they are on one line."""
    if not on_same_line(surer, other):
        return surer
    begin_s = min(surer.query_s, other.query_s)
    end_s = max(surer.query_s + surer.length_s, other.query_s + other.length_s)
    track_s = surer.track_s + surer.tempo * (begin_s - surer.query_s)
    late_s = max(0.0, -track_s / surer.tempo)  # nothing lies before the other recording's beginning
    return dataclasses.replace(
        surer,
        query_s=begin_s + late_s,
        track_s=max(track_s, 0.0),
        length_s=end_s - begin_s - late_s,
    )


def _each_once(sections: list[Span]) -> list[Span]:
    """Returns each section once: some have become one since they were found."""
    kept: list[Span] = []
    for span in sections:
        if not any(_is_one(span, other) for other in kept):
            kept.append(span)
    return kept
