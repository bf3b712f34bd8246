"""The catalogue's SQLite file: schema, connections, upgrades, and what is written to it
(`questions` has what is asked of its tracks).
"""

import contextlib
import dataclasses
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from confp_jax.database.damage import Checksums
from confp_jax.database.names import stored_path
from confp_jax.database.records import TAG_NAMES, DatabaseError, KnownFile
from confp_jax.database.shards import disk_full, file_sha256, write_error

FORMAT = 3
_NO_ROOM = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)
READABLE_FORMATS = ("2", str(FORMAT))  # a format 2 has no columns for tags until it is written
SCHEMA = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, file TEXT NOT NULL UNIQUE, num_rows INTEGER NOT NULL,
  sha256 TEXT NOT NULL
);
-- A removed track stays as its rows' tombstone until they are compacted away.
CREATE TABLE tracks (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, path TEXT NOT NULL,
  sha256 TEXT NOT NULL, duration_s REAL NOT NULL,
  shard INTEGER NOT NULL REFERENCES shards(id), first_row INTEGER NOT NULL,
  num_rows INTEGER NOT NULL, added_at REAL NOT NULL,
  title TEXT NOT NULL DEFAULT '', artist TEXT NOT NULL DEFAULT '',
  album TEXT NOT NULL DEFAULT '', removed_at REAL,
  -- NULL: nobody has read them
  album_artist TEXT, track_number TEXT, year TEXT, label TEXT, isrc TEXT,
  musicbrainz_recording_id TEXT, acoustid TEXT
);
CREATE UNIQUE INDEX live_content ON tracks (sha256) WHERE removed_at IS NULL;
CREATE INDEX live_order ON tracks (shard, first_row) WHERE removed_at IS NULL;
-- Every file that was read, also a second copy of a track: what has not changed since is skipped
-- without reading it.
CREATE TABLE files (path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL,
mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL);
-- `reindex` under way: another model's rows of a track, beside those that are in use.
CREATE TABLE staged (
  track INTEGER PRIMARY KEY REFERENCES tracks(id), shard INTEGER NOT NULL REFERENCES shards(id),
  first_row INTEGER NOT NULL, num_rows INTEGER NOT NULL
);
CREATE TABLE blocks (shard INTEGER PRIMARY KEY, crc32 BLOB NOT NULL);
CREATE TABLE row_sums (track INTEGER PRIMARY KEY, sum INTEGER NOT NULL);
"""


# A live track whose fields are of the kinds that were written: SQLite stores any in any column.
LIVE = """removed_at IS NULL AND typeof(name) = 'text' AND typeof(path) = 'text'
 AND typeof(title) = 'text' AND typeof(artist) = 'text' AND typeof(album) = 'text'
 AND typeof(sha256) = 'text' AND typeof(shard) = 'integer' AND typeof(first_row) = 'integer'
 AND typeof(num_rows) = 'integer' AND num_rows >= 0
 AND typeof(added_at) IN ('real', 'integer') AND added_at BETWEEN 0 AND 1e12
 AND typeof(duration_s) IN ('real', 'integer') AND duration_s BETWEEN 0 AND 1e9"""


class Shard(NamedTuple):
    """A shard as the catalogue knows it."""

    file: str
    num_rows: int
    checksums: Checksums


@contextlib.contextmanager
def connect(file: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """A connection whose statements are one transaction. Readers do not wait for the writer, nor
    it for them (WAL).

    Raises:
      DatabaseError: the file is damaged, or the disk is full.
    """
    try:
        with contextlib.closing(_open(file)) as connection, connection:
            connection.text_factory = lenient_text
            connection.execute("PRAGMA synchronous=FULL")
            yield connection
    except sqlite3.DatabaseError as error:
        raise _explained(file, error) from error


class ChangeWatch:
    """Finds out whether others have committed since the last call, in microseconds."""

    def __init__(self, file: pathlib.Path):
        self._connection = _open(file, check_same_thread=False)
        self._version = -1

    def has_changed(self) -> bool:
        """Returns whether anything was committed; the first answer is yes."""
        before = self._version
        self._version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return self._version != before

    def close(self) -> None:
        """Ends it."""
        self._connection.close()


def lenient_text(stored: bytes) -> str:
    """A byte that changed costs a letter."""
    return stored.decode("utf-8", "replace")


def _explained(file: pathlib.Path, error: sqlite3.DatabaseError) -> DatabaseError:
    code = _code(error)
    if code == sqlite3.SQLITE_READONLY and not _may_write(file):
        return DatabaseError(
            f"{file} is another user's and cannot be written; its owner can allow it to the "
            f"group with `chmod -R g+w {file.parent}`"
        )
    # Read-only all the same: it was opened without a place for its log.
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY):
        return disk_full(file.parent)
    if isinstance(error, sqlite3.IntegrityError):
        return DatabaseError(
            f"{file}: refused, and nothing was changed: a track of this content is there already "
            f"({error})"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseError(
            f"{file}: another process is writing to it; wait for it to finish ({error})"
        )
    log = _write_ahead_log(file)
    if "unable to open" in str(error) and log.exists() and not os.access(file.parent, os.W_OK):
        return DatabaseError(
            f"{file}: its last writer was interrupted, and what it committed last lies in "
            f"{log.name}, which cannot be replayed where nothing may be written; copy the folder "
            "to where you may write, or let `confp info` open it once there"
        )
    remedy = (
        "is there space on the disk, and may you write there?"
        if code == sqlite3.SQLITE_IOERR
        else "restore it from a copy"
    )
    return DatabaseError(f"{file} cannot be read or written ({error}); {remedy}")


def _code(error: sqlite3.DatabaseError) -> int:
    """Returns the primary result code; the bits above name its variant."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _open(file: pathlib.Path, *, check_same_thread: bool = True) -> sqlite3.Connection:
    options = {"timeout": 30, "check_same_thread": check_same_thread}
    log = _write_ahead_log(file)
    busy = log.exists()
    if os.access(file.parent, os.W_OK):
        with contextlib.ExitStack() as stack:  # closed also where the file is damaged
            connection = stack.enter_context(contextlib.closing(sqlite3.connect(file, **options)))
            if _can_read(connection):
                stack.pop_all()
                return connection
        busy = log.exists() and log.stat().st_size > 0
    # Where one may not write, or the disk is full, the files of WAL cannot be made: they are there
    # while another user writes, else nobody does.
    address = f"{file.resolve().as_uri()}?mode=ro{'' if busy else '&immutable=1'}"
    return sqlite3.connect(address, uri=True, **options)


def _may_write(file: pathlib.Path) -> bool:
    places = file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))
    return all(os.access(place, os.W_OK) for place in places if place.exists())


def _can_read(connection: sqlite3.Connection) -> bool:
    """Returns whether there is room for the files that reading needs beside the catalogue."""
    try:
        connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as error:
        return _code(error) not in _NO_ROOM
    return True


def _write_ahead_log(file: pathlib.Path) -> pathlib.Path:
    return file.with_name(file.name + "-wal")


def is_there(file: pathlib.Path) -> bool:
    """Returns whether there is a catalogue.

    Raises:
      DatabaseError: one may not look.
    """
    try:
        return file.is_file()
    except PermissionError as error:
        raise DatabaseError(
            f"{file.parent} cannot be read ({error.strerror}); its owner can allow it"
        ) from error


def make(file: pathlib.Path, settings: dict[str, str]) -> None:
    """Makes a new catalogue, whole in its one file: it may be renamed (`use_wal` comes after that).

    Raises:
      DatabaseError: the disk is full, or one may not write there.
    """
    try:
        file.touch(exist_ok=False)  # by the umask: what SQLite makes belongs to no group
    except OSError as error:
        raise write_error(file.parent, error) from error
    with connect(file) as connection:
        connection.executescript(SCHEMA)
        connection.executemany("INSERT INTO settings VALUES (?, ?)", list(settings.items()))


def use_wal(file: pathlib.Path) -> None:
    """Lets readers and the writer not wait for each other, where the disk has space for it."""
    with contextlib.suppress(DatabaseError), connect(file) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def upgrade(file: pathlib.Path) -> None:
    """Format 1 to the present one, in one transaction; the shards stay as they are and get
    checksums.

    Raises:
      DatabaseError: a shard cannot be read.
    """
    with connect(file) as connection:
        connection.execute("BEGIN IMMEDIATE")
        if setting(connection, "format") != "1":
            return  # another process has just done it
        shards = connection.execute("SELECT id, file, num_rows FROM shards").fetchall()
        tracks = connection.execute(
            "SELECT id, name, path, sha256, duration_s, shard, first_row, num_rows, added_at FROM "
            "tracks"
        ).fetchall()
        try:
            sums = [
                (number, name, rows, file_sha256(file.parent / "vectors" / name))
                for number, name, rows in shards
            ]
        except OSError as error:
            raise DatabaseError(
                f"{file.parent} cannot be upgraded from format 1: {error}; restore it from a copy"
            ) from error
        for statement in ("DROP TABLE tracks", "DROP TABLE shards", *_statements(SCHEMA)[1:]):
            connection.execute(statement)
        connection.executemany("INSERT INTO shards VALUES (?, ?, ?, ?)", sums)
        columns = "id, name, path, sha256, duration_s, shard, first_row, num_rows, added_at"
        insert = f"INSERT INTO tracks ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        connection.executemany(insert, tracks)
        for key, value in (("format", str(FORMAT)), ("precision", "float16")):
            put_setting(connection, key, value)
    use_wal(file)


def _statements(script: str) -> list[str]:
    return [part for part in script.split(";") if part.strip()]


def complete(connection: sqlite3.Connection) -> None:
    """Makes what earlier versions did not have: the table of block checksums, and of format 2 the
    columns of tags, which are empty until they are set.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS blocks (shard INTEGER PRIMARY KEY, crc32 BLOB NOT NULL)"
    )
    if has_tags(connection):
        return
    if not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")  # all columns and the format, or nothing
    for name in TAG_NAMES:
        connection.execute(f"ALTER TABLE tracks ADD COLUMN {name} TEXT")
    put_setting(connection, "format", str(FORMAT))


def has_tags(connection: sqlite3.Connection) -> bool:
    """Returns whether tracks have columns for tags."""
    return setting(connection, "format") == str(FORMAT)


def insert_shard(connection: sqlite3.Connection, number: int, shard: Shard) -> None:
    """Makes a shard known, with the checksums of its rows."""
    connection.execute(
        "INSERT INTO shards VALUES (?, ?, ?, ?)",
        (number, shard.file, shard.num_rows, shard.checksums.sha256),
    )
    put_blocks(connection, number, shard.checksums.blocks)


def put_blocks(connection: sqlite3.Connection, shard: int, blocks: bytes) -> None:
    """Stores the checksums of a shard's rows."""
    connection.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?)", (shard, blocks))


def read_shards(connection: sqlite3.Connection) -> dict[int, Shard]:
    """Returns all shards by number."""
    blocks: dict[int, bytes] = {}
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'blocks'").fetchone():
        blocks = dict(
            connection.execute("SELECT shard, crc32 FROM blocks WHERE typeof(crc32) = 'blob'")
        )
    rows = connection.execute(
        "SELECT id, file, num_rows, sha256 FROM shards WHERE typeof(file) = 'text' AND "
        "typeof(num_rows) = 'integer' ORDER BY id"
    )
    return {
        number: Shard(file, num_rows, Checksums(sha256, blocks.get(number, b"")))
        for number, file, num_rows, sha256 in rows
    }


def setting(connection: sqlite3.Connection, key: str) -> str | None:
    """Returns a setting's value, if there is one."""
    row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return row[0] if row and isinstance(row[0], str) else None


def count(connection: sqlite3.Connection, key: str) -> None:
    """Adds one to a setting that is a number."""
    found = setting(connection, key) or ""
    number = int(found) if found.isascii() and found.isdecimal() and len(found) < 16 else 0
    put_setting(connection, key, str(number + 1))


def put_setting(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Sets it."""
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))


def next_shard(connection: sqlite3.Connection) -> int:
    """Returns a number that no shard of any committed state ever had: a reader's old catalogue
    never meets a new file.
    """
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'shards'").fetchone()
    return (row[0] if row else 0) + 1


def remove_tracks(connection: sqlite3.Connection, ids: Sequence[int], now: float) -> None:
    """Makes tracks tombstones."""
    connection.executemany(
        "UPDATE tracks SET removed_at = ? WHERE id = ? AND removed_at IS NULL",
        [(now, i) for i in ids],
    )


def remember_files(connection: sqlite3.Connection, files: dict[str, KnownFile]) -> None:
    """Notes what files were like when they were read, by path."""
    rows = [(stored_path(path), *dataclasses.astuple(file)) for path, file in files.items()]
    connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
