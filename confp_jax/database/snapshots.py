"""Reads a database as of one moment: its tracks, and their rows without those that are damaged."""

import logging
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from confp_jax.database import catalogue
from confp_jax.database.damage import damaged_rows, is_as_written
from confp_jax.database.layout import shard_path
from confp_jax.database.records import DatabaseError, Snapshot, StoredTrack
from confp_jax.database.shards import REMEDY, live_runs, open_shard
from confp_jax.database.vectors import StoredVectors, stored_dim

_log = logging.getLogger(__name__)
_MOST_NAMED = 5


class _Shard(NamedTuple):
    """A shard as the catalogue knows it."""

    file: str
    num_rows: int
    sha256: str


def read_snapshot(folder: pathlib.Path, *, to_copy: bool) -> Snapshot:
    """Returns what `Database.snapshot` does.

    Raises:
      FileNotFoundError: a shard is missing.
      DatabaseError: a shard cannot be read, or shards do not fit together.
    """
    file = folder / "catalogue.sqlite"
    with catalogue.connect(file) as connection:
        connection.execute("BEGIN")  # all questions see one moment
        rows = connection.execute("SELECT id, file, num_rows, sha256 FROM shards").fetchall()
        tracks = catalogue.read_tracks(connection)
        ranges = connection.execute(
            "SELECT shard, first_row, num_rows FROM tracks WHERE removed_at IS NULL ORDER BY "
            "shard, first_row"
        ).fetchall()
        generation = catalogue.setting(connection, "generation") or ""
        is_as_left = not to_copy or catalogue.is_as_left(connection)
    if not is_as_left:
        _log.warning(
            "%s is not as the last writer left it: check what is copied from it; `confp verify` "
            "tells more",
            file,
        )
    shards = {number: _Shard(*rest) for number, *rest in rows}
    places = np.array(ranges, np.int64).reshape(-1, 3)  # shard, first row, number of rows
    opened = _open_shards(folder, shards, places)
    damaged = _damaged(folder, shards, opened, places, to_copy=to_copy)
    left_out = tuple(tracks[number] for number in sorted(damaged))
    if damaged:
        tracks = tracks.without(damaged)
        places = np.delete(places, sorted(damaged), axis=0)
        _warn(folder, left_out)
    runs = [opened[shard][first : first + num] for shard, first, num in live_runs(places)]
    vectors = StoredVectors(runs, _dim(folder, runs))
    row_tracks = np.repeat(np.arange(len(tracks), dtype=np.int32), tracks.num_rows)
    return Snapshot(tracks, vectors, row_tracks, generation, left_out)


def _open_shards(
    folder: pathlib.Path, shards: dict[int, _Shard], places: Int64[np.ndarray, "T 3"]
) -> dict[int, np.ndarray]:
    """Only shards with live tracks are opened: one whose tracks were removed does no more harm."""
    opened: dict[int, np.ndarray] = {}
    for shard in np.unique(places[:, 0]).tolist():
        if shard not in shards:
            raise DatabaseError(f"{folder}: the catalogue lacks shard {shard}; {REMEDY}")
        opened[shard] = open_shard(shard_path(folder, shards[shard].file), shards[shard].num_rows)
    return opened


def _damaged(
    folder: pathlib.Path,
    shards: dict[int, _Shard],
    opened: dict[int, np.ndarray],
    places: Int64[np.ndarray, "T 3"],
    *,
    to_copy: bool,
) -> set[int]:
    """Returns the numbers of the tracks that must not be used."""
    bad: dict[int, np.ndarray] = {}
    for shard, stored in opened.items():
        path = shard_path(folder, shards[shard].file)
        signs = stored.dtype == np.uint8
        sound = not (to_copy or signs) or is_as_written(path, shards[shard].sha256)
        if not sound and to_copy:
            bad[shard] = np.arange(len(stored))
        elif not sound:
            _log.warning(
                "%s is not as it was written: some of its tracks may not be found; `confp verify` "
                "names them, `confp repair` restores them",
                path,
            )
        elif not signs and len(rows := damaged_rows(path, stored)):
            bad[shard] = rows
    shard, first, num = places.T
    sizes = np.zeros(max(opened, default=0) + 1, np.int64)
    sizes[list(opened)] = [shards[number].num_rows for number in opened]
    found = set(np.flatnonzero((first < 0) | (num < 0) | (first + num > sizes[shard])).tolist())
    for number, rows in bad.items():
        inside = np.flatnonzero(shard == number)
        begin = np.searchsorted(rows, first[inside])
        end = np.searchsorted(rows, first[inside] + num[inside])
        found.update(inside[begin < end].tolist())
    return found


def _warn(folder: pathlib.Path, damaged: tuple[StoredTrack, ...]) -> None:
    names = ", ".join(track.name for track in damaged[:_MOST_NAMED])
    rest = f" and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
    _log.warning(
        "%s: the fingerprints of %d tracks are damaged and left out (%s%s); `confp repair %s` "
        "restores them from their files",
        folder,
        len(damaged),
        names,
        rest,
        folder,
    )


def _dim(folder: pathlib.Path, runs: list[np.ndarray]) -> int:
    dims = {stored_dim(run) for run in runs}
    if len(dims) > 1:
        raise DatabaseError(f"{folder} holds vectors of several lengths ({sorted(dims)}); {REMEDY}")
    return dims.pop() if dims else 0
