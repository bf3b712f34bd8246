"""What is asked of a catalogue's tracks. One whose fields are of other kinds than those that were
written (`catalogue.LIVE`) costs no other: it is in no answer but that of `odd_tracks`.
"""

import sqlite3
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from confp_jax.database import names
from confp_jax.database.catalogue import LIVE, lenient_text
from confp_jax.database.names import folded, is_named
from confp_jax.database.records import StoredTrack
from confp_jax.database.tracks import COLUMNS, Row, Tracks


def read_tracks(connection: sqlite3.Connection) -> Tracks:
    """Live tracks in the order of their rows."""
    return read_placed_tracks(connection)[0]


def read_placed_tracks(
    connection: sqlite3.Connection,
) -> tuple[Tracks, Int64[np.ndarray, "T 3"]]:
    """Returns live tracks in the order of their rows, and of each its shard, its first row there
    and its number of rows.
    """
    rows = _fetched(
        connection,
        f"SELECT {COLUMNS}, shard, first_row FROM tracks "  # noqa: S608
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


def num_tracks(connection: sqlite3.Connection) -> int:
    """Returns how many live tracks there are."""
    return connection.execute(f"SELECT COUNT(*) FROM tracks WHERE {LIVE}").fetchone()[0]  # noqa: S608


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
        f"SELECT {COLUMNS} FROM tracks WHERE {LIVE} AND {condition}",  # noqa: S608
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
            5,
            lambda *texts: is_named([_decoded(text) for text in texts], wanted),
            deterministic=True,
        )
        fields = (_bytes_of(field) for field in ("name", "title", "artist", "album", "path"))
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


def _bytes_of(field: str) -> str:
    """A function of ours gets bytes: SQLite's module decodes damaged text for none."""
    return f"CAST({field} AS BLOB)"


def _decoded(value: bytes | None) -> str:
    return lenient_text(value or b"")
