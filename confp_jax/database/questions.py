"""What is asked of a catalogue's tracks. One whose fields are of other kinds than those that were
written (`catalogue.LIVE`) costs no other: it is in no answer but that of `odd_tracks`.
"""

import sqlite3
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from confp_jax.database import names
from confp_jax.database.catalogue import LIVE, has_tags, lenient_text, setting
from confp_jax.database.edits import EDITS_SETTING
from confp_jax.database.names import folded, is_named, restored_path
from confp_jax.database.records import TAG_NAMES, KnownFile, StoredTrack
from confp_jax.database.tracks import Row, Tracks, track_columns


def read_tracks(connection: sqlite3.Connection) -> Tracks:
    """Returns live tracks in the order of their rows."""
    return read_placed_tracks(connection)[0]


def read_placed_tracks(
    connection: sqlite3.Connection,
) -> tuple[Tracks, Int64[np.ndarray, "T 3"]]:
    """Returns live tracks in the order of their rows, and of each its shard, its first row there
    and its number of rows.
    """
    rows = _fetched(
        connection,
        f"SELECT {_columns(connection)}, shard, first_row FROM tracks "  # noqa: S608
        f"WHERE {LIVE} ORDER BY shard, first_row",
    )
    tracks = Tracks([row[:-2] for row in rows])
    shards, first_rows = (
        np.fromiter((row[place] for row in rows), np.int64, len(rows)) for place in (-2, -1)
    )
    return tracks, np.stack([shards, first_rows, tracks.num_rows], axis=1)


def _fetched(connection: sqlite3.Connection, question: str) -> list[Row]:
    """Returns all rows; only where a text is damaged are they read by the slower `lenient_text`."""
    connection.text_factory = str
    try:
        return connection.execute(question).fetchall()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    finally:
        connection.text_factory = lenient_text
    return connection.execute(question).fetchall()


def odd_tracks(connection: sqlite3.Connection, *, num_live: int | None = None) -> list[int]:
    """Returns the ids of tracks that are not removed, and whose fields are of other kinds. Where it
    is known how many others there are, they are looked for only if there are more.
    """
    if num_live is not None:
        everything = "SELECT COUNT(*) FROM tracks WHERE removed_at IS NULL"
        if connection.execute(everything).fetchone()[0] == num_live:
            return []
    rows = connection.execute(
        f"SELECT id FROM tracks WHERE removed_at IS NULL AND NOT ({LIVE})"  # noqa: S608
    )
    return [number for (number,) in rows]


def next_used_shard(connection: sqlite3.Connection, after: int) -> tuple[int, str, int] | None:
    """Returns number, file and rows of the first shard after number `after` that has live tracks;
    reads no other tracks.
    """
    return connection.execute(
        "SELECT id, file, num_rows FROM shards "  # noqa: S608
        "WHERE id > ? AND typeof(file) = 'text' AND typeof(num_rows) = 'integer' "
        "AND EXISTS (SELECT 1 FROM tracks WHERE shard = shards.id "
        f"AND {LIVE}) ORDER BY id LIMIT 1",
        (after,),
    ).fetchone()


def num_tracks(connection: sqlite3.Connection) -> int:
    """Returns how many live tracks there are."""
    count = f"SELECT COUNT(*) FROM tracks WHERE {LIVE}"  # noqa: S608
    return connection.execute(count).fetchone()[0]


def shard_sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """Returns how many shards there are, and how many rows they hold, removed ones included."""
    num_shards, num_rows = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(num_rows), 0) FROM shards"
    ).fetchone()
    return num_shards, num_rows


def duration_s(connection: sqlite3.Connection) -> float:
    """Returns how long all live tracks are."""
    question = f"SELECT COALESCE(SUM(duration_s), 0.0) FROM tracks WHERE {LIVE}"  # noqa: S608
    return connection.execute(question).fetchone()[0]


def ids_of(connection: sqlite3.Connection, contents: Sequence[str]) -> dict[str, int]:
    """Returns what `Database.ids_of` does."""
    question = "SELECT id FROM tracks WHERE sha256 = ? AND removed_at IS NULL"
    found = {one: connection.execute(question, (one,)).fetchone() for one in contents}
    return {sha256: row[0] for sha256, row in found.items() if row}


def some_tracks(
    connection: sqlite3.Connection, condition: str, values: Sequence[object] = ()
) -> list[StoredTrack]:
    """Returns the live tracks of a condition in the order of their rows."""
    rows = connection.execute(
        f"SELECT {_columns(connection)} FROM tracks WHERE {LIVE} AND {condition}",  # noqa: S608
        values,
    )
    return list(Tracks(rows.fetchall()))


def read_page(
    connection: sqlite3.Connection, search: str, offset: int, limit: int | None
) -> tuple[list[StoredTrack], int]:
    """Returns what `Database.page` does."""
    condition = "1"
    if search:
        wanted = folded(search)
        connection.create_function(
            "is_named",
            -1,
            lambda *texts: is_named([_decoded(text) for text in texts], wanted),
            deterministic=True,
        )
        tags = TAG_NAMES if has_tags(connection) else ()
        fields = (_bytes_of(field) for field in ("name", "title", "artist", "album", *tags, "path"))
        condition = f"is_named({', '.join(fields)})"
    total = connection.execute(
        f"SELECT COUNT(*) FROM tracks WHERE {LIVE} AND {condition}"  # noqa: S608
    ).fetchone()[0]
    ordered = f"{condition} ORDER BY shard, first_row LIMIT ? OFFSET ?"
    values = (-1 if limit is None else limit, offset)
    return some_tracks(connection, ordered, values), total


def meant_tracks(connection: sqlite3.Connection, wanted: str) -> list[StoredTrack]:
    """Returns what `meant_by` does of all tracks; those that it cannot mean are not made."""
    may_be = names.meaning(wanted)
    connection.create_function(
        "may_be_meant",
        3,
        lambda name, path, number: may_be(_decoded(name), _decoded(path), number),
        deterministic=True,
    )
    connection.create_function(
        "is_number", 1, lambda name: _decoded(name).isdecimal(), deterministic=True
    )
    condition = f"may_be_meant({_bytes_of('name')}, {_bytes_of('path')}, id)"
    some = some_tracks(connection, f"{condition} ORDER BY shard, first_row")
    numbers = connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM tracks WHERE {LIVE} AND "  # noqa: S608
        f"is_number({_bytes_of('name')}))"
    )
    return names.meant_by(some, wanted, has_numbers=bool(numbers.fetchone()[0]))


def read_known_files(connection: sqlite3.Connection) -> dict[str, KnownFile]:
    """Returns what `Database.known_files` does."""
    rows = connection.execute(
        "SELECT path, size_bytes, mtime_ns, sha256 FROM files"
        " WHERE sha256 IN (SELECT sha256 FROM tracks WHERE removed_at IS NULL)"
    ).fetchall()
    return {restored_path(path): KnownFile(*rest) for path, *rest in rows}


def version(connection: sqlite3.Connection) -> tuple:
    """Returns what `Database.version` does."""
    tracks = connection.execute(
        "SELECT MAX(id), COUNT(*), SUM(removed_at IS NULL), MAX(shard) FROM tracks"
    ).fetchone()
    keys = ("identity", "hop_s", "generation", EDITS_SETTING)
    return (*tracks, *(setting(connection, key) for key in keys))


def _columns(connection: sqlite3.Connection) -> str:
    return track_columns(has_tags=has_tags(connection))


def _bytes_of(field: str) -> str:
    """A function of ours gets bytes: SQLite's module decodes damaged text for none."""
    return f"CAST({field} AS BLOB)"


def _decoded(value: bytes | None) -> str:
    return lenient_text(value or b"")
