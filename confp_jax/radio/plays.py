"""From what is heard at each moment to the plays of a station: each once, with its gaps.

A play begins when several answers agree, and is over when it has not been heard for a while. All
times are seconds since 1970, so that a play continues where a connection or the program broke off.
"""

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

from confp_jax.database.records import TAG_NAMES
from confp_jax.library.searcher import Match

_SAME_LINE_S = 5.0  # from where a track would be if it had gone on
_TEMPO_ERROR = 0.02
# A track that repeats itself looks like a new play of the same track. It counts as one only if it
# starts within this much of the track's beginning, and the play before it started there, too.
_BEGINNING_S = 2.0
_SHORTEST_S = 15.0  # from the beginning of a play to that of another of the same track
_FIRST_HEARD_S = 5.0  # so late a play from a track's beginning may be recognised
# So long unheard, a play is over: sooner if another track plays. A passage of a track may not be
# recognised, and one that is recognised late is known to have begun before.
_OVER_S = 30.0
_LONGEST_GAP_S = 120.0
_PATIENCE_S = 60.0  # no play is over so soon after an interruption: the first answers take a while
_LONGEST_BREAK_S = 3_600.0
_NAMES = ("id", "track", "title", "artist", "album", "path")
_NUMBERS = (
    *("begin_s", "end_s", "first_offset_s", "last_offset_s"),
    *("tempo", "score", "confidence"),
)


@dataclasses.dataclass(frozen=True)
class Sighting:
    """A stretch of a station's programme that a track runs along."""

    found: Match
    begin_s: float
    end_s: float

    @property
    def end_offset_s(self) -> float:
        """Returns where in the track it ends."""
        return self.found.offset_s + self.found.tempo * (self.end_s - self.begin_s)


@dataclasses.dataclass
class Play:
    """One play of a track; `stretches` are the parts of it that were heard."""

    id: str
    track: dict[str, Any]
    begin_s: float
    end_s: float
    first_offset_s: float
    last_offset_s: float
    tempo: float
    score: float
    confidence: float
    stretches: list[tuple[float, float]]
    num_answers: int = 0
    is_told: bool = False

    @property
    def played_s(self) -> float:
        """Returns how long it was heard."""
        return sum(end - begin for begin, end in self.stretches)

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """The stretches between its beginning and its end that were not heard."""
        ends = [end for _, end in self.stretches[:-1]]
        return list(zip(ends, (begin for begin, _ in self.stretches[1:]), strict=True))

    def is_continued_by(self, seen: Sighting) -> bool:
        """Returns whether a sighting continues this play: on the same line, or a little later."""
        if seen.found.id != self.track["id"] or seen.begin_s > self.end_s + _LONGEST_BREAK_S:
            return False
        expected_s = self.last_offset_s + self.tempo * (seen.begin_s - self.end_s)
        reach_s = _SAME_LINE_S + _TEMPO_ERROR * abs(seen.begin_s - self.end_s)
        is_near = seen.begin_s < self.end_s + _OVER_S
        is_new = (
            seen.found.offset_s <= _BEGINNING_S
            and self.first_offset_s <= _FIRST_HEARD_S
            and seen.begin_s > max(self.end_s - _SAME_LINE_S, self.begin_s + _SHORTEST_S)
        )  # else music that repeats itself, or a loop
        return abs(seen.found.offset_s - expected_s) <= reach_s or (is_near and not is_new)

    def take(self, seen: Sighting) -> None:
        """Adds what was seen of it."""
        if seen.begin_s < self.begin_s:
            self.begin_s = seen.begin_s
            self.first_offset_s = seen.found.offset_s
        if seen.end_s >= self.end_s:
            self.end_s = seen.end_s
            self.last_offset_s = seen.end_offset_s
            self.tempo = seen.found.tempo
        self.score = max(self.score, seen.found.score)
        self.confidence = max(self.confidence, seen.found.confidence)
        self.stretches = _joined([*self.stretches, (seen.begin_s, seen.end_s)])


class Plays:
    """The plays of one station on their way."""

    def __init__(self, station: str, *, agreeing: int):
        """Begins with none.

        Args:
          station: its name, part of the names of its plays.
          agreeing: how many answers in a row a change of state takes.
        """
        self._station = station
        self._agreeing = agreeing
        self.open: list[Play] = []
        self.state = ""  # "playing", "silence" or "unknown"
        self._candidate = ("", 0, 0.0)
        self._patient_until_s = 0.0

    def resume(self, now_s: float) -> None:
        """Notes that the station is heard again: what was open may continue."""
        self._patient_until_s = now_s + _PATIENCE_S

    def hear(
        self,
        now_s: float,
        *,
        playing: Iterable[Sighting],
        finished: Iterable[Sighting] = (),
        is_silent: bool = False,
    ) -> list[dict[str, Any]]:
        """Takes one answer; returns the events that it brings."""
        sounding = list(playing)
        heard = {id(self._taken(seen)) for seen in [*finished, *sounding]}
        events = []
        for play in self.open:
            play.num_answers += id(play) in heard
            if play.num_answers >= self._agreeing and not play.is_told:
                play.is_told = True
                events.append({"event": "playing", "confidence": play.confidence} | _about(play))
        events += self._over(now_s)
        answer = "playing" if sounding else "silence" if is_silent else "unknown"
        return events + self._state_events(answer, now_s)

    def end(self, until_s: float = float("inf")) -> list[dict[str, Any]]:
        """Closes what was over at a moment; without one all plays, as a recording's end does."""
        return self._closed(lambda play: until_s > play.end_s + _OVER_S)

    def _taken(self, seen: Sighting) -> Play:
        for play in self.open:
            if play.is_continued_by(seen):
                play.take(seen)
                return play
        found = seen.found
        play = Play(
            id=f"{self._station} {seen.begin_s:.0f} {found.id}",
            track=_track(found),
            begin_s=seen.begin_s,
            end_s=seen.end_s,
            first_offset_s=found.offset_s,
            last_offset_s=seen.end_offset_s,
            tempo=found.tempo,
            score=found.score,
            confidence=found.confidence,
            stretches=[(seen.begin_s, seen.end_s)],
        )
        self.open.append(play)
        return play

    def _over(self, now_s: float) -> list[dict[str, Any]]:
        if now_s < self._patient_until_s:
            return []
        newest_s = max((play.end_s for play in self.open if play.is_told), default=0.0)

        def is_over(play: Play) -> bool:
            is_followed = newest_s > play.end_s + _SAME_LINE_S
            return now_s > play.end_s + (_OVER_S if is_followed else _LONGEST_GAP_S)

        return self._closed(is_over)

    def _closed(self, is_over: Any) -> list[dict[str, Any]]:
        over = [play for play in self.open if is_over(play)]
        self.open = [play for play in self.open if not is_over(play)]
        return [play_event(play) for play in over if play.is_told]

    def _state_events(self, answer: str, now_s: float) -> list[dict[str, Any]]:
        before, num, since_s = self._candidate
        num, since_s = (num + 1, since_s) if answer == before else (1, now_s)
        self._candidate = (answer, num, since_s)
        if answer == self.state or num < self._agreeing:
            return []
        self.state = answer
        return [] if answer == "playing" else [{"event": answer, "at_s": since_s}]


def play_event(play: Play) -> dict[str, Any]:
    """Returns the event of a whole play."""
    return {"event": "play"} | _about(play) | _whole(play)


def read_plays(found: object) -> list[Play]:
    """Returns the plays that `dataclasses.asdict` turned into dictionaries; anything else is
    skipped.
    """
    plays = []
    for fields in found if isinstance(found, list) else []:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            plays.append(_read_play(fields))
    return plays


def _read_play(fields: dict[str, Any]) -> Play:
    numbers = {name: float(fields[name]) for name in _NUMBERS}
    stretches = [(float(begin), float(end)) for begin, end in fields["stretches"]]
    track = {name: fields["track"][name] for name in (*_NAMES, *TAG_NAMES)}
    read: dict[str, Any] = {**fields, **numbers, "stretches": stretches, "track": track}
    return Play(**read)


def _joined(stretches: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns stretches in order, those that overlap or nearly touch as one."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(stretches):
        if joined and begin <= joined[-1][1] + 1.0:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _track(found: Match) -> dict[str, Any]:
    return {name: getattr(found, name) for name in _NAMES} | dataclasses.asdict(found.tags)


def _about(play: Play) -> dict[str, Any]:
    return {"play": play.id, "at_s": play.begin_s, **play.track, "first_s": play.first_offset_s}


def _whole(play: Play) -> dict[str, Any]:
    return {
        "ended_s": play.end_s,
        "last_s": round(play.last_offset_s, 3),
        "played_s": round(play.played_s, 3),
        "gaps_s": [[round(end - play.begin_s, 1), round(to - end, 1)] for end, to in play.gaps],
        "tempo": play.tempo,
        "score": play.score,
        "confidence": play.confidence,
    }
