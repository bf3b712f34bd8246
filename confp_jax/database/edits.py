"""Changes of tracks that stay: their names, tags and paths."""

import pathlib
import sqlite3

from confp_jax.database.catalogue import count
from confp_jax.database.names import restored_path, storable, stored_path
from confp_jax.database.records import TAG_NAMES, TrackTags

EDITS_SETTING = "edits"  # how many commits have changed tracks that stay


def count_edit(connection: sqlite3.Connection) -> None:
    """Notes that tracks that stay were changed."""
    count(connection, EDITS_SETTING)


def rename(connection: sqlite3.Connection, number: int, texts: dict[str, str]) -> None:
    """Gives a track other texts for `name`, `title`, `artist` or `album`.

    Raises:
      ValueError: another field.
    """
    if not texts.keys() <= {"name", "title", "artist", "album"}:
        raise ValueError(f"{sorted(texts)}: expected name, title, artist or album")
    for field, text in texts.items():
        connection.execute(
            f"UPDATE tracks SET {field} = ? WHERE id = ? AND removed_at IS NULL",  # noqa: S608
            (storable(text), number),
        )


def set_tags(connection: sqlite3.Connection, number: int, tags: TrackTags) -> None:
    """Gives a track the tags of its file."""
    columns = ", ".join(f"{name} = ?" for name in TAG_NAMES)
    connection.execute(
        f"UPDATE tracks SET {columns} WHERE id = ? AND removed_at IS NULL",  # noqa: S608
        (*stored_tags(tags), number),
    )


def stored_tags(tags: TrackTags | None) -> list[str | None]:
    """Returns the tags in the order of their columns, None where nobody has read them."""
    return [storable(getattr(tags, name)) if tags else None for name in TAG_NAMES]


def move(connection: sqlite3.Connection, number: int, path: str) -> None:
    """Gives a track, if it is there, a new path, and a new name where it came from the path."""
    row = connection.execute("SELECT name, path FROM tracks WHERE id = ?", (number,)).fetchone()
    if row is None:
        return
    name, before = row
    if name == storable(pathlib.Path(restored_path(before)).stem):
        name = storable(pathlib.Path(path).stem)
    connection.execute(
        "UPDATE tracks SET name = ?, path = ? WHERE id = ?", (name, stored_path(path), number)
    )
