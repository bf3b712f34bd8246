"""The database folder: opening, reading, and the commits that change it.

The commit point is the transaction in `Database.add`: the shard is complete on the disk before it,
and its tracks are known after it.
"""

import contextlib
import logging
import os
import pathlib
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence

import numpy as np

from confp_jax.database import catalogue, digests, edits, questions
from confp_jax.database.catalogue import FORMAT, READABLE_FORMATS, Shard
from confp_jax.database.damage import Checksums, block_checksums
from confp_jax.database.layout import (
    check_new,
    delete_strays,
    make_folder,
    refuse_links,
    shard_name,
    writer_lock,
)
from confp_jax.database.records import (
    DatabaseError,
    KnownFile,
    ModelId,
    NewTrack,
    Snapshot,
    StoredTrack,
    TrackTags,
)
from confp_jax.database.shards import write_shard
from confp_jax.database.snapshots import read_dim, read_snapshot
from confp_jax.database.stamp import checked_model, checked_precision
from confp_jax.database.tracks import Tracks
from confp_jax.database.vectors import PRECISIONS, encode

_log = logging.getLogger(__name__)
_NUM_ATTEMPTS = 5  # to read what a writer tidies away meanwhile


class Database:
    """A fingerprint database folder."""

    def __init__(self, folder: str | pathlib.Path):
        """Opens an existing database; format 1 is upgraded, format 2 when it is written.

        Raises:
          DatabaseError: no database there, or one of a newer format.
        """
        self.folder = pathlib.Path(folder)
        self.catalogue = self.folder / "catalogue.sqlite"
        if not catalogue.is_there(self.catalogue):
            raise DatabaseError(
                f"{folder} is no fingerprint database; `confp add {folder} MUSIC...` makes one"
            )
        refuse_links(self.folder)
        found = self.setting("format")
        if found == "1":
            if not os.access(self.folder, os.W_OK):
                raise DatabaseError(
                    f"{folder} has format 1; open it once where it can be written, which upgrades "
                    "it"
                )
            with self._locked():
                catalogue.upgrade(self.catalogue)
        elif found not in READABLE_FORMATS:
            raise DatabaseError(
                f"{folder} has format {found}, this version reads {FORMAT}; install a newer "
                "confp_jax"
            )

    @classmethod
    def create(
        cls, folder: str | pathlib.Path, model_id: ModelId, *, precision: str = "float16"
    ) -> "Database":
        """Makes an empty database.

        Args:
          folder: new or empty.
          model_id: the model of all its fingerprints.
          precision: of the stored vectors, one of PRECISIONS.

        Raises:
          DatabaseError: the folder holds something else.
        """
        path = pathlib.Path(folder)
        if precision not in PRECISIONS:
            raise DatabaseError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        make_folder(path)
        partial = path / f"catalogue.sqlite.{uuid.uuid4().hex}.part"
        values = {
            "format": FORMAT,
            "model": model_id.name,
            "identity": model_id.weights_hash,
            "hop_s": model_id.hop_s,
            "precision": precision,
        }
        catalogue.make(partial, {key: str(value) for key, value in values.items()})
        try:
            with writer_lock(path):  # two that make it at once: the second one gets an error
                check_new(path)
                partial.rename(path / "catalogue.sqlite")
        finally:
            partial.unlink(missing_ok=True)
        return cls(path)

    @property
    def model_id(self) -> ModelId:
        """The model that this database belongs to."""
        values = (self._required(key) for key in ("model", "identity", "hop_s"))
        return checked_model(self.catalogue, *values)

    @property
    def precision(self) -> str:
        """Returns how vectors are stored, one of PRECISIONS."""
        return checked_precision(self.catalogue, self._required("precision"))

    def setting(self, key: str) -> str | None:
        """Returns a setting's value, None if it is not set."""
        with self.connect() as connection:
            return catalogue.setting(connection, key)

    def set_setting(self, key: str, value: str) -> None:
        """Stores a setting in one atomic commit."""
        with self.connect() as connection:
            catalogue.put_setting(connection, key, value)

    def connect(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Opens the catalogue for one transaction; for the files of this package."""
        return catalogue.connect(self.catalogue)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the writer's lock until the `with` block ends.

        Raises:
          DatabaseError: another process is writing.
        """
        with self._locked():
            catalogue.use_wal(self.catalogue)
            with self.connect() as connection:
                is_sound = digests.take_digest(connection)
                catalogue.complete(connection)
                digests.add_missing_sums(connection)
            if not is_sound:
                _log.warning(
                    "%s is not as the last writer left it; `confp verify` shows more",
                    self.catalogue,
                )
            self.remove_strays()
            try:
                yield
            finally:  # also after an error: what was committed is as it should be
                if is_sound:
                    with contextlib.suppress(DatabaseError), self.connect() as connection:
                        digests.store_digest(connection)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not os.access(self.folder, os.W_OK):
            raise DatabaseError(f"{self.folder} cannot be written; copy it to where you may write")
        refuse_links(self.folder)
        with writer_lock(self.folder):
            yield

    def add(self, tracks: Sequence[NewTrack], *, replacing: Sequence[int] = ()) -> None:
        """Adds tracks in one atomic commit; only inside `writing`.

        Args:
          tracks: with their fingerprints, [N, E] each.
          replacing: the ids of tracks that are removed in the same commit.

        Raises:
          DatabaseError: the disk is full, a track of the same content is there already, or the
            vectors have another length than those that are there; nothing was added.
        """
        if not tracks and not replacing:
            return
        for track in tracks[:1]:
            self.check_dim(track.vectors.shape[1], track.path)
        stored = (
            encode(np.concatenate([track.vectors for track in tracks]), self.precision)
            if tracks
            else None
        )
        number, shard = self.write_shard(stored) if stored is not None else (0, None)
        now = time.time()
        with self.connect() as connection:
            with digests.changing(connection, replacing):
                catalogue.remove_tracks(connection, replacing, now)
            if shard is not None:
                catalogue.insert_shard(connection, number, shard)
            edits.insert_tracks(connection, tracks, shard=number, now=now)
            digests.add_sums(connection, number)
            seen = {
                t.path: KnownFile(t.size_bytes, t.mtime_ns, t.sha256) for t in tracks if t.mtime_ns
            }
            catalogue.remember_files(connection, seen)

    def remove(self, ids: Sequence[int]) -> None:
        """Removes tracks in one atomic commit; only inside `writing`.

        Their rows go when the database is compacted.
        """
        with self.connect() as connection:
            catalogue.remove_tracks(connection, ids, time.time())
            digests.forget(connection, ids)

    def remember(self, files: dict[str, KnownFile]) -> None:
        """Stores the size, time and content of files, by path; only inside `writing`."""
        with self.connect() as connection:
            catalogue.remember_files(connection, files)

    def known_files(self) -> dict[str, KnownFile]:
        """Returns size, time and content of files when they were last read, by path, for all
        whose content is in the database.
        """
        with self.connect() as connection:
            return questions.read_known_files(connection)

    def dim(self) -> int:
        """Returns how many values the stored fingerprints have, 0 while there are none."""
        return read_dim(self.folder)

    def check_dim(self, dim: int, source: object) -> None:
        """Checks that new vectors have the length of the stored ones.

        Args:
          dim: how many values each new vector has.
          source: where they are from, for the message.

        Raises:
          DatabaseError: they have another length, so that they are not comparable.
        """
        own = self.dim()
        if own and dim != own:
            raise DatabaseError(
                f"{source}: its vectors have {dim} values, those of {self.folder} {own}; they are "
                "not comparable"
            )

    def write_shard(self, stored: np.ndarray) -> tuple[int, Shard]:
        """Writes a new shard file, which no commit names yet; returns its number and description.

        Args:
          stored: [N, bytes or values of a row], encoded in the database's precision.
        """
        with self.connect() as connection:
            number = catalogue.next_shard(connection)
        vectors = self.folder / "vectors"
        while (vectors / shard_name(number)).exists():  # written before, in the same commit
            number += 1
        sha256 = write_shard(vectors / shard_name(number), stored)
        checksums = Checksums(sha256, block_checksums(stored))
        return number, Shard(shard_name(number), len(stored), checksums)

    def version(self) -> tuple:
        """Returns a value that changes with the tracks, their names, their rows or the index."""
        with self.connect() as connection:
            return questions.version(connection)

    def has(self, sha256: str) -> bool:
        """Returns whether there is a track of this content, given by its SHA-256."""
        return bool(self.ids_of([sha256]))

    def ids_of(self, contents: Sequence[str]) -> dict[str, int]:
        """Returns the ids of the stored tracks among these contents, by SHA-256."""
        with self.connect() as connection:
            return questions.ids_of(connection, contents)

    def tracks(self) -> list[StoredTrack]:
        """Returns all tracks in the order of their rows."""
        return list(self.ordered_tracks())

    def ordered_tracks(self) -> Tracks:
        """Returns all tracks in the order of their rows; each is made when it is used."""
        with self.connect() as connection:
            return questions.read_tracks(connection)

    def num_tracks(self) -> int:
        """Returns how many tracks there are."""
        with self.connect() as connection:
            return questions.num_tracks(connection)

    def duration_s(self) -> float:
        """Returns the length of all tracks together, in seconds."""
        with self.connect() as connection:
            return questions.duration_s(connection)

    def track(self, number: int) -> StoredTrack | None:
        """Returns the track of this id, None where there is none; its `first_row` is 0."""
        with self.connect() as connection:
            found = questions.some_tracks(connection, "id = ?", (number,))
        return found[0] if found else None

    def page(
        self, *, search: str = "", offset: int = 0, limit: int | None = None
    ) -> tuple[list[StoredTrack], int]:
        """Returns some tracks, in the order of their rows, and how many there are in all.

        Args:
          search: only tracks whose name, path or tags contain this; "": all.
          offset: the number of the first track that is returned.
          limit: how many are returned at most; None: all.

        Returns:
          The tracks, whose `first_row` counts within the page, and the number of all that match.
        """
        with self.connect() as connection:
            return questions.read_page(connection, search, offset, limit)

    def find(self, wanted: str) -> list[StoredTrack]:
        """Returns the tracks that a path or a name means: more than one where a name is not
        unique.
        """
        with self.connect() as connection:
            return questions.meant_tracks(connection, wanted)

    def rename(self, number: int, names: dict[str, str]) -> None:
        """Renames a track in one atomic commit; only inside `writing`.

        Args:
          number: the track's id.
          names: new texts for "name", "title", "artist" or "album".
        """
        with self.connect() as connection, digests.changing(connection, [number]):
            edits.rename(connection, number, names)
            edits.count_edit(connection)

    def tag(self, tags: dict[int, TrackTags]) -> None:
        """Gives tracks, by id, the tags of their files, in one commit; only inside `writing`."""
        with self.connect() as connection, digests.changing(connection, list(tags)):
            for number, found in tags.items():
                edits.set_tags(connection, number, found)
            edits.count_edit(connection)

    def move(self, paths: dict[int, str]) -> None:
        """Gives tracks, by id, new paths, and names where these came from the paths; one atomic
        commit, only inside `writing`.
        """
        with self.connect() as connection, digests.changing(connection, list(paths)):
            for number, path in paths.items():
                edits.move(connection, number, path)
            edits.count_edit(connection)

    def snapshot(self, *, to_copy: bool = False) -> Snapshot:
        """Returns the present tracks and vectors; vectors are read from their memory-mapped shards
        when they are indexed. Tracks whose rows are damaged are left out, and a warning names them.

        Args:
          to_copy: whether rows will be copied into a new file: then a shard without checksums of
            its rows counts as damaged where the file is not as it was written.

        Raises:
          DatabaseError: there are tracks, and none of their shards can be read.
        """
        for _ in range(_NUM_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                # A writer may just have compacted it away: the catalogue knows the new one.
                return read_snapshot(self.folder, to_copy=to_copy)
        return read_snapshot(self.folder, to_copy=to_copy, missing_is_damage=True)

    def remove_strays(self) -> None:
        """Deletes files that no commit names: those of writers that died, and those that the last
        commit replaced.

        Raises:
          DatabaseError: the folder of shards is missing.
        """
        with self.connect() as connection:
            known = {file for (file,) in connection.execute("SELECT file FROM shards")}
            connection.execute("DELETE FROM blocks WHERE shard NOT IN (SELECT id FROM shards)")
            generation = catalogue.setting(connection, "generation")
        shards = self.folder / "vectors"
        if not shards.is_dir():
            raise DatabaseError(f"{shards} is missing; restore it from a copy")
        delete_strays(self.folder, known, generation)

    def _required(self, key: str) -> str:
        value = self.setting(key)
        if value is None:
            raise DatabaseError(
                f"{self.catalogue} lacks the setting {key!r}; restore it from a copy"
            )
        return value
