"""Compaction: the rows of removed tracks go, and many small shards become few large ones."""

import dataclasses
import logging
import pathlib

import numpy as np

from confp_jax.database.damage import is_as_written
from confp_jax.database.layout import shard_path
from confp_jax.database.records import DatabaseError
from confp_jax.database.shards import REMEDY, open_shard
from confp_jax.database.store import Database, shard_row

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
      DatabaseError: a shard is damaged, or the disk is full (about the database's size is needed
        beside it).
    """
    return _rewrite(database, only_small=False)


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
        shards = {
            number: (file, rows)
            for number, file, rows in connection.execute("SELECT id, file, num_rows FROM shards")
        }
        sums = dict(connection.execute("SELECT id, sha256 FROM shards"))
        live = connection.execute(
            "SELECT id, shard, first_row, num_rows FROM tracks WHERE removed_at IS NULL ORDER BY "
            "shard, first_row"
        ).fetchall()
        staged = {shard for (shard,) in connection.execute("SELECT DISTINCT shard FROM staged")}
    places = [_Place(*row) for row in live]
    old = _worth_rewriting(shards, places, staged, only_small=only_small)
    copied = {place.shard for place in places if place.shard in old}
    old -= _damaged(database, {number: shards[number][0] for number in copied}, sums)
    written = []
    for group in _groups([place for place in places if place.shard in old]):
        rows = _gather(database.folder / "vectors", group, shards)
        number, sha256 = database.write_shard(rows)
        written.append((number, shard_row(number, sha256, rows), group))
    with database.connect() as connection:
        for number, row, group in written:
            connection.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", row)
            firsts = np.cumsum([0] + [place.num_rows for place in group])
            connection.executemany(
                "UPDATE tracks SET shard = ?, first_row = ? WHERE id = ?",
                [
                    (number, int(first), place.track)
                    for first, place in zip(firsts, group, strict=False)
                ],
            )
        connection.executemany(
            "DELETE FROM tracks WHERE shard = ?", [(number,) for number in old]
        )  # tombstones: the live moved
        connection.executemany("DELETE FROM shards WHERE id = ?", [(number,) for number in old])
    database.remove_strays()
    num_old_rows = sum(shards[number][1] for number in old)
    num_kept = sum(place.num_rows for place in places if place.shard in old)
    return Compacted(num_old_rows - num_kept, len(shards), len(shards) - len(old) + len(written))


def _worth_rewriting(
    shards: dict[int, tuple[str, int]], places: list[_Place], staged: set[int], *, only_small: bool
) -> set[int]:
    live = dict.fromkeys(shards, 0)
    for place in places:
        live[place.shard] += place.num_rows
    small = {
        number
        for number, (_, rows) in shards.items()
        if rows < (_SMALL_ROWS if only_small else _SHARD_ROWS // 2)
    }
    small = small if len(small) > 1 else set()
    holed = (
        set()
        if only_small
        else {number for number, (_, rows) in shards.items() if live[number] < rows}
    )
    return (small | holed) - staged


def _damaged(database: Database, files: dict[int, str], sums: dict[int, str]) -> set[int]:
    """Returns the shards that are not as they were written: a copy would seal their damage with a
    new checksum, so they stay where they are.
    """
    found = set()
    for number, file in files.items():
        path = shard_path(database.folder, file)
        try:
            if is_as_written(path, sums[number]):
                continue
        except FileNotFoundError as error:
            raise DatabaseError(f"{path} is missing; {REMEDY}") from error
        found.add(number)
        _log.warning(
            "%s is not as it was written and is left as it is; `confp verify %s` names its tracks, "
            "`confp repair %s` restores them",
            path,
            database.folder,
            database.folder,
        )
    return found


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


def _gather(
    folder: pathlib.Path, places: list[_Place], shards: dict[int, tuple[str, int]]
) -> np.ndarray:
    opened: dict[int, np.ndarray] = {}
    parts = []
    for place in places:
        if place.shard not in opened:
            file, num_rows = shards[place.shard]
            try:
                opened[place.shard] = open_shard(folder / file, num_rows)
            except FileNotFoundError as error:
                raise DatabaseError(f"{folder / file} is missing; {REMEDY}") from error
        parts.append(opened[place.shard][place.first_row : place.first_row + place.num_rows])
    return np.concatenate(parts)
