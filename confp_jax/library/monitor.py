"""`monitor`: reports what plays in a long recording or an endless stream, while it plays."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.errors import DecodeError
from confp_jax.library.searcher import Match, ReferenceSearcher
from confp_jax.matching.blocks import STEP_WINDOWS, TRIALS_PER_STEP, Scan, joined_blocks
from confp_jax.matching.spans import Span, accepted, covers

ALARMS_PER_HOUR = 0.1
_REMEMBERED_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that plays: "playing" when it is first sure, "match" when it is over.

    `heard_s` is how much has been heard.
    """

    event: Literal["playing", "match"]
    found: Match
    heard_s: float


@dataclasses.dataclass(frozen=True)
class Moment:
    """What is known when a few seconds more have been heard.

    `playing` sounds now as far as it is sure, `started` is new among it, and `finished` is over.
    """

    heard_s: float
    playing: list[Match]
    started: list[Match]
    finished: list[Match]


def monitor(
    searcher: ReferenceSearcher,
    blocks: Iterable[Float32[np.ndarray, " n"]],
    *,
    alarms_per_hour: float = ALARMS_PER_HOUR,
) -> Iterator[Event]:
    """Yields the tracks that play in endless audio, about 15 s after the music.

    Memory does not grow with the recording. Where two tracks match one place, the surer one is
    reported. Silence is never matched.

    Args:
      searcher: what is searched.
      blocks: mono samples at the model's sample rate.
      alarms_per_hour: how many false matches may be reported in an hour of unknown music.

    Yields:
      "playing" when a track is first sure, "match" when it is over.

    Raises:
      AudioError: less than 1 s in all.
      DecodeError: what `blocks` raises, after the events of what was heard before.
    """
    yield from events_of(moments(searcher, blocks, alarms_per_hour=alarms_per_hour))


def events_of(known: Iterable[Moment]) -> Iterator[Event]:
    """Yields what is new in moments."""
    for moment in known:
        for found in moment.finished:
            yield Event("match", found, moment.heard_s)
        for found in moment.started:
            yield Event("playing", found, moment.heard_s)


def moments(
    searcher: ReferenceSearcher,
    blocks: Iterable[Float32[np.ndarray, " n"]],
    *,
    alarms_per_hour: float = ALARMS_PER_HOUR,
) -> Iterator[Moment]:
    """Yields what is known, every few seconds of audio, also while nothing plays.

    The arguments are those of `monitor`.

    Raises:
      AudioError: less than 1 s in all.
      DecodeError: what `blocks` raises, after what was heard before.
    """
    hop_s = searcher.reference.hop_s
    rate = alarms_per_hour * STEP_WINDOWS * hop_s / 3600 / TRIALS_PER_STEP  # of one search
    scanning = Scan(searcher.reference, searcher.decision, is_endless=True)
    reported = _Reported(rate)
    heard = _UntilError(blocks)
    for block in joined_blocks(
        searcher.embedder.stream(heard, hop_s=hop_s, windows_at_once=STEP_WINDOWS)
    ):
        over = scanning.push(block)
        heard_s, playing = round(block.start_s + block.query.duration_s, 3), scanning.current
        finished = reported.finished(over, playing)
        started = reported.started(playing)
        sure = reported.sure_now(playing)
        yield Moment(heard_s, *(list(map(searcher.found, s)) for s in (sure, started, finished)))
    if heard.error:
        raise heard.error


class _UntilError:
    """Blocks until one cannot be had; the error is kept for when all before it was reported."""

    def __init__(self, blocks: Iterable[Float32[np.ndarray, " n"]]):
        self._blocks = blocks
        self.error: DecodeError | None = None

    def __iter__(self) -> Iterator[Float32[np.ndarray, " n"]]:
        num = 0
        try:
            for block in self._blocks:
                num += len(block)
                yield block
        except DecodeError as error:
            if not num:
                raise
            self.error = error


class _Reported:
    """Remembers what was reported.

    Nothing is reported twice, and no weaker span at the place of a surer one.
    """

    def __init__(self, rate: float):
        self._rate = rate
        self._started: dict[int, Span] = {}
        self._matches: list[Span] = []

    def sure_now(self, playing: list[Span]) -> list[Span]:
        return self._sure(playing, playing)

    def started(self, playing: list[Span]) -> list[Span]:
        current = {span.number: span for span in playing}
        self._started = {
            number: current.get(number, span) for number, span in self._started.items()
        }
        new = [
            span
            for span in self._sure(playing, playing)
            if span.number not in self._started
            and not any(_is_one_play(one, span) for one in self._started.values())
        ]
        self._started |= {span.number: span for span in new}
        return new

    def finished(self, over: list[Span], playing: list[Span]) -> list[Span]:
        new = self._sure(over, [*over, *playing])
        last_s = max((span.query_s for span in [*over, *playing]), default=0.0)
        self._matches = _remembered(self._matches, last_s) + new
        started = _remembered(list(self._started.values()), last_s)
        self._started = {span.number: span for span in started}
        return new

    def _sure(self, spans: list[Span], among: list[Span]) -> list[Span]:
        numbers = {span.number for span in spans}
        return [
            span
            for span in accepted(among, false_alarm_rate=self._rate)
            if span.number in numbers and not any(covers(other, span) for other in self._matches)
        ]


def _is_one_play(one: Span, span: Span) -> bool:
    """Returns whether two spans are one play of a recording, whichever of its copies each names."""
    is_same = span.track in (one.track, *one.copies) or one.track in span.copies
    return is_same and covers(one, span)


def _remembered(spans: list[Span], last_s: float) -> list[Span]:
    return [span for span in spans if span.query_s + span.length_s > last_s - _REMEMBERED_S]
