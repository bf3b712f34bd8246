"""`watch`: keeps a database like its folders, while files come, change, move and go.

The file system says that something happened (inotify, or a poll); what happened is read from the
files. A search of the folders every ten minutes finds what no event reported.
"""

import logging
import os
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import watchfiles

from confp_jax.audio.folders import audio_among, find_audio, is_folder
from confp_jax.database import Database, DatabaseError
from confp_jax.database.roots import is_below, remember_roots
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.library.add import Added, add_paths, update_tracks
from confp_jax.library.places import is_gone, is_unchanged

_log = logging.getLogger(__name__)
SETTLE_S = 3.0
_SEARCH_S = 600.0
_TICK_MS = 1_000
_BUSY_S = 5.0  # until what could not be written is tried again
_POLL_MS = 2_000

_State = tuple[int, int]  # a file's size and time


class Watch:
    """Folders whose music a database follows."""

    def __init__(
        self,
        database: Database,
        embedder: Embedder,
        folders: Sequence[pathlib.Path],
        *,
        remove: bool = False,
        poll: bool = False,
        settle_s: float = SETTLE_S,
    ):
        """Prepares it.

        Args:
          database: the database to keep up to date.
          embedder: its model.
          folders: the folders to watch, with all below them.
          remove: remove tracks whose files are gone; else they are reported as "vanished".
          poll: look at the files, as where a network's file system gives no events.
          settle_s: how long a file must not have changed to count as completely written.
        """
        self._database = database
        self._embedder = embedder
        self._folders = [pathlib.Path(os.path.realpath(folder)) for folder in folders]
        self._remove = remove
        self._poll = poll
        self._waiting = Waiting(settle_s)
        self._settle_s = settle_s
        self._failed: dict[str, _State] = {}
        self._vanished: set[str] = set()
        # When a file was last seen to vanish; at the start, tracks may have vanished before.
        self._gone_at_s: float | None = time.monotonic()
        self._doubtful: set[str] = set()
        self._is_rooted = False
        self._next_search_s = 0.0
        self._not_before_s = 0.0
        self._trouble = ""

    def run(self, stop: threading.Event) -> Iterator[Added]:
        """Yields what becomes of files, until `stop` is set. A kill loses at most the file that is
        being read.
        """
        for changed in self._changes(stop):
            self._note(changed)
            if time.monotonic() >= self._next_search_s:
                self._search()
            if time.monotonic() >= self._not_before_s:
                yield from self._follow()

    def _changes(self, stop: threading.Event) -> Iterator[list[str]]:
        """Yields the paths of events, at least once a second; a folder that is away comes back."""
        while not stop.is_set():
            present = [folder for folder in self._folders if is_folder(folder)]
            identities = _identities(self._folders)
            if not present:
                yield []
                stop.wait(_TICK_MS / 1000)
                continue
            self._next_search_s = 0.0  # after the first events: what came before them
            try:
                for changes in self._events(present, stop):
                    yield [path for _, path in changes]
                    if _identities(self._folders) != identities:
                        self._gone_at_s = time.monotonic()
                        break
            except OSError as error:  # as when the kernel has no more watches to give
                if self._poll:
                    raise DatabaseError(
                        f"{self._folders[0]}: cannot be watched ({error})"
                    ) from error
                _log.warning("the folders give no events (%s): they are looked at instead", error)
                self._poll = True

    def _events(
        self, folders: list[pathlib.Path], stop: threading.Event
    ) -> Iterator[set[tuple[watchfiles.Change, str]]]:
        return watchfiles.watch(
            *folders,
            watch_filter=lambda _, path: not is_below(path, self._own_folder),
            debounce=_TICK_MS // 2,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            stop_event=stop,
            force_polling=self._poll or None,
            poll_delay_ms=_POLL_MS,
            ignore_permission_denied=True,
            raise_interrupt=True,
        )

    @property
    def _own_folder(self) -> str:
        return os.path.realpath(self._database.folder)

    def _note(self, paths: Iterable[str]) -> None:
        """Notes files that came or changed, and that one has gone."""
        known = None
        for path in audio_among([pathlib.Path(path) for path in paths], below=self._folders):
            known = self._database.known_files() if known is None else known
            if not is_unchanged(path, known.get(os.path.realpath(path))):
                self._waiting.note(path)
        if any(not os.path.lexists(path) for path in paths):
            self._gone_at_s = time.monotonic()

    def _search(self) -> None:
        """Looks for files that no event reported."""
        known = self._database.known_files()
        for path in find_audio([folder for folder in self._folders if is_folder(folder)]).files:
            if not is_unchanged(path, known.get(os.path.realpath(path))):
                self._waiting.note(path)
        self._gone_at_s = time.monotonic()
        self._next_search_s = time.monotonic() + _SEARCH_S

    def _follow(self) -> Iterator[Added]:
        """Writes what is settled; removals wait for additions, which may be the same file."""
        ready = [p for p in self._waiting.settled() if self._failed.get(str(p)) != _state(p)]
        try:
            if not self._is_rooted:
                with self._database.writing():
                    remember_roots(self._database, map(str, self._folders))
                self._is_rooted = True
            if ready:
                yield from self._add(ready)
            if self._is_time_to_drop():
                self._gone_at_s = None
                yield from self._drop_gone()
            self._trouble = ""
        except DatabaseError as error:  # another process writes, or the disk is full
            if str(error) != self._trouble:
                self._trouble = str(error)
                _log.warning("%s; tried again until it works", error)
            for path in ready:
                self._waiting.note(path)
            self._gone_at_s = time.monotonic()
            self._not_before_s = time.monotonic() + _BUSY_S

    def _is_time_to_drop(self) -> bool:
        """Returns whether a file has gone, and would have come elsewhere by now if it was moved."""
        since = self._gone_at_s
        return (
            since is not None and time.monotonic() - since >= self._settle_s and not self._waiting
        )

    def _add(self, paths: list[pathlib.Path]) -> Iterator[Added]:
        for added in add_paths(self._database, self._embedder, paths):
            if added.status == "failed":
                state = _state(pathlib.Path(added.path))
                if state:
                    self._failed[added.path] = state
            if added.status != "unchanged":
                self._vanished.discard(added.path)
                yield added

    def _drop_gone(self) -> Iterator[Added]:
        """Reports tracks whose files were gone a while ago and did not come elsewhere since."""
        gone = {track.path for track in self._database.tracks() if self._is_gone(track.path)}
        doubtful = gone & self._doubtful
        if gone - doubtful:
            self._gone_at_s = time.monotonic()  # looked at once more
        self._doubtful = gone
        if not doubtful:
            return
        for result in update_tracks(
            self._database, self._embedder, prune=self._remove, only=doubtful
        ):
            if result.status == "vanished":
                if result.path in self._vanished:
                    continue
                self._vanished.add(result.path)
            yield result

    def _is_gone(self, path: str) -> bool:
        try:
            return any(is_below(path, str(folder)) for folder in self._folders) and is_gone(path)
        except OSError:
            return False  # it may be there


class Waiting:
    """Files that may still be written: each waits until it has not changed for a while."""

    def __init__(self, settle_s: float):
        self._settle_s = settle_s
        self._seen: dict[pathlib.Path, tuple[_State | None, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._seen)

    def note(self, path: pathlib.Path) -> None:
        """Notes a file that changed."""
        state = _state(path)
        if path not in self._seen or self._seen[path][0] != state:
            self._seen[path] = (state, time.monotonic())

    def settled(self) -> list[pathlib.Path]:
        """Returns the files that are complete, and forgets them and those that have gone."""
        now = time.monotonic()
        ready = []
        for path, (before, since) in list(self._seen.items()):
            state = _state(path)
            if state is None:
                del self._seen[path]
            elif state != before:
                self._seen[path] = (state, now)
            elif now - since >= self._settle_s:
                del self._seen[path]
                ready.append(path)
        return ready


def _state(path: pathlib.Path) -> _State | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns


def _identities(folders: Sequence[pathlib.Path]) -> list[tuple[int, int] | None]:
    """Returns which folders are there: another one in its place has no watch yet."""
    found: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            about = folder.stat()
        except OSError:
            found.append(None)
            continue
        found.append((about.st_dev, about.st_ino))
    return found
