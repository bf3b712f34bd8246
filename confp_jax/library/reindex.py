"""A database with another model: new fingerprints of its files beside the old vectors, which
serve until the swap.
"""

import pathlib
from collections.abc import Callable

from confp_jax.database import Database, DatabaseError, StoredTrack
from confp_jax.database.records import UPLOADED
from confp_jax.database.stage import begin_staging, stage, swap
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.files import ReadFile, read_files
from confp_jax.index import on_disk
from confp_jax.library.add import Added
from confp_jax.library.places import Places, too_much

_COMMIT_SECONDS = 3600.0


def reindex(
    database: Database,
    embedder: Embedder,
    *,
    prune: bool = False,
    force: bool = False,
    report: Callable[[Added, int], None] = lambda added, total: None,
) -> list[Added]:
    """Fingerprints every track's file with `embedder` and swaps the vectors in one commit;
    interrupted, it continues.

    Until the swap the database answers with its old model. The vectors are stored as the new
    model's are by default where that or the database's is binary, else as the database's. A file
    that is gone, or no longer has the content that was added, is "failed", and then nothing is
    swapped.

    Args:
      database: the one that gets a new model.
      embedder: the new model.
      prune: swap all the same, and remove the tracks of failed files, unless all of a root or most
        tracks failed.
      force: remove them also then.
      report: called with each result and the number of tracks.

    Returns:
      One result for each track.

    Raises:
      DatabaseError: it has this model already, too much would be removed, another process is
        writing, or the disk is full.
    """
    model_id = embedder.model_id
    if database.model_id.weights_hash == model_id.weights_hash:
        raise DatabaseError(
            f"{database.folder} is of model {embedder.name} ({embedder.weights_hash}) already: "
            "nothing to do"
        )
    # A model whose signs are enough is stored so; another one in what the database had, which may
    # have been chosen.
    is_binary = "binary" in (embedder.precision, database.precision)
    precision = embedder.precision if is_binary else database.precision
    with database.writing():
        places = Places(database)
        by_path: dict[pathlib.Path, list[StoredTrack]] = {}
        for track in begin_staging(database, model_id):
            path = places.moved_to(track) or track.path
            by_path.setdefault(pathlib.Path(path), []).append(track)
        results = _stage_files(database, embedder, by_path, precision, report)
        failed = [track for track, result in results if result.status == "failed"]
        kept = too_much(database, failed) if prune and failed and not force else ""
        if kept:
            raise DatabaseError(
                f"{database.folder}: nothing was removed or swapped, for {kept}; are their disks "
                "there? --force removes them"
            )
        if prune or not failed:
            swap(database, model_id, precision=precision, drop_missing=prune)
            on_disk.rebuild(database)
    return [result for _, result in results]


def _stage_files(
    database: Database,
    embedder: Embedder,
    by_path: dict[pathlib.Path, list[StoredTrack]],
    precision: str,
    report: Callable[[Added, int], None],
) -> list[tuple[StoredTrack, Added]]:
    """Fingerprints files and stages their tracks' vectors, an hour of audio in a commit; what is
    done when an error ends it is staged as well.
    """
    results: list[tuple[StoredTrack, Added]] = []
    pending = []
    pending_s = 0.0
    try:
        for read in read_files(embedder, by_path):
            for track in by_path[read.path]:
                result = _result(read, track)
                results.append((track, result))
                report(result, len(by_path))
                if read.track and result.status == "added":
                    pending.append((track.id, read.track.vectors))
                    pending_s += read.track.duration_s
            if pending_s >= _COMMIT_SECONDS:
                batch = pending
                pending = []
                pending_s = 0.0
                stage(database, batch, precision=precision)
    finally:
        stage(database, pending, precision=precision)
    return results


def _result(read: ReadFile, track: StoredTrack) -> Added:
    if track.path.startswith(UPLOADED):
        error = (
            f"{track.path}: {track.name} was uploaded, so there is no file to read again; upload "
            "it again after --prune"
        )
        return Added(track.path, "failed", error=error)
    if read.error or read.track is None:
        return Added(track.path, "failed", error=read.error)
    if read.track.sha256 != track.sha256:
        return Added(
            track.path,
            "failed",
            error=f"{track.path}: has changed since it was added; run `confp update` first",
        )
    return Added(track.path, "added", read.track.duration_s, len(read.track.vectors))
