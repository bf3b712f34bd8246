"""Compaction: the rows of removed tracks go, and many small shards become few large ones."""

import contextlib
import dataclasses
import itertools
import logging
import pathlib

import numpy as np

from confp_jax.database import catalogue
from confp_jax.database.catalogue import Shard
from confp_jax.database.damage import (
    block_checksums,
    has_block_checksums,
    is_as_written,
    rows_not_to_copy,
    touched,
)
from confp_jax.database.digests import add_sums, changed_tracks
from confp_jax.database.layout import shard_path
from confp_jax.database.records import DatabaseError
from confp_jax.database.shards import open_shard
from confp_jax.database.snapshots import MOST_NAMED
from confp_jax.database.store import Database

_log = logging.getLogger(__name__)
_SHARD_ROWS = 262_144  # 64 MiB of float16 at 128 dimensions: what is held in memory
_SMALL_ROWS = 8_192
_MANY_SMALL = 64


@dataclasses.dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    num_removed_rows: int
    num_shards_before: int
    num_shards_after: int


@dataclasses.dataclass(frozen=True)
class _Place:
    track: int
    shard: int
    first_row: int
    num_rows: int


def compact_shards(database: Database) -> Compacted:
    """Rewrites every shard that is small or holds rows of removed tracks, in one commit; only
    inside `writing`.

    The order of the tracks, and so of a snapshot's rows, may change; vectors do not. Readers go on
    with what they have open.

    Raises:
      DatabaseError: the disk is full (about the database's size is needed
        beside it).
    """
    done = _rewrite(database, only_small=False)
    _complete_checksums(database)
    return done


def merge_small_shards(database: Database) -> None:
    """Keeps the number of shards in bounds where music is added a little at a time; only inside
    `writing`.
    """
    with database.connect() as connection:
        small = connection.execute(
            "SELECT COUNT(*) FROM shards WHERE num_rows < ?", (_SMALL_ROWS,)
        ).fetchone()[0]
    if small > _MANY_SMALL:
        _rewrite(database, only_small=True)


def _rewrite(database: Database, *, only_small: bool) -> Compacted:
    with database.connect() as connection:
        shards = catalogue.read_shards(connection)
        live = connection.execute(
            "SELECT id, shard, first_row, num_rows FROM tracks WHERE "  # noqa: S608
            f"{catalogue.LIVE} ORDER BY shard, first_row"
        ).fetchall()
        kept = {
            shard
            for (shard,) in connection.execute(
                "SELECT DISTINCT shard FROM tracks WHERE removed_at IS NULL AND NOT "  # noqa: S608
                f"({catalogue.LIVE})"
            )
        }
        staged = {shard for (shard,) in connection.execute("SELECT DISTINCT shard FROM staged")}
    places = [_Place(*row) for row in live]
    old = _worth_rewriting(shards, places, staged | kept, only_small=only_small)
    inside = [place for place in places if place.shard in old]
    moving, staying = _movable(database, shards, inside, _changed(database, inside))
    written = [
        (*database.write_shard(_gather(database.folder, group, shards)), group)
        for group in _groups(moving)
    ]
    old -= {place.shard for place in staying}
    _commit(database, written, old)
    num_old_rows = sum(shards[number].num_rows for number in old)
    num_kept = sum(place.num_rows for place in places if place.shard in old)
    return Compacted(num_old_rows - num_kept, len(shards), len(shards) - len(old) + len(written))


def _commit(
    database: Database, written: list[tuple[int, Shard, list[_Place]]], old: set[int]
) -> None:
    """Makes new shards known, with the tracks that lie in them now, and forgets old ones."""
    with database.connect() as connection:
        for number, shard, group in written:
            catalogue.insert_shard(connection, number, shard)
            firsts = np.cumsum([0] + [place.num_rows for place in group])
            connection.executemany(
                "UPDATE tracks SET shard = ?, first_row = ? WHERE id = ?",
                [
                    (number, int(first), place.track)
                    for first, place in zip(firsts, group, strict=False)
                ],
            )
            add_sums(connection, number)
        numbers = [(number,) for number in old]
        connection.executemany("DELETE FROM tracks WHERE shard = ?", numbers)  # tombstones
        connection.executemany("DELETE FROM shards WHERE id = ?", numbers)
    database.remove_strays()


def _complete_checksums(database: Database) -> None:
    """Gives shards of an older version checksums of their rows, where the files are as written."""
    with database.connect() as connection:
        for number, shard in catalogue.read_shards(connection).items():
            path = shard_path(database.folder, shard.file)
            with contextlib.suppress(FileNotFoundError, DatabaseError):
                if not has_block_checksums(shard.checksums, shard.num_rows) and is_as_written(
                    path, shard.checksums.sha256
                ):
                    stored = open_shard(path, shard.num_rows)
                    catalogue.put_blocks(connection, number, block_checksums(stored))


def _worth_rewriting(
    shards: dict[int, Shard], places: list[_Place], staged: set[int], *, only_small: bool
) -> set[int]:
    live = dict.fromkeys(shards, 0)
    for place in places:
        if place.shard in live:
            live[place.shard] += place.num_rows
    small = {
        number
        for number, shard in shards.items()
        if shard.num_rows < (_SMALL_ROWS if only_small else _SHARD_ROWS // 2)
    }
    small = small if len(small) > 1 else set()
    holed = (
        set()
        if only_small
        else {number for number, shard in shards.items() if live[number] < shard.num_rows}
    )
    return (small | holed) - staged


def _changed(database: Database, places: list[_Place]) -> set[int]:
    """Returns the tracks whose entry in the catalogue is not as it was left."""
    with database.connect() as connection:
        changed = changed_tracks(connection, [place.track for place in places])
    if changed:
        _log.warning(
            "%s: %d tracks are not as the last writer left them and stay as they are (ids %s); "
            "`confp verify` shows more",
            database.catalogue,
            len(changed),
            ", ".join(map(str, changed[:MOST_NAMED])),
        )
    return set(changed)


def _movable(
    database: Database, shards: dict[int, Shard], places: list[_Place], changed: set[int]
) -> tuple[list[_Place], list[_Place]]:
    """Returns the tracks whose rows are as they were written, and those whose are not: a copy would
    seal their damage with a new checksum, so they stay where they are.
    """
    moving = []
    staying = []
    for number, inside in itertools.groupby(places, lambda place: place.shard):
        shard = shards[number]
        path = shard_path(database.folder, shard.file)
        try:
            bad = rows_not_to_copy(path, open_shard(path, shard.num_rows), shard.checksums)
        except (FileNotFoundError, DatabaseError):
            bad = np.arange(shard.num_rows)
        for place in inside:
            last = place.first_row + place.num_rows
            is_inside = 0 <= place.first_row <= last <= shard.num_rows
            is_good = is_inside and not touched(bad, place.first_row, place.num_rows)
            is_good = is_good and place.track not in changed
            (moving if is_good else staying).append(place)
        if len(bad):
            _log.warning(
                "%s is damaged, and the tracks in question are left as they are; `confp verify "
                "%s` names them, `confp repair %s` restores them",
                path,
                database.folder,
                database.folder,
            )
    return moving, staying


def _groups(places: list[_Place]) -> list[list[_Place]]:
    groups: list[list[_Place]] = []
    num_rows = _SHARD_ROWS
    for place in places:
        if num_rows + place.num_rows > _SHARD_ROWS:
            groups.append([])
            num_rows = 0
        groups[-1].append(place)
        num_rows += place.num_rows
    return groups


def _gather(folder: pathlib.Path, places: list[_Place], shards: dict[int, Shard]) -> np.ndarray:
    parts = []
    for number, inside in itertools.groupby(places, lambda place: place.shard):
        shard = shards[number]
        rows = open_shard(shard_path(folder, shard.file), shard.num_rows)
        parts += [rows[place.first_row : place.first_row + place.num_rows] for place in inside]
    return np.concatenate(parts)
