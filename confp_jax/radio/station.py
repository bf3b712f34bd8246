"""One station on its way: connected, heard, written down, and connected again."""

import dataclasses
import logging
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode_blocks
from confp_jax.audio.level import LevelMeter
from confp_jax.audio.microphone import microphone_blocks
from confp_jax.audio.radio import station_blocks
from confp_jax.database import DatabaseError
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.library.clock import Moments
from confp_jax.library.live import LiveDatabase, live_moments
from confp_jax.library.monitor import Moment
from confp_jax.library.searcher import Match
from confp_jax.radio.air_log import AirLog
from confp_jax.radio.plays import Plays, Sighting, read_plays
from confp_jax.radio.stations import StationConfig

_log = logging.getLogger(__name__)
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_STEADY_S = 60.0  # after this long a connection counts as a good one
_HEARD_AGAIN_S = 20.0  # of a file that is gone on with
_MOST_TITLES = 200

Report = Callable[[dict[str, Any]], None]


class Station:
    """One station; `run` belongs to a thread of its own."""

    def __init__(
        self,
        config: StationConfig,
        live: LiveDatabase,
        log: AirLog,
        report: Report,
        *,
        agreeing: int,
    ):
        """Continues what was under way when the program ended."""
        self._config = config
        self._live = live
        self._log = log
        self._report = report
        self._plays = Plays(config.name, agreeing=agreeing)
        self._titles: list[tuple[float, str]] = []
        self._is_lost = False
        state = log.load(config.name)
        self._file = _file_state(config)
        if config.is_file and state.get("file") != self._file:
            state = {}  # another recording
        self._is_over = state.get("is_over", False)
        self._plays.open = read_plays(state.get("plays"))
        self._plays.state = state.get("state", "")
        self._begins_s = config.begins_s or state.get("begins_s") or time.time()
        self._place_s = state.get("place_s", 0.0)  # of a file
        self._last_title = state.get("title", "")

    def run(self, stop: threading.Event) -> None:
        """Listens until `stop` is set, or a file is over."""
        wait_s = _FIRST_WAIT_S
        while not (stop.is_set() or self._is_over):
            began_s = time.monotonic()
            try:
                self._listen(stop)
                if self._config.is_file or stop.is_set():
                    break
                reason = "the stream is over"
            except (DecodeError, AudioError) as error:
                if stop.is_set():  # too little was heard, because it was stopped
                    break
                reason = str(error)
                if self._config.is_file:
                    _log.error("%s: %s", self._config.name, reason)
                    break
            except DatabaseError as error:  # a full disk: what is under way is kept in memory
                reason = str(error)
            except Exception as error:  # whatever it is, a station is heard again
                if self._config.is_file:
                    raise
                _log.exception("%s: an error of the program", self._config.name)
                reason = f"{type(error).__name__}: {error}"
            self._lose(reason)
            if time.monotonic() - began_s > _STEADY_S:
                wait_s = _FIRST_WAIT_S
            stop.wait(wait_s * random.uniform(0.8, 1.2))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if self._config.is_file and not stop.is_set():
            self._write(self._plays.end())
            self._is_over = True
        elif not self._config.is_file:
            self._write(self._plays.end(time.time()))
        self._save()

    def _lose(self, reason: str) -> None:
        _log.warning("%s: %s; connected again later", self._config.name, reason)
        if not self._is_lost:
            self._is_lost = True
            try:
                self._write([{"event": "lost", "at_s": time.time(), "reason": reason}])
            except DatabaseError as error:
                _log.warning("%s: %s", self._config.name, error)

    def _listen(self, stop: threading.Event) -> None:
        """Hears one connection."""
        rate_hz = self._live.sample_rate_hz
        clock = self._clock()
        meter = LevelMeter(rate_hz, gate_db=self._config.silence_db)
        blocks = meter.through(clock.seen(self._until(stop, self._blocks(rate_hz))))
        self._plays.resume(clock.seconds_at(0.0) or time.time())
        place_s = 0.0
        for moment in live_moments(
            self._live, blocks, alarms_per_hour=self._config.alarms_per_hour
        ):
            place_s = moment.heard_s
            self._hear(clock, moment, meter.loudest_db(place_s))
        if not place_s and not stop.is_set():
            raise DecodeError(f"{self._config.source}: sent no audio")

    def _hear(self, clock: Moments, moment: Moment, level_db: float) -> None:
        def sighting(found: Match) -> Sighting:
            begin_s = clock.seconds_at(found.query_offset_s) or 0.0
            return Sighting(found, begin_s, begin_s + found.length_s)

        now_s = clock.seconds_at(moment.heard_s) or time.time()
        if self._is_lost:
            self._is_lost = False
            self._write([{"event": "connected", "at_s": now_s}])
        events = self._plays.hear(
            now_s,
            playing=map(sighting, moment.playing),
            finished=map(sighting, moment.finished),
            is_silent=level_db < self._config.silence_db,
        )
        self._place_s = now_s - self._begins_s
        self._save()  # before the events: a play that they name has its name from now on
        self._write(events)
        if events:
            self._save()
        self._report(
            {
                "event": "level",
                "station": self._config.name,
                "file": self._file,
                "is_over": self._is_over,
                "level_db": round(level_db, 1),
                "state": self._plays.state,
            }
        )

    def _write(self, events: list[dict[str, Any]]) -> None:
        events = [self._titled(event) for event in events]
        for event in self._log.write(self._config.name, events):
            self._report(event)

    def _titled(self, event: dict[str, Any]) -> dict[str, Any]:
        """Returns an event with the title that the station sent at its middle."""
        if event["event"] not in ("playing", "play", "unknown"):
            return event
        middle_s = (event["at_s"] + event.get("ended_s", time.time())) / 2
        sent = [title for at_s, title in self._titles if at_s <= middle_s]
        return event | {"station_title": sent[-1] if sent else self._last_title}

    def _hear_title(self, title: str) -> None:
        if title == self._last_title:
            return
        self._last_title = title
        self._titles = [*self._titles, (time.time(), title)][-_MOST_TITLES:]
        self._write([{"event": "title", "at_s": time.time(), "station_title": title}])

    def _save(self) -> None:
        state = {
            "station": self._config.name,
            "file": self._file,
            "is_over": self._is_over,
            "plays": [dataclasses.asdict(play) for play in self._plays.open],
            "state": self._plays.state,
            "begins_s": self._begins_s,
            "place_s": self._place_s,
            "title": self._last_title,
        }
        self._log.save(self._config.name, state)

    def _clock(self) -> Moments:
        rate_hz = self._live.sample_rate_hz
        if self._config.is_file:
            return Moments.beginning(rate_hz, self._begins_s + self._first_s())
        return Moments(rate_hz, start=None, is_live=True)

    def _first_s(self) -> float:
        return max(0.0, self._place_s - _HEARD_AGAIN_S)

    def _blocks(self, rate_hz: int) -> Iterator[Float32[np.ndarray, " n"]]:
        config = self._config
        if config.device:
            name = None if config.device == "default" else config.device
            return microphone_blocks(sample_rate_hz=rate_hz, device=name)
        if config.is_file:
            whole = decode_blocks(pathlib.Path(config.source), sample_rate_hz=rate_hz)
            return _later(whole, round(self._first_s() * rate_hz))
        return station_blocks(config.source, sample_rate_hz=rate_hz, on_title=self._hear_title)

    @staticmethod
    def _until(
        stop: threading.Event, blocks: Iterator[Float32[np.ndarray, " n"]]
    ) -> Iterator[Float32[np.ndarray, " n"]]:
        for block in blocks:
            if stop.is_set():
                return
            yield block


def _file_state(config: StationConfig) -> list[int]:
    """Returns what distinguishes a recording from another one at its place; [] of a stream."""
    try:
        about = pathlib.Path(config.source).stat() if config.is_file else None
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns] if about else []


def _later(
    blocks: Iterator[Float32[np.ndarray, " n"]], num: int
) -> Iterator[Float32[np.ndarray, " m"]]:
    """Yields audio without its first `num` samples."""
    for block in blocks:
        if num < len(block):
            yield block[num:]
        num = max(0, num - len(block))
