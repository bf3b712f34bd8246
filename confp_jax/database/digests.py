"""Checksums of the catalogue itself: SQLite does not know a flipped byte in a text or a number.

Each track has a checksum of its fields. Whoever changes tracks says which (`changing`), and their
checksums change with them in the same transaction. The model and the shards have one digest, which
is away while a process writes. What was damaged before stays noticed.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from confp_jax.database.catalogue import has_tags, put_setting, setting
from confp_jax.database.records import TAG_NAMES

_DIGEST_SETTING = "model_digest"
_DIGESTED = (
    "SELECT key, value FROM settings WHERE key IN ('model', 'identity', 'hop_s', 'precision')"
    " ORDER BY key",
    "SELECT id, file, num_rows, sha256 FROM shards ORDER BY id",
)
_NUMBERS = ("id", "duration_s", "shard", "first_row", "num_rows")
_TEXTS = ("name", "path", "sha256", "title", "artist", "album")
_IS_LIVE = "EXISTS (SELECT 1 FROM tracks WHERE id = track AND removed_at IS NULL)"
_Row = tuple[Any, ...]


class CatalogueDamage(NamedTuple):
    """What is not as the last writer left it; what has no checksum yet is not looked at."""

    is_changed: bool  # the model or the shards
    changed: list[int]  # tracks that have other fields
    lost: list[int]  # tracks that are not there any more


def take_digest(connection: sqlite3.Connection) -> bool:
    """Takes the digest away while this process writes: what a kill leaves has none. Returns whether
    all is as the last writer left it; else the digest stays, and damage is not sealed.
    """
    is_sound = _is_as_left(connection)
    if is_sound and setting(connection, _DIGEST_SETTING):
        put_setting(connection, _DIGEST_SETTING, "")
    return is_sound


def store_digest(connection: sqlite3.Connection) -> None:
    """Stores the digest of what is there now."""
    put_setting(connection, _DIGEST_SETTING, _digest(connection))


def catalogue_damage(connection: sqlite3.Connection) -> CatalogueDamage:
    """Returns what is not as it was left."""
    question = "SELECT 1 FROM sqlite_master WHERE name = 'row_sums'"
    has_sums = connection.execute(question).fetchone() is not None
    changed, lost = _damaged_tracks(connection, None) if has_sums else ([], [])
    return CatalogueDamage(not _is_as_left(connection), changed, lost)


def changed_tracks(connection: sqlite3.Connection, ids: Sequence[int]) -> list[int]:
    """Returns which of these tracks have other fields than they were left with; only inside
    `writing`.
    """
    return _damaged_tracks(connection, ids)[0]


def add_missing_sums(connection: sqlite3.Connection) -> None:
    """Gives the tracks of an earlier version's catalogue checksums."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS row_sums (track INTEGER PRIMARY KEY, sum INTEGER NOT NULL)"
    )
    if connection.execute("SELECT 1 FROM row_sums").fetchone() is None:
        _store(connection, _live_rows(connection))


def add_sums(connection: sqlite3.Connection, shard: int) -> None:
    """Gives the tracks of a shard that is new, and those that were moved to it, checksums."""
    _store(connection, _live_rows(connection, "shard = ?", (shard,)))


@contextlib.contextmanager
def changing(connection: sqlite3.Connection, ids: Sequence[int] | None = None) -> Iterator[None]:
    """Lets the checksums of these tracks, or of all, follow what is done to them until left; only
    inside `writing`. One that was wrong before stays wrong until its track is removed.
    """
    changed, lost = _damaged_tracks(connection, ids)
    yield
    _forget_removed(connection, ids, kept=lost)
    rows = _live_rows(connection, *_condition("id", ids))
    left_wrong = set(changed)
    _store(connection, (row for row in rows if row[0] not in left_wrong))


def forget(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Takes checksums of tracks away that were lost, and that nobody wants any more."""
    connection.executemany("DELETE FROM row_sums WHERE track = ?", [(number,) for number in ids])


def _is_as_left(connection: sqlite3.Connection) -> bool:
    expected = setting(connection, _DIGEST_SETTING)
    return not expected or expected == _digest(connection)


def _digest(connection: sqlite3.Connection) -> str:
    found = hashlib.sha256()
    for question in _DIGESTED:
        for row in connection.execute(question):
            found.update(repr(row).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _damaged_tracks(
    connection: sqlite3.Connection, ids: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """Returns the tracks that have other fields, and those that are not there any more."""
    which, values = _condition("track", ids)
    question = f"SELECT track, sum FROM row_sums WHERE {which}"  # noqa: S608
    known = dict(connection.execute(question, values).fetchall())
    changed = [
        row[0]
        for row in _live_rows(connection, *_condition("id", ids))
        if known.pop(row[0], None) not in (None, _sum(row))
    ]
    return sorted(changed), sorted(known)


def _forget_removed(
    connection: sqlite3.Connection, ids: Sequence[int] | None, kept: Collection[int]
) -> None:
    which, values = _condition("track", ids)
    question = f"SELECT track FROM row_sums WHERE {which} AND NOT {_IS_LIVE}"  # noqa: S608
    gone = {number for (number,) in connection.execute(question, values)} - set(kept)
    forget(connection, list(gone))


def _condition(column: str, ids: Sequence[int] | None) -> tuple[str, tuple[str, ...]]:
    """Returns a condition for rows of these tracks, and its values."""
    if ids is None:
        return "1", ()
    chosen = "IN (SELECT value FROM json_each(?))"
    return f"{column} {chosen}", (json.dumps(list(ids)),)


def _live_rows(
    connection: sqlite3.Connection, which: str = "1", values: Sequence[object] = ()
) -> Iterable[_Row]:
    """Returns the fields of tracks, texts as bytes: a damaged one may be none."""
    texts = (*_TEXTS, *TAG_NAMES) if has_tags(connection) else _TEXTS
    fields = ", ".join((*_NUMBERS, *(f"CAST({text} AS BLOB)" for text in texts)))
    question = f"SELECT {fields} FROM tracks WHERE removed_at IS NULL AND {which}"  # noqa: S608
    return connection.execute(question, values)


def _sum(row: _Row) -> int:
    """Returns a track's checksum. Tags that nobody has read are no part of it: they may have no
    columns.
    """
    known = row if row[-1] is not None else row[: len(_NUMBERS) + len(_TEXTS)]
    found = hashlib.blake2b(repr(known).encode(), digest_size=8).digest()
    return int.from_bytes(found, "big", signed=True)


def _store(connection: sqlite3.Connection, rows: Iterable[_Row]) -> None:
    sums = [(row[0], _sum(row)) for row in rows]
    connection.executemany("INSERT OR REPLACE INTO row_sums VALUES (?, ?)", sums)
