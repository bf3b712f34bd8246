"""Music into a database, and the database after its music: add, update."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from confp_jax.audio.folders import find_audio, is_folder
from confp_jax.audio.tags import read_tags
from confp_jax.database import (
    Database,
    DatabaseError,
    ModelId,
    NewTrack,
    StoredTrack,
)
from confp_jax.database.compact import merge_small_shards
from confp_jax.database.records import UPLOADED, KnownFile
from confp_jax.database.roots import remember_roots
from confp_jax.database.tracks import TracksById
from confp_jax.database.vectors import StoredVectors, decode, encode
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.files import ReadFile, read_files, track_tags
from confp_jax.index import on_disk
from confp_jax.library.commits import Commits
from confp_jax.library.places import Places, is_gone, is_unchanged, sounds_the_same, too_much


@dataclasses.dataclass(frozen=True)
class Added:
    """What became of one file.

    "added", "unchanged", "moved" (its content is that of a track whose file is gone: `path` is now
    that track's), "updated" (it replaces the track of what it was before), "passed over" (it is no
    audio) or "failed" (`error` says why). An update also gives "tagged" (unchanged, its tags had
    not been read before), "removed", and "vanished" (if it was to be removed and was not, `error`
    says why).
    """

    path: str
    status: str
    duration_s: float = 0.0
    num_fingerprints: int = 0
    error: str = ""
    note: str = ""  # what was unusual in a file that was added
    id: int = dataclasses.field(default=0, compare=False)  # of the track, known at the end; 0: none


Report = Callable[[Added, int], None]


def add_paths(
    database: Database,
    embedder: Embedder,
    paths: Sequence[pathlib.Path],
    *,
    rebuild: bool = True,
    passed_over: bool = False,
    report: Report = lambda added, total: None,
) -> list[Added]:
    """Adds files and the audio files of folders; a bad file is reported and the others are added.

    A file that was read before and has not changed since (size and time) is not read again. A file
    with the content of a stored track is not decoded; if the track's own file is gone, its path
    becomes this file's. A file whose tags were edited replaces its old track. Each hour of audio,
    about, is committed, so that a kill loses little.

    Args:
      database: the one to add to.
      embedder: of the database's model.
      paths: files and folders.
      rebuild: build the index if it is due; otherwise it is left for later.
      passed_over: also return the files of folders that are no audio.
      report: called with each result and the number of files.

    Returns:
      One result for each file.

    Raises:
      OtherModelError: the database has become another model's since it was opened.
      DatabaseError: another process is writing, or the disk is full.
    """
    found = find_audio(paths)
    with database.writing():
        database.model_id.check_compatible(embedder.model_id)
        remember_roots(database, (os.path.realpath(path) for path in paths if is_folder(path)))
        adding = _Adding(database, len(found.files) + len(found.failed), report)
        for path, error in found.failed:
            adding.done(Added(str(path), "failed", error=error))
        try:
            adding.read(embedder, found.files)
        finally:  # Ctrl-C keeps what was done
            adding.commits.commit()
        _tidy(database, rebuild=rebuild)
        results = adding.results()
    others = found.passed_over if passed_over else []
    return results + [Added(str(path), "passed over") for path in others]


class _Adding:
    """One run of `add_paths`: what becomes of each file."""

    def __init__(self, database: Database, total: int, report: Report):
        self.commits = Commits(database)
        self._database = database
        self._total = total
        self._report = report
        self._places = Places(database)
        self._contents = set(self._places.tracks)
        self._results: list[tuple[Added, str]] = []
        self._before: tuple[StoredVectors | np.ndarray, TracksById] | None = None

    def read(self, embedder: Embedder, files: Sequence[pathlib.Path]) -> None:
        """Reads the files that are not known, and reports all."""
        unread = _Unread(files, self._places.known, self._known)
        for read in read_files(
            embedder, unread, wanted=lambda file: file.sha256 not in self._contents
        ):
            unread.catch_up(read.path)
            self._take(read)
            self.commits.when_due()
        unread.finish()

    def done(self, result: Added, sha256: str = "") -> None:
        """Notes and reports what became of a file."""
        self._results.append((result, sha256))
        self._report(result, self._total)

    def results(self) -> list[Added]:
        """Returns all results with the ids of their tracks."""
        ids = self._database.ids_of([sha256 for _, sha256 in self._results])
        return [
            dataclasses.replace(result, id=ids.get(sha256, 0)) for result, sha256 in self._results
        ]

    def _known(self, path: pathlib.Path) -> None:
        """A file that has not changed since it was read."""
        self._there(path, self._places.known[os.path.realpath(path)])

    def _take(self, read: ReadFile) -> None:
        if read.error or read.file is None:
            return self.done(_added(read, "failed"))
        self._places.see(os.path.realpath(read.path), read.file)
        if read.track is None:
            self.commits.remember(read.path, read.file)
            return self._there(read.path, read.file)
        self._contents.add(read.track.sha256)
        self.commits.add(read.track)
        replaced = [
            old for old in self._places.at(read.track.path) if self._edited(old, read.track)
        ]
        for old in replaced:
            self.commits.give_up(old, self._places)
        return self.done(_added(read, "updated" if replaced else "added"), read.file.sha256)

    def _there(self, path: pathlib.Path, file: KnownFile) -> None:
        track = self._places.tracks.get(file.sha256)
        moved = self._places.moved_to(track) if track else None
        if track and moved:
            self.commits.move(track, moved)
            self._places.tracks[file.sha256] = dataclasses.replace(track, path=moved)
        self.done(Added(str(path), "moved" if moved else "unchanged"), file.sha256)

    def _edited(self, old: StoredTrack, new: NewTrack) -> bool:
        """Returns whether a new track is an old one's audio with other tags."""
        if self._before is None:
            before = self._database.snapshot()
            self._before = before.vectors, TracksById(before.tracks)
        vectors, tracks = self._before
        stored = tracks.get(old.id)
        if stored is None:
            return False
        rows = vectors[stored.first_row : stored.first_row + stored.num_rows]
        return sounds_the_same(
            rows.astype(np.float32), decode(encode(new.vectors, self._database.precision))
        )


def add_track(database: Database, track: NewTrack, *, model: ModelId) -> tuple[StoredTrack, bool]:
    """Adds one track, with fingerprints by `model`, in one commit.

    The index is left for later (`on_disk.rebuild_if_due`): until then the track is searched
    exactly.

    Returns:
      The stored track, and True; or the track that has the same content already, and False.

    Raises:
      OtherModelError: the database is not of this model.
      DatabaseError: another process is writing, or the disk is full.
    """
    with database.writing():
        database.model_id.check_compatible(model)
        is_new = not database.has(track.sha256)
        if is_new:
            database.add([track])
            _tidy(database, rebuild=False)
        stored = database.track(database.ids_of([track.sha256])[track.sha256])
    if stored is None:
        raise DatabaseError(f"{database.folder}: the track was removed meanwhile; add it again")
    return stored, is_new


class _Unread:
    """Files that must be read; those that are known are reported in their turn, also while others
    are read ahead.
    """

    def __init__(
        self,
        files: Sequence[pathlib.Path],
        known: dict[str, KnownFile],
        report: Callable[[pathlib.Path], None],
    ):
        self._files = files
        self._known = known
        self._report = report
        self._passed: collections.deque[tuple[pathlib.Path, bool]] = collections.deque()

    def __iter__(self) -> Iterator[pathlib.Path]:
        for path in self._files:
            unchanged = is_unchanged(path, self._known.get(os.path.realpath(path)))
            if unchanged and not self._passed:
                self._report(path)
                continue
            self._passed.append((path, unchanged))
            if not unchanged:
                yield path

    def catch_up(self, until: pathlib.Path) -> None:
        """Takes a file off the list; called before this file is reported."""
        while self._passed and self._passed[0][0] != until:
            self._report(self._passed.popleft()[0])
        self._passed.popleft()

    def finish(self) -> None:
        """Reports the known files that came last."""
        while self._passed:
            self._report(self._passed.popleft()[0])


def _added(read: ReadFile, status: str) -> Added:
    if read.error:
        return Added(str(read.path), "failed", error=read.error)
    if read.track is None:
        return Added(str(read.path), "unchanged")
    track = read.track
    return Added(str(read.path), status, track.duration_s, len(track.vectors), note=read.note)


def update_tracks(
    database: Database,
    embedder: Embedder,
    *,
    prune: bool = False,
    force: bool = False,
    rebuild: bool = True,
    only: Collection[str] | None = None,
    report: Report = lambda added, total: None,
) -> list[Added]:
    """Re-checks every track's file.

    A track whose file changed is fingerprinted again, one whose content is in another file gets its
    path, one whose tags were never read gets them, and one whose file is gone is reported. A track
    whose file is now damaged or cannot be opened stays as it is ("failed").

    Args:
      database: the one to update.
      embedder: of the database's model.
      prune: remove the tracks whose files vanished, unless all of a root or most tracks did.
      force: remove them also then.
      rebuild: build the index if it is due; otherwise it is left for later.
      only: check only the tracks that have these paths.
      report: called with each result and the number of tracks.

    Returns:
      One result for each track.

    Raises:
      OtherModelError: the database has become another model's since it was opened.
      DatabaseError: another process is writing, or the disk is full.
    """
    with database.writing():
        database.model_id.check_compatible(embedder.model_id)
        update = _Update(database, report, only)
        changed = update.look()
        try:
            for read in read_files(
                embedder, changed, wanted=lambda file: file.sha256 not in update.contents
            ):
                update.take(read, changed[read.path])
            update.finish(prune=prune, force=force)
        finally:
            update.commits.commit()
        _tidy(database, rebuild=rebuild)
    return update.results


class _Update:
    """One run of `update_tracks`."""

    def __init__(self, database: Database, report: Report, only: Collection[str] | None):
        self.results: list[Added] = []
        self._only = only
        self.commits = Commits(database)
        self._database = database
        self._report = report
        self._places = Places(database)
        self.contents = set(self._places.tracks)
        self._gone: list[StoredTrack] = []  # their files are not there
        self._stale: list[tuple[StoredTrack, bool]] = []  # and whether another track replaces it

    def look(self) -> dict[pathlib.Path, list[StoredTrack]]:
        """Sorts the tracks; returns those that must be read, by path: more than one where a path's
        content changed before.
        """
        changed: dict[pathlib.Path, list[StoredTrack]] = {}
        for track in self._places.tracks.values():
            if self._only is not None and track.path not in self._only:
                continue
            known = self._places.known.get(track.path)
            try:
                if track.path.startswith(UPLOADED):
                    self._done(track.path, "unchanged", track)
                elif is_gone(track.path):
                    self._gone.append(track)
                elif known and known.sha256 == track.sha256 and is_unchanged(track.path, known):
                    self._unchanged(track)
                else:
                    changed.setdefault(pathlib.Path(track.path), []).append(track)
            except OSError as error:
                text = f"{track.path}: cannot be read ({error.strerror})"
                self._done(track.path, "failed", track, error=text)
        return changed

    def _unchanged(self, track: StoredTrack) -> None:
        """Notes a track whose file is as it was; reads its tags if nobody has."""
        if track.tags is None:
            self.commits.tag(track, track_tags(read_tags(pathlib.Path(track.path))))
            self.commits.when_due()
        self._done(track.path, "unchanged" if track.tags else "tagged", track)

    def take(self, read: ReadFile, tracks: list[StoredTrack]) -> None:
        """Notes what became of a file that `tracks` have as their path."""
        stale = [track for track in tracks if read.file and track.sha256 != read.file.sha256]
        if not read.error and read.file:
            self._places.see(os.path.realpath(read.path), read.file)
            self._stale += [(track, read.track is not None) for track in stale]
            if read.track:
                self.contents.add(read.track.sha256)
                self.commits.add(read.track)
            else:
                self.commits.remember(read.path, read.file)
        if read.error or read.track or not stale:
            result = _added(read, "updated")
            self._done(result.path, result.status, tracks[0], like=result)
        self.commits.when_due()

    def finish(self, *, prune: bool, force: bool) -> None:
        """Decides about tracks that are no more where they were, when all files have been read."""
        for track, is_replaced in self._stale:
            removed = self.commits.give_up(track, self._places)
            if not is_replaced:
                self._done(track.path, "removed" if removed else "moved", track)
        vanished = []
        for track in self._gone:
            path = self._places.moved_to(track)
            if path:
                self.commits.move(track, path)
                self._done(path, "moved", track)
            else:
                vanished.append(track)
        kept = too_much(self._database, vanished) if prune and vanished and not force else ""
        for track in vanished:
            if prune and not kept:
                self.commits.remove(track)
            status = "removed" if prune and not kept else "vanished"
            self._done(track.path, status, track, error=kept)

    def _done(
        self,
        path: str,
        status: str,
        track: StoredTrack,
        *,
        error: str = "",
        like: Added | None = None,
    ) -> None:
        result = dataclasses.replace(like or Added(path, status, error=error), id=track.id)
        self.results.append(result)
        self._report(result, len(self._places.tracks))


def _tidy(database: Database, *, rebuild: bool = True) -> None:
    """Few shards, and (with `rebuild`) an index that holds most rows, whatever was added."""
    merge_small_shards(database)
    on_disk.rebuild_if_due(database, mirror_only=not rebuild)
