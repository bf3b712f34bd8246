"""The durable truth: an SQLite catalogue and immutable vector shards in one folder, which may be moved and copied.

A shard is written, flushed to disk and renamed before the one transaction that makes its tracks known: whatever instant the
process dies at, the folder opens with all that was committed. Shard files that no transaction knows are removed by the next
writer.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float16, Float32, Int32

FORMAT = 1
_SCHEMA = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shards (id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, num_rows INTEGER NOT NULL);
CREATE TABLE tracks (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE, duration_s REAL NOT NULL,
  shard INTEGER NOT NULL REFERENCES shards(id), first_row INTEGER NOT NULL, num_rows INTEGER NOT NULL, added_at REAL NOT NULL
);
"""


class DatabaseError(ValueError):
    """A folder that is no usable database, or one that is busy; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class NewTrack:
    """A track to add."""

    name: str
    path: str
    sha256: str
    duration_s: float
    vectors: Float32[np.ndarray, "n E"]


@dataclasses.dataclass(frozen=True)
class StoredTrack:
    """A track of the catalogue; its fingerprints are rows first_row.. of the database."""

    name: str
    path: str
    sha256: str
    duration_s: float
    first_row: int
    num_rows: int


@dataclasses.dataclass(frozen=True)
class ModelStamp:
    """The model that made the vectors; vectors of another are not comparable."""

    name: str  # a shipped name or a checkpoint folder
    identity: str
    hop_s: float


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Everything a search needs, as of one moment."""

    tracks: list[StoredTrack]
    vectors: Float32[np.ndarray, "N E"]
    row_tracks: Int32[np.ndarray, " N"]  # index into `tracks` of every row


class Database:
    """A fingerprint database folder."""

    def __init__(self, folder: str | pathlib.Path):
        """Opens an existing database.

        Raises:
          DatabaseError: no database there, or one of a newer format.
        """
        self.folder = pathlib.Path(folder)
        if not (self.folder / "catalogue.sqlite").is_file():
            raise DatabaseError(f"{folder} is no fingerprint database; `confp add {folder} MUSIC...` makes one")
        found = self._setting("format")
        if found != str(FORMAT):
            raise DatabaseError(f"{folder} has format {found}, this version reads {FORMAT}; install a newer confp_jax")

    @classmethod
    def create(cls, folder: str | pathlib.Path, stamp: ModelStamp) -> "Database":
        """Makes an empty database; the folder must be new or empty.

        Raises:
          DatabaseError: the folder holds something else.
        """
        path = pathlib.Path(folder)
        if path.exists() and (not path.is_dir() or not all(_is_leftover(p) for p in path.iterdir())):
            raise DatabaseError(f"{folder} exists and is no fingerprint database; choose another name")
        (path / "vectors").mkdir(parents=True, exist_ok=True)
        partial = path / f"catalogue.sqlite.{uuid.uuid4().hex}.part"
        values = {"format": FORMAT, "model": stamp.name, "identity": stamp.identity, "hop_s": stamp.hop_s}
        with contextlib.closing(sqlite3.connect(partial)) as connection, connection:
            connection.executescript(_SCHEMA)
            connection.executemany("INSERT INTO settings VALUES (?, ?)", [(k, str(v)) for k, v in values.items()])
        try:
            (path / "catalogue.sqlite").hardlink_to(partial)  # unlike a rename, never over another process's catalogue
        except FileExistsError as error:
            raise DatabaseError(f"{folder}: another process has just made it; try again") from error
        finally:
            partial.unlink()
        return cls(path)

    @property
    def stamp(self) -> ModelStamp:
        """The model that this database belongs to."""
        return ModelStamp(self._setting("model"), self._setting("identity"), float(self._setting("hop_s")))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The writer's lock, held until left.

        Raises:
          DatabaseError: another process is writing.
        """
        with open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DatabaseError(f"{self.folder}: another process is adding to it; wait for it to finish") from error
            self._remove_strays()
            yield

    def add(self, tracks: Sequence[NewTrack]) -> None:
        """Adds tracks in one atomic commit; only inside `writing`."""
        if not tracks:
            return
        vectors = np.concatenate([track.vectors for track in tracks]).astype(np.float16)
        if not np.isfinite(vectors).all():
            raise ValueError("fingerprints contain NaN or infinite values; every later search would fail")
        with self._connect() as connection:
            shard = connection.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM shards").fetchone()[0]
        file = f"{shard:06d}.npy"
        _write_durably(self.folder / "vectors" / file, vectors)
        first_rows = np.cumsum([0] + [len(track.vectors) for track in tracks])
        now = time.time()
        with self._connect() as connection:
            connection.execute("INSERT INTO shards VALUES (?, ?, ?)", (shard, file, len(vectors)))
            connection.executemany(
                "INSERT INTO tracks (name, path, sha256, duration_s, shard, first_row, num_rows, added_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (_storable(t.name), _storable(t.path), t.sha256, t.duration_s, shard, int(row), len(t.vectors), now)
                    for t, row in zip(tracks, first_rows, strict=False)
                ],
            )

    def has(self, sha256: str) -> bool:
        """Whether a track of this content is there."""
        with self._connect() as connection:
            return connection.execute("SELECT 1 FROM tracks WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def tracks(self) -> list[StoredTrack]:
        """All tracks in the order of their rows."""
        with self._connect() as connection:
            return _read_tracks(connection)

    def snapshot(self) -> Snapshot:
        """Tracks and vectors as of now.

        Raises:
          DatabaseError: a shard is missing or damaged.
        """
        with self._connect() as connection:
            connection.execute("BEGIN")  # both queries see one moment
            shards = connection.execute("SELECT file, num_rows FROM shards ORDER BY id").fetchall()
            tracks = _read_tracks(connection)
        parts = [self._shard(file, num_rows) for file, num_rows in shards]
        vectors = np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)
        row_tracks = np.repeat(np.arange(len(tracks), dtype=np.int32), [track.num_rows for track in tracks])
        return Snapshot(tracks, vectors, row_tracks)

    def setting(self, key: str) -> str | None:
        """A setting by name; None if it was never set."""
        with self._connect() as connection:
            row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_setting(self, key: str, value: str) -> None:
        """Stores a setting in one atomic commit."""
        with self._connect() as connection:
            connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))

    def _shard(self, file: str, num_rows: int) -> Float16[np.ndarray, "n E"]:
        path = self.folder / "vectors" / file
        try:
            part = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            remedy = "restore it from a copy, or add the music to a new database"
            raise DatabaseError(f"{path} is missing or damaged ({error}); {remedy}") from error
        if len(part) != num_rows:
            raise DatabaseError(f"{path} holds {len(part)} rows instead of {num_rows}; restore it from a copy")
        return part

    def _remove_strays(self) -> None:
        with self._connect() as connection:
            known = {file for (file,) in connection.execute("SELECT file FROM shards")}
        shards = self.folder / "vectors"
        if not shards.is_dir():
            raise DatabaseError(f"{shards} is missing; restore it from a copy")
        for path in [*shards.iterdir(), *self.folder.glob("catalogue.sqlite.*.part*")]:
            if path.name not in known:
                path.unlink()

    def _setting(self, key: str) -> str:
        with self._connect() as connection:
            row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise DatabaseError(f"{self.folder}/catalogue.sqlite lacks the setting {key!r}; restore it from a copy")
        return row[0]

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A connection whose statements are one transaction."""
        file = self.folder / "catalogue.sqlite"
        try:
            with contextlib.closing(sqlite3.connect(file, timeout=30)) as connection, connection:
                connection.execute("PRAGMA synchronous=FULL")
                yield connection
        except sqlite3.DatabaseError as error:
            raise DatabaseError(f"{file} cannot be read or written ({error}); restore it from a copy") from error


def _is_leftover(path: pathlib.Path) -> bool:
    """What a process that died while making a database may leave."""
    empty = path.name == "vectors" and path.is_dir() and not any(path.iterdir())
    return empty or path.name == "lock" or (path.name.startswith("catalogue.sqlite.") and ".part" in path.name)


def _storable(text: str) -> str:
    """File names are bytes on Linux: what is no UTF-8 in them is written as an escape."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_tracks(connection: sqlite3.Connection) -> list[StoredTrack]:
    rows = connection.execute("SELECT name, path, sha256, duration_s, num_rows FROM tracks ORDER BY shard, first_row").fetchall()
    first = np.cumsum([0] + [row[-1] for row in rows])
    return [
        StoredTrack(name, path, sha256, duration_s, int(f), num_rows)
        for (name, path, sha256, duration_s, num_rows), f in zip(rows, first, strict=False)
    ]


def _write_durably(path: pathlib.Path, vectors: np.ndarray) -> None:
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        np.save(file, vectors, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
