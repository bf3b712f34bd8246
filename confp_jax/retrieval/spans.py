"""A long recording as a stream: blocks of windows are ranked one by one, and matches that continue each other become one span.

Memory and delay are bounded: a block's length of fingerprints is looked at, spans that are over are given out, and only a few
candidates are open at any time.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

from confp_jax.retrieval.decision import Decision
from confp_jax.retrieval.embed import Fingerprints
from confp_jax.retrieval.match import centres_s, rank
from confp_jax.retrieval.reference import Reference

BLOCK_WINDOWS = 24  # 9.9 s at 300 ms: the longest query that is calibrated
STEP_WINDOWS = 12
_LONGEST_BLOCK = BLOCK_WINDOWS + STEP_WINDOWS
_NUM_CANDIDATES = 5
_SAME_LINE_S = 0.75
_MAX_GAP = 2  # blocks that a candidate may be missing from


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of the recording that a track runs along; `query_s` and `track_s` name the same moment, its beginning."""

    track: int  # index into the snapshot's tracks
    query_s: float
    track_s: float
    length_s: float  # in the recording
    tempo: float
    score: float  # mean cosine along the span, at most 1
    logit: float  # of being right
    alarm_rate: float  # how often a block of an unknown recording reaches as much
    number: int  # names it while it grows

    @property
    def confidence(self) -> float:
        """Probability of being right."""
        return 1 / (1 + math.exp(-min(max(self.logit, -700.0), 700.0)))


@dataclasses.dataclass
class _Candidate:
    """A span that is still growing: its line is its surest block's."""

    number: int
    track: int
    tempo: float
    track_s: float
    query_s: float
    begin_s: float
    end_s: float
    last_block: int
    cosine_sum: float = 0.0
    num_windows: int = 0
    logits: list[float] = dataclasses.field(default_factory=list)
    log_rates: list[float] = dataclasses.field(default_factory=list)


class SpanTracker:
    """Blocks in, spans out; the blocks of one recording in order, each `STEP_WINDOWS` after the one before.

    Args:
      keep_all: also give out what is no match by far, so that the nearest tracks of an unknown query can be named.
    """

    def __init__(self, reference: Reference, decision: Decision, *, without: int = -1, keep_all: bool = False):
        self._reference, self._decision, self._without = reference, decision, without
        self._least_logit = -math.inf if keep_all else -4.0
        self._open: list[_Candidate] = []
        self._num_blocks = self._num_candidates = 0

    def push(self, block: Fingerprints, *, start_s: float = 0.0) -> list[Span]:
        """Ranks a block that begins at `start_s` of the recording; returns the spans that are over."""
        self._num_blocks += 1
        if block.vectors.any():
            self._rank(block, start_s)
        over = [c for c in self._open if self._num_blocks - c.last_block > _MAX_GAP]
        self._open = [c for c in self._open if self._num_blocks - c.last_block <= _MAX_GAP]
        return [self._finished(c) for c in over]

    def finish(self) -> list[Span]:
        """The spans that last to the recording's end."""
        over, self._open = self._open, []
        return [self._finished(c) for c in over]

    @property
    def current(self) -> list[Span]:
        """The open spans, as they would end now."""
        return [self._finished(c) for c in self._open]

    def _rank(self, block: Fingerprints, start_s: float) -> None:
        ranking = rank(block, self._reference, without=self._without)
        num_tracks = self._reference.num_tracks
        judged = self._decision.judge(ranking, length_s=block.loud_s, num_tracks=num_tracks, first=_NUM_CANDIDATES)
        field = float(ranking.scores[1:].mean()) if len(ranking.scores) > 1 else 0.4
        for place, (logit, rate) in enumerate(zip(judged.logits, judged.alarm_rates, strict=True)):
            track, tempo = int(ranking.tracks[place]), float(ranking.tempos[place])
            offset_s, cosines = float(ranking.offsets_s[place]), ranking.cosines[place]
            first, last = matched_run(cosines, field)
            begin_s, end_s = _run_s(block, first, last)
            begin_s = max(begin_s, min(-offset_s / tempo, end_s))  # the track may begin within the query
            candidate = self._continued(track, tempo, offset_s, start_s)
            if candidate is None:
                if logit < self._least_logit:
                    continue
                ends_s = start_s + begin_s, start_s + end_s
                candidate = _Candidate(self._num_candidates, track, tempo, offset_s, start_s, *ends_s, self._num_blocks)
                self._num_candidates += 1
                self._open.append(candidate)
            candidate.begin_s = min(candidate.begin_s, start_s + begin_s)
            candidate.end_s = max(candidate.end_s, start_s + end_s)
            if not candidate.logits or logit >= max(candidate.logits):  # the surest block knows the line best
                candidate.tempo, candidate.track_s, candidate.query_s = tempo, offset_s, start_s
            candidate.last_block = self._num_blocks
            candidate.cosine_sum += float(cosines[first : last + 1].sum())
            candidate.num_windows += last + 1 - first
            candidate.logits.append(float(logit))
            candidate.log_rates.append(math.log(rate))

    def _continued(self, track: int, tempo: float, offset_s: float, start_s: float) -> _Candidate | None:
        """The open candidate that this line continues."""
        for candidate in self._open:
            expected_s = candidate.track_s + candidate.tempo * (start_s - candidate.query_s)
            reach_s = _SAME_LINE_S + 0.03 * abs(start_s - candidate.query_s)
            if candidate.track == track and candidate.last_block < self._num_blocks and abs(expected_s - offset_s) <= reach_s:
                return candidate
        return None

    def _finished(self, candidate: _Candidate) -> Span:
        """Half overlapping blocks are half a block's new evidence each; a span is at least as sure as its best block."""
        share, rates = STEP_WINDOWS / BLOCK_WINDOWS, candidate.log_rates
        logit = max(*candidate.logits, share * sum(candidate.logits))
        log_rate = min(*rates, share * sum(rates))
        return Span(
            candidate.track,
            candidate.begin_s,
            max(0.0, candidate.track_s + candidate.tempo * (candidate.begin_s - candidate.query_s)),
            candidate.end_s - candidate.begin_s,
            candidate.tempo,
            candidate.cosine_sum / candidate.num_windows,
            logit,
            math.exp(log_rate),
            candidate.number,
        )


def joined_blocks(parts: Iterable[Fingerprints]) -> Iterator[tuple[Fingerprints, float]]:
    """Consecutive fingerprints of one recording as overlapping blocks, with the second that each begins at.

    The last block takes what is left over, so that none is short unless the recording is.
    """
    vectors, start, latest = np.zeros((0, 0), np.float32), 0, None
    for part in parts:
        vectors, latest = np.concatenate([vectors, part.vectors]) if len(vectors) else part.vectors, part
        while len(vectors) > _LONGEST_BLOCK:
            yield dataclasses.replace(part, vectors=vectors[:BLOCK_WINDOWS]), start * part.hop_s
            vectors, start = vectors[STEP_WINDOWS:], start + STEP_WINDOWS
    if latest is not None:
        yield dataclasses.replace(latest, vectors=vectors), start * latest.hop_s


def find_spans(query: Fingerprints, reference: Reference, decision: Decision, *, without: int = -1) -> list[Span]:
    """All candidates of a recording that is there as a whole, surest first."""
    tracker = SpanTracker(reference, decision, without=without, keep_all=True)
    found = [span for block, start_s in joined_blocks([query]) for span in tracker.push(block, start_s=start_s)]
    return sorted([*found, *tracker.finish()], key=lambda span: -span.logit)


def matched_run(cosines: Float32[np.ndarray, " W"], field: float) -> tuple[int, int]:
    """First and last window of the run that stands out most from what lies between the match's own level and the rivals'."""
    level = float(np.quantile(cosines, 0.75))
    excess = cosines - (level + min(field, level)) / 2
    total = np.concatenate([[0.0], np.cumsum(excess)])
    lowest = np.minimum.accumulate(total)[:-1]
    last = int(np.argmax(total[1:] - lowest))
    first = int(np.argmin(total[: last + 1]))
    return first, last


def _run_s(block: Fingerprints, first: int, last: int) -> tuple[float, float]:
    """Where the run begins and ends in the block: a window at its edge is half inside the match, one at the block's is whole."""
    centre = centres_s(block)
    begin_s = 0.0 if first == 0 else float(centre[first])
    end_s = float(centre[last]) + (block.segment_s / 2 if last == len(centre) - 1 else 0.0)
    return begin_s, end_s


def accepted(spans: Iterable[Span], *, false_alarm_rate: float) -> list[Span]:
    """The spans that count, in the recording's order; of two at the same place the surer one, unless both are long apart."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.alarm_rate, -span.logit)):
        free = all(overlap_s(span, other) <= 0.5 * min(span.length_s, other.length_s) for other in kept)
        if span.alarm_rate <= false_alarm_rate and free:
            kept.append(span)
    return sorted(kept, key=lambda span: span.query_s)


def overlap_s(a: Span, b: Span) -> float:
    """How long two spans last together in the recording; negative: the gap between them."""
    return min(a.query_s + a.length_s, b.query_s + b.length_s) - max(a.query_s, b.query_s)
