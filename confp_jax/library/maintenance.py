"""What keeps a database in order: what it holds, compaction with its index, verification with the
index's recall.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from confp_jax.database import Database, DatabaseError, questions
from confp_jax.database.compact import Compacted, compact_shards
from confp_jax.database.verify import Problem
from confp_jax.database.verify import verify as verify_shards
from confp_jax.index import on_disk
from confp_jax.index.on_disk import (
    StaleGenerationError,
    check_generation,
    generation_folder,
    open_index,
    wanted_kind,
)
from confp_jax.index.tuning import measure_recall

_ID_DIGITS = 19


@dataclasses.dataclass(frozen=True)
class Info:
    """What a database holds, and what it takes."""

    model: str
    identity: str  # weights hash of the model
    hop_s: float
    precision: str
    format: str
    num_tracks: int
    duration_s: float
    num_fingerprints: int
    num_removed: int  # fingerprints of removed tracks, until the next compaction
    num_shards: int
    vector_bytes: int
    catalogue_bytes: int
    index_bytes: int
    index: str  # "exact", "scann", "faiss": what is searched
    index_stale_share: float  # of the rows; beyond 0.25 the index is rebuilt


def describe(database: Database) -> Info:
    """Returns counts and sizes; reads no vector."""
    with database.connect() as connection:
        num_shards, num_rows = questions.shard_sizes(connection)
    snapshot = database.snapshot()
    model_id = database.model_id
    num_fingerprints = len(snapshot.vectors)
    return Info(
        model=model_id.name,
        identity=model_id.weights_hash,
        hop_s=model_id.hop_s,
        precision=database.precision,
        format=database.setting("format") or "",
        num_tracks=len(snapshot.tracks),
        duration_s=database.duration_s(),
        num_fingerprints=num_fingerprints,
        num_removed=num_rows - num_fingerprints,
        num_shards=num_shards,
        vector_bytes=_bytes(database.folder / "vectors"),
        catalogue_bytes=sum(
            path.stat().st_size for path in database.folder.glob("catalogue.sqlite*")
        ),
        index_bytes=_bytes(database.folder / "index"),
        index=wanted_kind(database, snapshot) or "exact",
        index_stale_share=round(on_disk.stale_share(database, snapshot), 4),
    )


def compact(
    database: Database, *, kind: str | None = None, recall: float | None = None
) -> tuple[Compacted, on_disk.Manifest | None]:
    """Rewrites the shards without removed rows, and builds the search index of all that is left.

    Args:
      database: the one to rewrite.
      kind: of the index from now on, "scann", "faiss" or "exact"; None: as before.
      recall: the proportion of exact search's first hits that the index is tuned to find, 0 to 1;
        None: as before.

    Returns:
      What was rewritten, and the new index; None where exact search needs no index.

    Raises:
      DatabaseError: another process is writing, a shard is damaged, or the disk is full.
    """
    with database.writing():
        on_disk.choose(database, kind=kind, recall=recall)
        return compact_shards(database), on_disk.rebuild(database)


def verify(
    database: Database,
    *,
    recall: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Problem], float | None]:
    """Checks shards, catalogue and search index.

    Args:
      database: the one to check.
      recall: also compare the index with exact search.
      report: called with the number of shards that were checked, and of all.

    Returns:
      The problems; and with `recall`, if there are none, the proportion of exact search's first
      hits that the index finds, else None.
    """
    problems = verify_shards(database, report=report)
    name = database.setting("generation")
    if name:
        try:
            check_generation(generation_folder(database, name))
        except StaleGenerationError as error:
            problems.append(
                Problem(
                    f"the search index: {error}",
                    [],
                    "`confp compact` rebuilds it; no music is lost",
                )
            )
    if not recall or problems:
        return problems, None
    snapshot = database.snapshot()
    return problems, measure_recall(open_index(database, snapshot), snapshot.vectors)


def remove(
    database: Database, wanted: Sequence[str], *, ids: Sequence[int] = ()
) -> tuple[list[dict], list[str]]:
    """Removes tracks in one commit; their audio files stay.

    Args:
      database: the one to remove from.
      wanted: paths or names. A name of several tracks removes none of them.
      ids: of further tracks.

    Returns:
      Id, name and path of each removed track, and for each other one a line that says why not.

    Raises:
      DatabaseError: another process is writing.
    """
    removed = {}
    refused = []
    with database.writing():
        for number in ids:
            if found := database.track(number):
                removed[number] = {"id": number, "name": found.name, "path": found.path}
            elif number in _odd_tracks(database):
                removed[number] = {"id": number, "name": "(unreadable)", "path": "(unreadable)"}
            else:
                refused.append(
                    f"{number}: no track has this id; see `confp list {database.folder}`"
                )
        for text in wanted:
            found = database.find(text)
            if len(found) == 1:
                removed[found[0].id] = {
                    "id": found[0].id,
                    "name": found[0].name,
                    "path": found[0].path,
                }
            elif not found and (numbered := database.track(wanted_id(text))):
                refused.append(
                    f"{text}: no such name or path, and names are numbers here; --id {text} is the "
                    f"track {numbered.path}"
                )
            elif not found:
                refused.append(
                    f"{text}: no such track; `confp list {database.folder} --search TEXT` finds "
                    "ids, names and paths"
                )
            else:
                which = ", ".join(f"{track.id} ({track.path})" for track in found)
                refused.append(
                    f"{text}: {len(found)} tracks have this name; say which by --id: {which}"
                )
        database.remove(list(removed))
    return list(removed.values()), refused


def _odd_tracks(database: Database) -> list[int]:
    """Returns the ids of tracks that no answer names because their rows in the catalogue are
    damaged.
    """
    with database.connect() as connection:
        return questions.odd_tracks(connection)


def wanted_id(text: str) -> int:
    """Returns the id that a text spells, or 0, which no track has."""
    return int(text) if text.isdecimal() and len(text) < _ID_DIGITS else 0


def open_other(folder: pathlib.Path, database: Database) -> Database:
    """Opens the database to merge from.

    Args:
      folder: of the other database.
      database: the one to merge into.

    Raises:
      DatabaseError: `folder` holds no database, or is that of `database`.
    """
    if folder.resolve() == database.folder.resolve():
        raise DatabaseError(f"{folder} is the same database; name another one to take tracks from")
    return Database(folder)


def _bytes(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
