"""A long recording as a stream: blocks of windows are ranked one by one, and matches that continue
each other become one span.

Memory and delay are bounded: a block's length of fingerprints is looked at, spans that are over
are given out, and only a few candidates are open at any time.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from confp_jax.fingerprint.query import Query
from confp_jax.matching.decision import Judgement
from confp_jax.matching.kinship import is_confusable
from confp_jax.matching.query_windows import middle_s
from confp_jax.matching.ranking import Ranking, rank
from confp_jax.matching.searchable import Reference

_NUM_CANDIDATES = 5
_LEAST_LOGIT = -4.0  # of a candidate that is worth following
_SAME_LINE_S = 0.75
_TEMPO_ERROR = 0.03
# of a window, where it begins to look more like the match than like the cohort (measured on
# medleys)
_EDGE_INSIDE = 0.8
_BLURRED_S = 2.0  # where two plays follow each other, both may seem to last
_LEAST_DROP = 0.15  # of the cosine, where a match ends: less is how windows differ within one
_MAX_GAP = 2  # blocks that a candidate may be missing from


class Judge(Protocol):
    """What decides about matches: a `Decision`, or one that asks it in its own way."""

    def judge(
        self,
        ranking: Ranking,
        *,
        length_s: float,
        num_tracks: int,
        has_edge_windows: bool = False,
        first: int = 1,
    ) -> Judgement:
        """Judges the first matches, as `Decision.judge`."""
        ...


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive fingerprints of a recording, the first of which is its window number
    `first_window`.
    """

    query: Query
    first_window: int = 0
    is_last: bool = True  # it ends with the recording

    @property
    def start_s(self) -> float:
        """Returns where in the recording it begins."""
        return self.first_window * self.query.hop_s


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of the recording that a track runs along; `query_s` and `track_s` name the same
    moment, its beginning.
    """

    track: int  # index into the snapshot's tracks
    query_s: float
    track_s: float
    length_s: float  # in the recording
    tempo: float
    score: float  # mean cosine along the span
    logit: float  # of being right
    alarm_rate: float  # how often a block of an unknown recording reaches as much
    number: int  # names it while it grows
    copies: tuple[int, ...] = ()  # other tracks that hold the same recording here

    @property
    def confidence(self) -> float:
        """Probability of being right."""
        return 1 / (1 + math.exp(-min(max(self.logit, -700.0), 700.0)))


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What one block says of a candidate."""

    first_window: int
    cosines: Float32[np.ndarray, " W"]
    query_s: float  # the block's middle
    track_s: float  # there
    tempo: float
    logit: float
    log_rate: float
    cohort_mean: float  # the mean score of the other tracks that the match is compared with
    copies: frozenset[int] = frozenset()  # other tracks that hold the same recording there


@dataclasses.dataclass
class _Candidate:
    number: int
    track: int
    last_block: int
    pieces: list[_Piece] = dataclasses.field(default_factory=list)

    def track_at(self, query_s: float) -> float:
        """Returns where the track is at a moment of the recording, by its newest block."""
        newest = self.pieces[-1]
        return newest.track_s + newest.tempo * (query_s - newest.query_s)


class SpanTracker:
    """Blocks of one recording in, in order; spans out.

    Args:
      new_part: of a block's evidence, between 0 and 1; less than 1 where blocks overlap.
      keep_all: also give out what is no match by far, so that the nearest tracks of an unknown
        query can be named.
    """

    def __init__(
        self,
        reference: Reference,
        decision: Judge,
        *,
        new_part: float = 1.0,
        keep_all: bool = False,
    ):
        self._reference = reference
        self._decision = decision
        self._new_part = new_part
        self._keep_all = keep_all
        self._open: list[_Candidate] = []
        self._num_blocks = self._num_candidates = 0
        self._form = Query(np.zeros((0, 0), np.float32), 0.0, 0.0)
        self._last_window = -1  # of the recording, once it is known

    def push(self, block: Block) -> list[Span]:
        """Ranks a block; returns the spans that are over."""
        self._num_blocks += 1
        self._form = block.query
        if block.is_last:
            self._last_window = block.first_window + len(self._form.vectors) - 1
        if self._form.vectors.any():
            self._rank(block)
        over = [
            c for c in self._open if block.is_last or self._num_blocks - c.last_block > _MAX_GAP
        ]
        self._open = [c for c in self._open if c not in over]
        return [self._finished(c) for c in over]

    @property
    def current(self) -> list[Span]:
        """The open spans, as they would end now."""
        return [self._finished(c) for c in self._open]

    def _rank(self, block: Block) -> None:
        query = block.query
        ranking = rank(query, self._reference)
        leading = ranking.leading(_NUM_CANDIDATES)
        judged = self._decision.judge(
            ranking,
            length_s=query.loud_s,
            num_tracks=self._reference.num_tracks,
            has_edge_windows=query.has_edge_windows,
            first=int(leading[-1]) + 1 if len(leading) else 1,
        )
        for place in leading:
            logit = float(judged.logits[place])
            rate = float(judged.alarm_rates[place])
            if rate < 1 and is_confusable(ranking, int(place), self._reference):
                logit = min(logit, 0.0)
                rate = 1.0
            piece = _piece(block, ranking, place, logit, rate)
            candidate = self._continued(int(ranking.tracks[place]), piece)
            if candidate is None:
                if logit < _LEAST_LOGIT and not self._keep_all:
                    continue
                candidate = _Candidate(
                    self._num_candidates, int(ranking.tracks[place]), self._num_blocks
                )
                self._num_candidates += 1
                self._open.append(candidate)
            candidate.last_block = self._num_blocks
            candidate.pieces.append(piece)

    def _continued(self, track: int, piece: _Piece) -> _Candidate | None:
        """Returns the open candidate that this line continues."""
        for candidate in self._open:
            if candidate.track == track and candidate.last_block < self._num_blocks:
                reach_s = _SAME_LINE_S + _TEMPO_ERROR * (
                    piece.query_s - candidate.pieces[-1].query_s
                )
                if abs(candidate.track_at(piece.query_s) - piece.track_s) <= reach_s:
                    return candidate
        return None

    def _finished(self, candidate: _Candidate) -> Span:
        """A span is at least as sure as its surest block; the evidence of all adds up as far as it
        is new.
        """
        pieces = candidate.pieces
        query_s, track_s, tempo = _line(pieces)
        cosines, first_window = _merged(pieces)
        first, last = matched_run(cosines, float(np.mean([piece.cohort_mean for piece in pieces])))
        begin_s, end_s = self._ends_s(first_window + first, first_window + last)
        ends_s = float(self._reference.lengths_s[candidate.track])
        begin_s = max(
            begin_s, query_s - track_s / tempo
        )  # the track may begin within the recording, and end in it
        end_s = max(min(end_s, query_s + (ends_s - track_s) / tempo), begin_s)
        logits = [piece.logit for piece in pieces]
        rates = [piece.log_rate for piece in pieces]
        return Span(
            track=candidate.track,
            query_s=begin_s,
            track_s=max(0.0, track_s + tempo * (begin_s - query_s)),
            length_s=end_s - begin_s,
            tempo=tempo,
            score=float(cosines[first : last + 1].mean()),
            logit=max(*logits, self._new_part * sum(logits)),
            alarm_rate=math.exp(min(*rates, self._new_part * sum(rates))),
            number=candidate.number,
            copies=_copies(pieces),
        )

    def _ends_s(self, first: int, last: int) -> tuple[float, float]:
        """Returns where the run of windows begins and ends; a window at the match's edge is partly
        outside, at the recording's whole.
        """
        hop_s = self._form.hop_s
        segment_s = self._form.segment_s
        if self._form.is_partial:
            return 0.0, segment_s
        outside_s = (1 - _EDGE_INSIDE) * segment_s
        begin_s = first * hop_s + (outside_s if first else 0.0)
        return begin_s, last * hop_s + segment_s - (outside_s if last != self._last_window else 0.0)


def accepted(spans: Iterable[Span], *, false_alarm_rate: float) -> list[Span]:
    """Returns the accepted spans, in the recording's order: those whose rate of false alarms is low
    enough; of two at one place, the surer one.
    """
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.alarm_rate, -span.logit)):
        free = not any(covers(other, span) for other in kept)
        if span.alarm_rate <= false_alarm_rate and free:
            kept.append(span)
    return sorted(kept, key=lambda span: span.query_s)


def covers(other: Span, span: Span) -> bool:
    """Returns whether two spans share more than half of the shorter one; where both are of one
    track, which may repeat itself, more than the blur at their ends, as where plays follow each
    other.
    """
    shared_s = min(span.query_s + span.length_s, other.query_s + other.length_s) - max(
        span.query_s, other.query_s
    )
    most_s = 0.5 * min(span.length_s, other.length_s)
    if span.track == other.track:
        most_s = 0.0 if on_same_line(span, other) else min(most_s, _BLURRED_S)
    return shared_s > most_s


def on_same_line(span: Span, other: Span) -> bool:
    """Returns whether two spans run along one line of one track: they are of one play."""
    track_s = other.track_s + other.tempo * (span.query_s - other.query_s)
    reach_s = _SAME_LINE_S + _TEMPO_ERROR * abs(span.query_s - other.query_s)
    return span.track == other.track and abs(track_s - span.track_s) <= reach_s


def matched_run(cosines: Float32[np.ndarray, " W"], cohort_mean: float) -> tuple[int, int]:
    """Returns the first and the last window of the run that stands out most. It is measured from
    the level halfway between the match's own and the cohort's.
    """
    level = float(np.quantile(cosines, 0.75))
    excess = cosines - min((level + cohort_mean) / 2, level - _LEAST_DROP)
    total = np.concatenate([[0.0], np.cumsum(excess)])
    last = int(np.argmax(total[1:] - np.minimum.accumulate(total)[:-1]))
    return int(np.argmin(total[: last + 1])), last


def _piece(block: Block, ranking: Ranking, place: int, logit: float, rate: float) -> _Piece:
    middle = middle_s(block.query)
    tempo = float(ranking.tempos[place])
    track = int(ranking.tracks[place])
    copies = frozenset(ranking.copies.tolist())
    others = ranking.scores[1:] if len(copies) < 2 else ranking.scores[ranking.cohort]
    return _Piece(
        first_window=block.first_window,
        cosines=ranking.cosines[place],
        query_s=block.start_s + middle,
        track_s=float(ranking.offsets_s[place]) + tempo * middle,
        tempo=tempo,
        logit=logit,
        log_rate=math.log(max(rate, 1e-300)),
        cohort_mean=float(others.mean()) if len(others) else 0.4,
        copies=copies - {track} if track in copies else frozenset(),
    )


def _copies(pieces: list[_Piece]) -> tuple[int, ...]:
    """Returns the tracks that are copies in at least half of the blocks."""
    votes = collections.Counter(track for piece in pieces for track in piece.copies)
    return tuple(track for track, num in votes.most_common() if 2 * num >= len(pieces))


def _line(pieces: list[_Piece]) -> tuple[float, float, float]:
    """(moment, place in the track, tempo): the surest block's, or through the middles of all where
    there are three and more.
    """
    if len(pieces) < 3:
        surest = max(pieces, key=lambda piece: piece.logit)
        return surest.query_s, surest.track_s, surest.tempo
    query_s = np.array([p.query_s for p in pieces])
    track_s = np.array([p.track_s for p in pieces])
    weights = np.exp(np.minimum([p.logit for p in pieces], 0.0)) + 1e-6
    mean_query_s = np.average(query_s, weights=weights)
    mean_track_s = np.average(track_s, weights=weights)
    around = query_s - mean_query_s
    tempo = np.sum(weights * around * (track_s - mean_track_s)) / np.sum(weights * around**2)
    return float(mean_query_s), float(mean_track_s), float(tempo)


def _merged(pieces: list[_Piece]) -> tuple[Float32[np.ndarray, " W"], int]:
    """Returns the cosines of all windows from the first to the last, and the first one's number;
    blocks that overlap agree or the one that fits better counts.
    """
    first = min(piece.first_window for piece in pieces)
    last = max(piece.first_window + len(piece.cosines) for piece in pieces)
    merged = np.zeros(last - first, np.float32)
    for piece in pieces:
        begin = piece.first_window - first
        part = merged[begin : begin + len(piece.cosines)]
        np.maximum(part, piece.cosines, out=part)
    return merged, first
