"""The tracks of a catalogue as a sequence: half a million are read at once, and each is made into
a `StoredTrack` when it is asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Int64

from confp_jax.database.names import restored_path
from confp_jax.database.records import TAG_NAMES, StoredTrack, TrackTags

Row = tuple[Any, ...]
_COLUMNS = "name, path, sha256, duration_s, num_rows, id, title, artist, album, added_at"
_NUM_ROWS = 4
_ID = 5


def track_columns(*, has_tags: bool) -> str:
    """Returns the columns that `Tracks` are made of; a format 2 has none for tags. A tag that is
    no text any more (SQLite stores any kind in any column) is read as unknown, NULL.
    """
    text = "CASE typeof({0}) WHEN 'text' THEN {0} END" if has_tags else "NULL"
    return ", ".join((_COLUMNS, *(text.format(name) for name in TAG_NAMES)))


class Tracks(Sequence[StoredTrack]):
    """Tracks in the order of their rows, from `track_columns` of the catalogue."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = rows
        counts = np.fromiter((row[_NUM_ROWS] for row in rows), np.int64, len(rows))
        self.ids = np.fromiter((row[_ID] for row in rows), np.int64, len(rows))
        self.num_rows = counts
        self.first_rows = np.cumsum(counts) - counts

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> StoredTrack: ...

    @overload
    def __getitem__(self, place: slice) -> list[StoredTrack]: ...

    def __getitem__(self, place: int | slice) -> StoredTrack | list[StoredTrack]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        name, path, sha256, duration_s, num_rows, *rest = self._rows[place]
        first_row = int(self.first_rows[place])
        texts = rest[-len(TAG_NAMES) :]
        rest[-len(TAG_NAMES) :] = [None if None in texts else TrackTags(*texts)]
        return StoredTrack(
            name, restored_path(path), sha256, duration_s, first_row, num_rows, *rest
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Tracks):
            return self._rows == other._rows
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # pyrefly: ignore[bad-override]

    def without(self, places: set[int]) -> "Tracks":
        """Returns all others."""
        return Tracks([row for place, row in enumerate(self._rows) if place not in places])


def track_numbers(tracks: Sequence[StoredTrack]) -> tuple[Int64[np.ndarray, " T"], ...]:
    """Returns ids, first rows and numbers of rows of tracks, without making them."""
    if isinstance(tracks, Tracks):
        return tracks.ids, tracks.first_rows, tracks.num_rows
    found = [(track.id, track.first_row, track.num_rows) for track in tracks]
    ids, first_rows, num_rows = np.array(found, np.int64).reshape(-1, 3).T
    return ids, first_rows, num_rows


class TracksById(Mapping[int, StoredTrack]):
    """Tracks by their id."""

    def __init__(self, tracks: Sequence[StoredTrack]):
        self._tracks = tracks
        ids = track_numbers(tracks)[0]
        self._order = np.argsort(ids)
        self._ids = ids[self._order]

    def __getitem__(self, number: int) -> StoredTrack:
        place = int(np.searchsorted(self._ids, number))
        if place == len(self._ids) or self._ids[place] != number:
            raise KeyError(number)
        return self._tracks[int(self._order[place])]

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())
