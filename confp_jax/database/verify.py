"""Checking all of a database: the catalogue's pages, every shard's checksum, and that tracks and
rows belong together.
"""

import dataclasses
import sqlite3
from collections.abc import Callable

from confp_jax.database import catalogue, questions
from confp_jax.database.catalogue import Shard
from confp_jax.database.damage import damaged_rows, has_block_checksums, touched
from confp_jax.database.digests import CatalogueDamage, catalogue_damage
from confp_jax.database.layout import shard_path
from confp_jax.database.records import DatabaseError
from confp_jax.database.shards import file_sha256, open_shard
from confp_jax.database.store import Database

_REMEDY = (
    "restore the file from a copy; or `confp remove` these tracks and `confp add` their files again"
)
_NOT_AS_LEFT = "are not as the last writer left them (their checksum differs)"


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong, the ids of the tracks that it concerns, and what to do."""

    what: str
    tracks: list[int]
    remedy: str = _REMEDY


def verify(
    database: Database, *, report: Callable[[int, int], None] = lambda done, total: None
) -> list[Problem]:
    """Returns all that is wrong with it; `report(done, total)` is called after each shard.

    Raises:
      DatabaseError: the catalogue cannot be read at all.
    """
    problems = []
    with database.connect() as connection:
        connection.execute("BEGIN")
        said = [text for (text,) in connection.execute("PRAGMA integrity_check")]
        shards = catalogue.read_shards(connection)
        left = catalogue_damage(connection)
        odd = questions.odd_tracks(connection)
        orphans = connection.execute(
            "SELECT id FROM tracks WHERE removed_at IS NULL AND shard NOT IN (SELECT id FROM "
            "shards)"
        ).fetchall()
    if said != ["ok"]:
        problems.append(
            Problem(f"{database.catalogue}: {'; '.join(said)}", [], "restore it from a copy")
        )
    problems += _catalogue_problems(database, left, odd)
    if odd:
        problems.append(
            Problem(
                "tracks with impossible values in the catalogue",
                odd,
                "`confp remove DB --id N` for each, and `confp add` their files again",
            )
        )
    if orphans:
        problems.append(
            Problem(
                "tracks lie in shards that the catalogue does not know",
                [number for (number,) in orphans],
            )
        )
    return problems + _check_shards(database, shards, report)


def damaged_entries(database: Database) -> CatalogueDamage:
    """Returns which entries of the catalogue are not as the last writer left them."""
    with database.connect() as connection:
        return catalogue_damage(connection)


def _catalogue_problems(database: Database, left: CatalogueDamage, odd: list[int]) -> list[Problem]:
    """Returns what the checksums of the catalogue say."""
    again = "`confp repair DB [FOLDER]` takes them from their files"
    old = "; an older version of confp that wrote to it has the same effect"
    found = []
    if left.is_changed:
        what = f"{database.catalogue}: the model or the list of shards"
        found.append(Problem(f"{what} {_NOT_AS_LEFT}", [], "restore it from a copy" + old))
    if changed := sorted(set(left.changed) - set(odd)):
        what = f"{database.catalogue}: names, places or times of tracks"
        found.append(Problem(f"{what} {_NOT_AS_LEFT}", changed, again + old))
    if left.lost:
        what = f"{database.catalogue}: tracks that were there are gone"
        remedy = "`confp add` their files again, and `confp repair DB --drop` forgets them"
        found.append(Problem(what, left.lost, remedy))
    return found


def _check_shards(
    database: Database, shards: dict[int, Shard], report: Callable[[int, int], None]
) -> list[Problem]:
    """Checks the shards that there are, and those that another process makes of them meanwhile."""
    found: dict[int, list[Problem]] = {}
    while missing := shards.keys() - found.keys():
        for number in sorted(missing):
            with database.connect() as connection:
                tracks = _tracks_of(connection, number)
            found[number] = _check_shard(database, shards[number], tracks)
            report(len(found), max(len(found), len(shards)))
        with database.connect() as connection:
            shards = catalogue.read_shards(connection)
    return [problem for number in sorted(shards) for problem in found[number]]


def _tracks_of(connection: sqlite3.Connection, shard: int) -> list[tuple[int, int, int]]:
    return connection.execute(
        "SELECT id, first_row, num_rows FROM tracks WHERE shard = ? AND "  # noqa: S608
        f"{catalogue.LIVE} ORDER BY first_row, id",
        (shard,),
    ).fetchall()


def _check_shard(
    database: Database, shard: Shard, tracks: list[tuple[int, int, int]]
) -> list[Problem]:
    ids = [number for number, _, _ in tracks]
    try:
        path = shard_path(database.folder, shard.file)
        rows = open_shard(path, shard.num_rows)
        is_same = file_sha256(path) == shard.checksums.sha256
        bad = damaged_rows(path, rows, shard.checksums)
    except FileNotFoundError:
        return [Problem(f"{database.folder / 'vectors' / shard.file} is missing", ids)]
    except (DatabaseError, OSError) as error:
        return [Problem(str(error), ids)]
    concerned = [number for number, first, num in tracks if touched(bad, first, num)]
    if not is_same:
        known = has_block_checksums(shard.checksums, len(rows))
        what = f"{path} is not as it was written (its checksum differs)"
        return [Problem(what, concerned if known and len(bad) else ids)]
    problems = []
    last = (0, 0)
    for number, first, num in tracks:
        if first < 0 or first + num > shard.num_rows:
            problems.append(Problem(f"a track's rows lie beyond the end of {path}", [number]))
        if first < last[1]:
            problems.append(Problem(f"tracks overlap in {path}", [last[0], number]))
        last = (number, first + num)
    if len(bad):
        problems.append(Problem(f"{path} holds rows that cannot be fingerprints", concerned))
    return problems
