"""A bounded queue of events on disk: what could not be delivered waits, also over a restart."""

import logging
import pathlib
import re
import threading
import time
import uuid
from typing import Any

from confp_jax.database.shards import write_error
from confp_jax.files import write_atomically
from confp_jax.texts import parse_json, steady_json

_log = logging.getLogger(__name__)
MOST_EVENTS = 10_000
_ABANDONED_S = 3_600.0  # after this long nobody writes a half-written file any more
_NAME = re.compile(r"\d{12}(-[0-9a-f]{8})?")


class Outbox:
    """A folder with one file an event, oldest first; beyond the bound the oldest are dropped.

    Several processes may share the folder: each gives its events names of its own. What waits when
    a process begins may be delivered by it and by the one that left it.
    """

    def __init__(self, folder: pathlib.Path, *, most: int = MOST_EVENTS):
        """Opens or makes it.

        Raises:
          DatabaseError: it cannot be written.
        """
        self.num_dropped = 0
        self._folder = folder
        self._most = most
        self._own = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob("*.part"):
                if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                    partial.unlink(missing_ok=True)
        except FileNotFoundError:  # another process has just completed it
            pass
        except OSError as error:
            raise write_error(folder, error) from error
        self._names = sorted(p.stem for p in folder.glob("*.json") if _NAME.fullmatch(p.stem))
        self._next = int(self._names[-1].split("-")[0]) + 1 if self._names else 1

    def __len__(self) -> int:
        return len(self._names)

    def put(self, event: dict[str, Any]) -> None:
        """Adds an event.

        Raises:
          DatabaseError: the disk is full.
        """
        with self._lock:
            while len(self._names) >= self._most:
                self._remove(self._names[0])
                self.num_dropped += 1
                _log.warning("%s: %d events wait; the oldest was dropped", self._folder, self._most)
            name = f"{self._next:012d}-{self._own}"
            try:
                write_atomically(self._path(name), steady_json(event))
            except OSError as error:
                raise write_error(self._folder, error) from error
            self._names.append(name)
            self._next += 1

    def oldest(self) -> tuple[str, dict[str, Any]] | None:
        """Returns the oldest event with its name; a file that is not an event is removed."""
        with self._lock:
            while self._names:
                name = self._names[0]
                try:
                    event = parse_json(self._path(name).read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    event = None
                if isinstance(event, dict):
                    return name, event
                self._remove(name)
            return None

    def done(self, name: str) -> None:
        """Removes an event that was delivered."""
        with self._lock:
            if name in self._names:
                self._remove(name)

    def _remove(self, name: str) -> None:
        self._names.remove(name)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.json"
