"""Reads a database at one moment: its tracks, and their rows without those that are damaged."""

import contextlib
import logging
import pathlib

import numpy as np
from jaxtyping import Int64

from confp_jax.database import catalogue, questions
from confp_jax.database.catalogue import Shard
from confp_jax.database.damage import (
    damaged_rows,
    has_block_checksums,
    is_as_written,
    rows_not_to_copy,
)
from confp_jax.database.digests import catalogue_damage
from confp_jax.database.layout import shard_path
from confp_jax.database.records import DatabaseError, Snapshot, StoredTrack
from confp_jax.database.shards import REMEDY, live_runs, open_shard
from confp_jax.database.vectors import StoredVectors, stored_dim

_log = logging.getLogger(__name__)
MOST_NAMED = 5


def read_snapshot(
    folder: pathlib.Path, *, to_copy: bool, missing_is_damage: bool = False
) -> Snapshot:
    """Returns what `Database.snapshot` does.

    Args:
      missing_is_damage: whether the tracks of a shard that is not there are left out.

    Raises:
      FileNotFoundError: a shard is missing.
      DatabaseError: no shard can be read, or shards do not fit together.
    """
    file = folder / "catalogue.sqlite"
    with catalogue.connect(file) as connection:
        connection.execute("BEGIN")  # all questions see one moment
        shards = catalogue.read_shards(connection)
        tracks, places = questions.read_placed_tracks(connection)
        odd = questions.odd_tracks(connection, num_live=len(tracks))
        generation = catalogue.setting(connection, "generation") or ""
        left = catalogue_damage(connection) if to_copy else None
    if odd:
        _log.warning(
            "%s is damaged: %d tracks are left out (ids %s); `confp verify` shows more",
            file,
            len(odd),
            ", ".join(map(str, odd[:MOST_NAMED])),
        )
    if left and (left.is_changed or left.changed or left.lost):
        _log.warning(
            "%s is not as the last writer left it: check what is copied from it%s; `confp verify` "
            "shows more",
            file,
            f" (tracks {', '.join(map(str, left.changed[:MOST_NAMED]))})" if left.changed else "",
        )
    opened = _open_shards(folder, shards, places, missing_is_damage=missing_is_damage)
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
    folder: pathlib.Path,
    shards: dict[int, Shard],
    places: Int64[np.ndarray, "T 3"],
    *,
    missing_is_damage: bool,
) -> dict[int, np.ndarray]:
    """Returns the shards that have live tracks and can be read; one whose tracks were removed does
    no more harm, and of the others one that cannot be read costs its own tracks.
    """
    opened: dict[int, np.ndarray] = {}
    errors = []
    for number in np.unique(places[:, 0]).tolist():
        if number not in shards:
            errors.append(DatabaseError(f"{folder}: the catalogue lacks shard {number}; {REMEDY}"))
            continue
        path = shard_path(folder, shards[number].file)
        try:
            opened[number] = open_shard(path, shards[number].num_rows)
        except FileNotFoundError:
            if not missing_is_damage:
                raise
            errors.append(DatabaseError(f"{path} is missing; {REMEDY}"))
        except DatabaseError as error:
            errors.append(error)
    if errors and not opened:
        raise errors[0]
    for error in errors:
        _log.warning("%s", error)
    return opened


def _damaged(
    folder: pathlib.Path,
    shards: dict[int, Shard],
    opened: dict[int, np.ndarray],
    places: Int64[np.ndarray, "T 3"],
    *,
    to_copy: bool,
) -> set[int]:
    """Returns the numbers of the tracks that must not be used."""
    bad: dict[int, np.ndarray] = {}
    for number, stored in opened.items():
        path = shard_path(folder, shards[number].file)
        checksums = shards[number].checksums
        look = rows_not_to_copy if to_copy else damaged_rows
        bad[number] = look(path, stored, checksums)
        known = stored.dtype != np.uint8 or has_block_checksums(checksums, len(stored))
        if not (to_copy or known or is_as_written(path, checksums.sha256)):
            _log.warning(
                "%s is not as it was written: some of its tracks may not be found; `confp verify` "
                "names them, `confp repair` restores them",
                path,
            )
    shard, first, num = places.T
    numbers, place = np.unique(shard, return_inverse=True)
    known_sizes = [len(opened[number]) if number in opened else -1 for number in numbers.tolist()]
    sizes = np.array(known_sizes, np.int64)[place]
    is_inside = (first >= 0) & (num >= 0) & (num <= sizes) & (first <= sizes - num)  # no overflow
    found = set(np.flatnonzero(~is_inside).tolist())
    for number, rows in bad.items():
        if not len(rows):
            continue
        inside = np.flatnonzero((shard == number) & is_inside)
        begin = np.searchsorted(rows, first[inside])
        end = np.searchsorted(rows, first[inside] + num[inside])
        found.update(inside[begin < end].tolist())
    return found


def _warn(folder: pathlib.Path, damaged: tuple[StoredTrack, ...]) -> None:
    names = ", ".join(track.name for track in damaged[:MOST_NAMED])
    rest = f" and {len(damaged) - MOST_NAMED} more" if len(damaged) > MOST_NAMED else ""
    _log.warning(
        "%s: the fingerprints of %d tracks are damaged and left out (%s%s); `confp repair %s` "
        "restores them from their files",
        folder,
        len(damaged),
        names,
        rest,
        folder,
    )


def read_dim(folder: pathlib.Path) -> int:
    """Returns what `Database.dim` does."""
    with catalogue.connect(folder / "catalogue.sqlite") as connection:
        number = -1
        while found := questions.next_used_shard(connection, number):
            number, file, num_rows = found
            with contextlib.suppress(DatabaseError, FileNotFoundError):
                return stored_dim(open_shard(shard_path(folder, file), num_rows))
    return 0


def _dim(folder: pathlib.Path, runs: list[np.ndarray]) -> int:
    dims = {stored_dim(run) for run in runs}
    if len(dims) > 1:
        raise DatabaseError(f"{folder} holds vectors of several lengths ({sorted(dims)}); {REMEDY}")
    return dims.pop() if dims else 0
