"""One database's tracks into another, without their audio."""

import dataclasses
from collections.abc import Callable

from confp_jax.database.compact import merge_small_shards
from confp_jax.database.records import DatabaseError, NewTrack
from confp_jax.database.roots import read_roots, remember_roots
from confp_jax.database.store import Database

_COMMIT_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge or an import did."""

    num_added: int
    num_there: int  # content that was there already
    damaged: tuple[str, ...] = ()  # tracks that were left out: their rows are not as written


def merge_databases(
    database: Database,
    other: Database,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Copies the tracks of another database whose content is not here yet. If interrupted, the next
    run continues where it stopped.

    Args:
      database: the one that tracks are copied into.
      other: the one that they are copied from; it is only read.
      report: called with the number of tracks that were looked at, and of all.

    Returns:
      How many tracks were copied, and what was left out.

    Raises:
      DatabaseError: another model's, or the disk is full.
    """
    with database.writing():
        same_model(database, str(other.folder), other.model_id.weights_hash, other.model_id.hop_s)
        contents = {track.sha256 for track in database.tracks()}
        known = other.known_files()
        snapshot = other.snapshot(to_copy=True)
        if len(snapshot.vectors):
            database.check_dim(snapshot.vectors.shape[1], other.folder)
        pending: list[NewTrack] = []
        num_added = num_rows = 0
        for done, track in enumerate(snapshot.tracks, 1):
            if track.sha256 not in contents:
                file = known.get(track.path)
                seen = (
                    {"size_bytes": file.size_bytes, "mtime_ns": file.mtime_ns}
                    if file and file.sha256 == track.sha256
                    else {}
                )
                vectors = snapshot.vectors[track.first_row : track.first_row + track.num_rows]
                names = (track.name, track.path, track.sha256, track.duration_s)
                pending.append(
                    NewTrack(
                        *names, vectors, track.title, track.artist, track.album, track.tags, **seen
                    )
                )
                num_added += 1
                num_rows += track.num_rows
            if num_rows >= _COMMIT_ROWS:
                database.add(pending)
                pending = []
                num_rows = 0
            report(done, len(snapshot.tracks))
        database.add(pending)
        remember_roots(database, read_roots(other))
        merge_small_shards(database)
    damaged = tuple(track.name for track in snapshot.damaged)
    return Merged(num_added, len(snapshot.tracks) - num_added, damaged)


def same_model(database: Database, source: str, weights_hash: str, hop_s: float) -> None:
    """Refuses fingerprints that cannot be compared with the database's.

    Raises:
      DatabaseError: they are of another model, or at another hop.
    """
    model_id = database.model_id
    if (weights_hash, hop_s) != (model_id.weights_hash, model_id.hop_s):
        raise DatabaseError(
            f"{source} was made with model {weights_hash} at a hop of {hop_s} s, {database.folder} "
            f"with {model_id.weights_hash} ({model_id.name}) at {model_id.hop_s} s: their "
            "fingerprints cannot be compared; `confp reindex` gives a database another model"
        )
