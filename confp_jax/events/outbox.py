"""A bounded queue of events on disk: what could not be delivered waits, also over a restart."""

import json
import logging
import pathlib
import threading
from typing import Any

from confp_jax.database.shards import write_error
from confp_jax.files import write_atomically

_log = logging.getLogger(__name__)
MOST_EVENTS = 10_000


class Outbox:
    """A folder with one file an event, oldest first; beyond the bound the oldest are dropped."""

    def __init__(self, folder: pathlib.Path, *, most: int = MOST_EVENTS):
        """Opens or makes it.

        Raises:
          DatabaseError: it cannot be written.
        """
        self.num_dropped = 0
        self._folder, self._most = folder, most
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        for partial in folder.glob("*.part"):
            partial.unlink(missing_ok=True)
        self._numbers = sorted(int(p.stem) for p in folder.glob("*.json") if p.stem.isdecimal())
        self._next = self._numbers[-1] + 1 if self._numbers else 1

    def __len__(self) -> int:
        return len(self._numbers)

    def put(self, event: dict[str, Any]) -> None:
        """Adds an event.

        Raises:
          DatabaseError: the disk is full.
        """
        with self._lock:
            while len(self._numbers) >= self._most:
                self._remove(self._numbers[0])
                self.num_dropped += 1
                _log.warning("%s: %d events wait; the oldest was dropped", self._folder, self._most)
            path = self._path(self._next)
            try:
                write_atomically(path, json.dumps(event, ensure_ascii=False))
            except OSError as error:
                raise write_error(self._folder, error) from error
            self._numbers.append(self._next)
            self._next += 1

    def oldest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns the oldest event with its number; a file that is none is removed."""
        with self._lock:
            while self._numbers:
                number = self._numbers[0]
                try:
                    return number, json.loads(self._path(number).read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    self._remove(number)
            return None

    def done(self, number: int) -> None:
        """Removes an event that was delivered."""
        with self._lock:
            if number in self._numbers:
                self._remove(number)

    def _remove(self, number: int) -> None:
        self._numbers.remove(number)
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number:012d}.json"
