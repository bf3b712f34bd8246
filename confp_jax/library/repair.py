"""`confp repair`: fingerprints whose stored rows are damaged, made again from their files."""

import pathlib
from collections.abc import Callable, Container, Sequence

import numpy as np

from confp_jax.audio.folders import find_audio
from confp_jax.database import Database, StoredTrack
from confp_jax.database.compact import compact_shards
from confp_jax.database.stage import replace_rows
from confp_jax.database.verify import damaged_entries, verify
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.files import read_files
from confp_jax.index import on_disk
from confp_jax.library.add import Added

_COMMIT_ROWS = 65_536


def repair(
    database: Database,
    embedder: Embedder,
    *,
    folders: Sequence[pathlib.Path] = (),
    drop: bool = False,
    report: Callable[[Added, int], None] = lambda added, total: None,
) -> list[Added]:
    """Fingerprints the tracks again that `verify` finds damaged, from the files they were made of.

    A track keeps its id, unless its entry in the catalogue is damaged too: then it is added again.
    One whose file is gone, or has other content now, is "failed" and stays as it is; it is left out
    of answers.

    Args:
      database: the one to repair.
      embedder: computes the fingerprints; of the database's model.
      folders: where to look for files of the same content, beside the tracks' own paths.
      drop: remove the tracks that cannot be restored, and forget those that are gone.
      report: called with each restored track and the number of damaged ones.

    Returns:
      A result for each damaged track: "repaired", "failed" or "dropped".

    Raises:
      DatabaseError: another process is writing, the disk is full, or the catalogue is damaged.
      OtherModelError: the database is of another model.
    """
    with database.writing():
        database.model_id.check_compatible(embedder.model_id)
        damaged = _damaged(database)
        entries = damaged_entries(database)
        files = [path for track in damaged if (path := pathlib.Path(track.path)).is_file()]
        files += find_audio(folders).files if folders else []
        restored, unread = _restore(database, embedder, damaged, files, entries.changed, report)
        results = {track.id: restored.get(track.id) or _lost(track, unread) for track in damaged}
        if drop:
            lost = [one for one in damaged if one.id not in restored and one.path not in unread]
            database.remove([*(track.id for track in lost), *entries.lost])
            results |= {track.id: Added(track.path, "dropped") for track in lost}
        if damaged:
            compact_shards(database)
            on_disk.rebuild_if_due(database)
    return list(results.values())


def _restore(
    database: Database,
    embedder: Embedder,
    damaged: Sequence[StoredTrack],
    files: Sequence[pathlib.Path],
    changed: Container[int],
    report: Callable[[Added, int], None],
) -> tuple[dict[int, Added], set[str]]:
    """Stores new rows for the damaged tracks whose content is in a file; those whose entries in the
    catalogue `changed` are added again.

    Returns:
      The results by track id, and the paths of the files that could not be read.
    """
    wanted = {track.sha256: track for track in damaged}
    restored: dict[int, Added] = {}
    unread: set[str] = set()
    pending: list[tuple[int, np.ndarray]] = []
    num_rows = 0
    for read in read_files(embedder, files, wanted=lambda file: file.sha256 in wanted):
        if read.error:
            unread.add(str(read.path))
        track = wanted.pop(read.track.sha256, None) if read.track else None
        if track is None or read.track is None:
            continue
        if track.id in changed:
            database.add([read.track], replacing=[track.id])
        else:
            pending.append((track.id, read.track.vectors))
            num_rows += len(read.track.vectors)
        done = Added(track.path, "repaired", track.duration_s, len(read.track.vectors))
        restored[track.id] = done
        report(done, len(damaged))
        if num_rows >= _COMMIT_ROWS:
            replace_rows(database, pending)
            pending, num_rows = [], 0
    replace_rows(database, pending)
    return restored, unread


def _damaged(database: Database) -> list[StoredTrack]:
    ids = {number for problem in verify(database) for number in problem.tracks}
    return [track for track in database.tracks() if track.id in ids]


def _lost(track: StoredTrack, unread: set[str]) -> Added:
    if track.path in unread:
        error = f"{track.path}: is there and could not be read; try again"
        return Added(track.path, "failed", error=error)
    error = (
        f"{track.path}: no file of the content that was added is there; name a folder that holds "
        f"it, or --drop removes {track.name} (id {track.id})"
    )
    return Added(track.path, "failed", error=error)
