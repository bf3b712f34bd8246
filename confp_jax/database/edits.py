"""New tracks in the catalogue, and changes of tracks that stay: their names, tags and paths."""

import pathlib
import sqlite3
from collections.abc import Sequence

import numpy as np

from confp_jax.database.catalogue import count
from confp_jax.database.names import restored_path, storable, stored_path
from confp_jax.database.records import TAG_NAMES, NewTrack, TrackTags

EDITS_SETTING = "edits"  # how many commits have changed tracks that stay


def count_edit(connection: sqlite3.Connection) -> None:
    """Notes that tracks that stay were changed."""
    count(connection, EDITS_SETTING)


def insert_tracks(
    connection: sqlite3.Connection, tracks: Sequence[NewTrack], *, shard: int, now: float
) -> None:
    """Stores new tracks, whose rows stand in a shard in their order."""
    columns = (
        *("name", "path", "title", "artist", "album", "sha256", "duration_s"),
        *("shard", "first_row", "num_rows", "added_at", *TAG_NAMES),
    )
    first_rows = np.cumsum([0] + [len(track.vectors) for track in tracks])
    connection.executemany(
        f"INSERT INTO tracks ({', '.join(columns)}) "  # noqa: S608
        f"VALUES ({', '.join('?' * len(columns))})",
        [
            (
                *(storable(track.name), stored_path(track.path)),
                *(storable(text) for text in (track.title, track.artist, track.album)),
                *(track.sha256, track.duration_s, shard, int(row), len(track.vectors), now),
                *stored_tags(track.tags),
            )
            for track, row in zip(tracks, first_rows, strict=False)
        ],
    )


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
