"""What stations played, on disk: one JSON line an event in daily files, and what is under way.

An event is written once: what a kill left unwritten is written at the next start, and what it left
written is not written again.
"""

import datetime
import os
import pathlib
import re
import threading
import zlib
from collections.abc import Iterator
from typing import Any

from confp_jax.database.shards import write_error
from confp_jax.files import write_atomically
from confp_jax.library.clock import iso
from confp_jax.texts import parse_json, steady_json

_STATES = "under way"
_REMEMBERED_DAYS = 3


class AirLog:
    """The folder of one radio's log; threads may share it."""

    def __init__(self, folder: pathlib.Path):
        """Opens or makes it.

        Raises:
          DatabaseError: it cannot be written.
        """
        self.folder = folder
        self._lock = threading.Lock()
        try:
            (folder / _STATES).mkdir(parents=True, exist_ok=True)
            self._written = self._read_written()
        except OSError as error:
            raise write_error(folder, error) from error

    def write(self, station: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Appends events to the files of the days that they began on; returns those that had not
        been written before, as they were written.

        Raises:
          DatabaseError: the disk is full.
        """
        written = []
        with self._lock:
            for event in events:
                line = written_event(station, event)
                key = _key(line)
                if key in self._written:
                    continue
                self._append(self.folder / f"{line['at'][:10]}.jsonl", line)
                self._written[key] = line["at"][:10]
                written.append(line)
            self._forget()
        return written

    def save(self, station: str, state: dict[str, Any]) -> None:
        """Keeps what is under way at a station.

        Raises:
          DatabaseError: the disk is full.
        """
        try:
            write_atomically(self._state_path(station), steady_json(state))
        except OSError as error:
            raise write_error(self.folder, error) from error

    def load(self, station: str) -> dict[str, Any]:
        """Returns what was under way at a station; {} where nothing is known."""
        return _read_state(self._state_path(station))

    def _state_path(self, station: str) -> pathlib.Path:
        return self.folder / _STATES / f"{file_name(station)}.json"

    def _append(self, path: pathlib.Path, line: dict[str, Any]) -> None:
        data = steady_json(line).encode() + b"\n"
        try:
            with open(path, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.folder, error) from error

    def _read_written(self) -> dict[tuple, str]:
        """Returns the keys of the newest days' events, after cutting off what a kill left of a
        line.
        """
        written: dict[tuple, str] = {}
        for path in sorted(self.folder.glob("????-??-??.jsonl"))[-_REMEMBERED_DAYS:]:
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(path, whole)
            written |= {_key(event): path.stem for event in read_events(path)}
        return written

    def _forget(self) -> None:
        days = sorted(set(self._written.values()))
        if len(days) > _REMEMBERED_DAYS:
            kept = days[-_REMEMBERED_DAYS:]
            self._written = {key: day for key, day in self._written.items() if day in kept}


def read_events(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the events of a daily file; a line that is not an event is skipped."""
    for line in path.read_bytes().split(b"\n"):
        try:
            event = parse_json(line.decode(errors="replace"))
            seconds_of(event["at"])
        except (ValueError, KeyError, TypeError):
            continue
        if all(isinstance(event.get(name), str) for name in ("event", "station")):
            yield event


def read_under_way(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what is under way at all stations of a log, as it was saved."""
    states = [_read_state(path) for path in sorted((folder / _STATES).glob("*.json"))]
    return [state for state in states if "station" in state]


def _read_state(path: pathlib.Path) -> dict[str, Any]:
    """Returns what was saved of a station; {} where it is missing or damaged."""
    try:
        state = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def file_name(station: str) -> str:
    """Returns a station's name as part of a file's name; stations have different ones."""
    plain = re.sub(r"[^\w-]+", "_", station).strip("_")[:80]
    return plain if plain == station else f"{plain}-{zlib.crc32(station.encode()):08x}".lstrip("-")


def seconds_of(moment: str) -> float:
    """Returns a moment of a log in seconds since 1970."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def written_event(station: str, event: dict[str, Any]) -> dict[str, Any]:
    """Returns an event as the log has it: with its station, and its moments in ISO 8601."""
    named_event: dict[str, Any] = {"event": event["event"], "station": station, **event}
    named = {"at_s": "at", "ended_s": "ended"}
    return {
        named.get(k, k): iso(value) if k in named else value for k, value in named_event.items()
    }


def _key(line: dict[str, Any]) -> tuple:
    """Names an event: a play begins and ends once, a state begins once at a moment."""
    return line["event"], line["station"], line.get("play") or line["at"]
