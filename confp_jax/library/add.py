"""Music into a database, and the database after its music: add, update."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

from confp_jax.audio.decode import find_audio
from confp_jax.database import Database, ModelStamp, NewTrack, StoredTrack
from confp_jax.database.catalogue import storable
from confp_jax.database.compact import merge_small_shards
from confp_jax.database.records import UPLOADED, KnownFile
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.files import ReadFile, read_files
from confp_jax.index import on_disk

_COMMIT_SECONDS = 3600.0  # of audio: what a kill can lose, and what an add holds in memory
_COMMIT_FILES = 1000  # that were hashed and are there already


@dataclasses.dataclass(frozen=True)
class Added:
    """What became of one file.

    "added", "unchanged" or "failed" (then `error` says why); of an update also "updated",
    "vanished" and "removed".
    """

    path: str
    status: str
    duration_s: float = 0.0
    num_fingerprints: int = 0
    error: str = ""


Report = Callable[[Added, int], None]


class _Commits:
    """Gathers what is to be written; each commit is atomic."""

    def __init__(self, database: Database):
        self._database = database
        self._tracks: list[NewTrack] = []
        self._replaced: list[int] = []
        self._files: dict[str, KnownFile] = {}

    def add(self, track: NewTrack) -> None:
        self._tracks.append(track)

    def remove(self, track: StoredTrack) -> None:
        self._replaced.append(track.id)

    def remember(self, path: pathlib.Path, file: KnownFile) -> None:
        self._files[str(path.resolve())] = file

    def when_due(self) -> None:
        if (
            sum(track.duration_s for track in self._tracks) >= _COMMIT_SECONDS
            or len(self._files) >= _COMMIT_FILES
        ):
            self.commit()

    def commit(self) -> None:
        tracks, replaced, files = self._tracks, self._replaced, self._files
        self._tracks, self._replaced, self._files = [], [], {}
        self._database.add(tracks, replacing=replaced)
        if files:
            self._database.remember(files)


def add_paths(
    database: Database,
    embedder: Embedder,
    paths: Sequence[pathlib.Path],
    *,
    fold: bool = True,
    report: Report = lambda added, total: None,
) -> list[Added]:
    """Adds files and the audio files of folders; a bad file is reported and the rest goes on.

    What was read before and has not changed since (size and time) is not read again; what has the
    content of a track that is there is not decoded. Commits about every hour of audio, so that a
    kill loses little. Without `fold` the index is left for later. `report(added, total)` is called
    after every file.

    Raises:
      OtherModelError: the database has become another model's since it was opened.
      DatabaseError: another process is writing, or the disk is full.
    """
    files = find_audio(list(paths))
    results: list[Added] = []

    def done(result: Added) -> None:
        results.append(result)
        report(result, len(files))

    with database.writing():
        database.stamp.must_fit(embedder.stamp)
        known = database.known_files()
        contents = {track.sha256 for track in database.tracks()}
        unread = _Unread(files, known, done)
        commits = _Commits(database)
        try:
            for read in read_files(
                embedder, unread, wanted=lambda file: file.sha256 not in contents
            ):
                unread.catch_up(read.path)
                if read.track:
                    contents.add(read.track.sha256)
                    commits.add(read.track)
                elif read.file:
                    commits.remember(read.path, read.file)
                done(_added(read, "added"))
                commits.when_due()
            unread.finish()
        finally:  # Ctrl-C keeps what was done
            commits.commit()
        _tidy(database, fold=fold)
    return results


def add_track(
    database: Database, track: NewTrack, *, model: ModelStamp
) -> tuple[StoredTrack, bool]:
    """Adds one track whose fingerprints (by `model`) are there already, in one commit: the track,
    and whether it is new.

    It is not where there is a track of the same content, which is then returned.

    The index is left for later (`on_disk.fold_if_due`): the track is searched exactly until then.

    Raises:
      OtherModelError: the database is not of this model.
      DatabaseError: another process is writing, or the disk is full.
    """
    with database.writing():
        database.stamp.must_fit(model)
        is_new = not database.has(track.sha256)
        if is_new:
            database.add([track])
            _tidy(database, fold=False)
        stored = next(stored for stored in database.tracks() if stored.sha256 == track.sha256)
    return stored, is_new


class _Unread:
    """Files that must be read; those that are known are told of in their turn, also while others
    are read ahead.
    """

    def __init__(
        self,
        files: Sequence[pathlib.Path],
        known: dict[str, KnownFile],
        done: Callable[[Added], None],
    ):
        self._files, self._known, self._done = files, known, done
        self._passed: collections.deque[tuple[pathlib.Path, bool]] = collections.deque()

    def __iter__(self) -> Iterator[pathlib.Path]:
        for path in self._files:
            unchanged = _is_unchanged(path, self._known.get(storable(str(path.resolve()))))
            if unchanged and not self._passed:
                self._done(Added(str(path), "unchanged"))
                continue
            self._passed.append((path, unchanged))
            if not unchanged:
                yield path

    def catch_up(self, until: pathlib.Path) -> None:
        """To be called before this file is reported: takes it off the list."""
        while self._passed and self._passed[0][0] != until:
            self._done(Added(str(self._passed.popleft()[0]), "unchanged"))
        self._passed.popleft()

    def finish(self) -> None:
        """Reports the known files that came last."""
        while self._passed:
            self._done(Added(str(self._passed.popleft()[0]), "unchanged"))


def _is_unchanged(path: pathlib.Path, known: KnownFile | None) -> bool:
    if known is None:
        return False
    try:
        stat = path.stat()
    except OSError:
        return False  # reading it will say why
    return (stat.st_size, stat.st_mtime_ns) == (known.size_bytes, known.mtime_ns)


def _added(read: ReadFile, status: str) -> Added:
    if read.error:
        return Added(str(read.path), "failed", error=read.error)
    if read.track is None:
        return Added(str(read.path), "unchanged")
    return Added(str(read.path), status, read.track.duration_s, len(read.track.vectors))


def update_tracks(
    database: Database,
    embedder: Embedder,
    *,
    prune: bool = False,
    report: Report = lambda added, total: None,
) -> list[Added]:
    """Looks at every track's file again: one that changed is fingerprinted anew, one that vanished
    is told of.

    A track whose file is now damaged stays as it is ("failed").

    Args:
      prune: remove the tracks whose files vanished.

    Raises:
      OtherModelError: the database has become another model's since it was opened.
      DatabaseError: another process is writing, or the disk is full.
    """
    results: list[Added] = []
    with database.writing():
        database.stamp.must_fit(embedder.stamp)
        tracks = database.tracks()

        def done(result: Added) -> None:
            results.append(result)
            report(result, len(tracks))

        known = database.known_files()
        contents = {track.sha256 for track in tracks}
        commits = _Commits(database)
        changed: dict[pathlib.Path, list[StoredTrack]] = {}
        for track in tracks:
            path = pathlib.Path(track.path)
            if track.path.startswith(UPLOADED):
                done(Added(track.path, "unchanged"))
            elif not path.is_file():
                done(Added(track.path, "removed" if prune else "vanished"))
                if prune:
                    commits.remove(track)
            elif (
                _is_unchanged(path, known.get(track.path))
                and known[track.path].sha256 == track.sha256
            ):
                done(Added(track.path, "unchanged"))
            else:
                changed.setdefault(path, []).append(track)
        try:
            for read in read_files(
                embedder, changed, wanted=lambda file: file.sha256 not in contents
            ):
                done(_update(read, changed[read.path], contents, commits))
                commits.when_due()
        finally:
            commits.commit()
        _tidy(database)
    return results


def _update(
    read: ReadFile, tracks: list[StoredTrack], contents: set[str], commits: _Commits
) -> Added:
    """`tracks` are those that this path stands for: more than one where its content was once added
    under the same name.
    """
    if read.error:
        return _added(read, "failed")
    stale = [track for track in tracks if read.file and track.sha256 != read.file.sha256]
    if read.track:
        contents.add(read.track.sha256)
        commits.add(read.track)
    elif read.file:
        commits.remember(read.path, read.file)
    for track in stale:
        commits.remove(track)
    # Without a new track, a file that changed has become a copy of another one.
    return Added(str(read.path), "removed") if stale and not read.track else _added(read, "updated")


def _tidy(database: Database, *, fold: bool = True) -> None:
    """Few shards, and (with `fold`) an index that holds most rows, whatever was added."""
    merge_small_shards(database)
    on_disk.fold_if_due(database, mirror_alone=not fold)
