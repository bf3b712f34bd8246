"""A database's approximate index on disk, as generations: built from the shards, checked by
checksums, never the truth.

A generation knows its rows by track: (track id, number of rows), in order. Tracks that were
removed since are passed over, new ones are searched exactly; compaction does not touch it. Its
folder is named after the checksum of its manifest, which holds the checksums of all its files:
damage is noticed when it is opened, and the generation is rebuilt.
"""

import dataclasses
import hashlib
import json
import logging
import math
import pathlib
import shutil
import uuid

import numpy as np

from confp_jax import index as indexes
from confp_jax.database import Database, DatabaseError, Snapshot
from confp_jax.database.layout import generation_path
from confp_jax.database.shards import flush_folder, write_error
from confp_jax.database.tracks import track_numbers
from confp_jax.index import ApproximateIndex, ExactIndex, Index, external
from confp_jax.index.generation import (
    MANIFEST,
    TRACKS,
    Manifest,
    StaleGenerationError,
    check_generation,
    flushed_crc32,
    read_tracks,
    rows_now,
    staleness,
)
from confp_jax.index.kinds import default_kind, find_kind, is_missing, is_remote
from confp_jax.index.milvus_sync import (
    mirror_stale_share,
    name_collection,
    open_mirror,
    parse_uri,
    sync_mirror,
)
from confp_jax.index.tuning import DEFAULT_RECALL, tune

_log = logging.getLogger(__name__)
# Beyond this share of rows that were added or removed since, a generation is rebuilt.
MAX_STALE_SHARE = 0.25


def open_index(database: Database, snapshot: Snapshot, *, build: bool = True) -> Index:
    """Opens the index of a snapshot: exact for a small database, else its generation, which is
    built if it is missing or stale.

    A generation that was built is kept for the next time, unless the database cannot be written
    now. Without `build`, a stale generation is used as it is, and a missing one is replaced by
    exact search.
    """
    kind = wanted_kind(database, snapshot)
    if not kind:
        return ExactIndex(snapshot.vectors)
    if is_remote(kind):
        return open_mirror(kind, database, snapshot)
    try:
        return load_generation(
            database, snapshot, max_stale_share=MAX_STALE_SHARE if build else math.inf
        )
    except StaleGenerationError as error:
        if not build:
            return ExactIndex(snapshot.vectors)
        _log.warning(
            "%s: building the search index (%s); `confp compact` does this ahead of time",
            database.folder,
            error,
        )
    try:
        with database.writing():
            rebuild(database)
        return load_generation(
            database, dataclasses.replace(snapshot, generation=database.setting("generation") or "")
        )
    except (DatabaseError, StaleGenerationError) as error:
        _log.warning("the search index could not be kept for the next time: %s", error)
    # while another process adds for hours: slower for the many rows that are searched exactly, and
    # as good
    try:
        return load_generation(database, snapshot, max_stale_share=math.inf)
    except StaleGenerationError:
        return indexes.build_index(snapshot.vectors, kind=kind, recall=wanted_recall(database))


def wanted_kind(database: Database, snapshot: Snapshot) -> str:
    """Returns the kind of approximate index that this database is to have (or milvus://...), "" if
    it is searched exactly.
    """
    kind = database.setting("index") or default_kind(snapshot.vectors)
    if kind and not _is_kind(kind):
        _log.warning("%s: %r is no kind of index", database.folder, kind[:40])
        kind = default_kind(snapshot.vectors)
    if is_missing(kind):
        _log.warning(
            "%s is to be searched with %s, which is not installed here", database.folder, kind
        )
        kind = default_kind(snapshot.vectors)
    if is_remote(kind) and not external.is_named(kind):
        _log.warning(
            "%s names the search server %s, which you did not name: it is not used; if it is "
            "yours, run `confp compact %s --index %s`, or set %s=%s",
            database.folder,
            kind,
            database.folder,
            kind,
            external.VARIABLE,
            kind,
        )
        kind = default_kind(snapshot.vectors)
    small = len(snapshot.vectors) < (1 if is_remote(kind) else indexes.BRUTE_FORCE_ROWS)
    return "" if small or kind == "exact" else kind


def _is_kind(text: str) -> bool:
    """Returns whether a setting names a kind of index, of a remote one with a proper address."""
    if not is_remote(text):
        return find_kind(text) is not None
    try:
        parse_uri(text)
    except ValueError:
        return False
    return True


def wanted_recall(database: Database) -> float:
    """Returns the recall of the first hit that the index is tuned to."""
    try:
        recall = float(database.setting("recall") or DEFAULT_RECALL)
    except ValueError:
        return DEFAULT_RECALL
    return recall if 0 < recall <= 1 else DEFAULT_RECALL


def choose(database: Database, *, kind: str | None = None, recall: float | None = None) -> None:
    """Sets what `rebuild` makes: "scann", "faiss", "exact" or milvus://..., tuned to this recall;
    only inside `writing`.

    Raises:
      DatabaseError: its library is not installed.
    """
    known = find_kind(kind or "")
    if known and is_missing(known.name):
        raise DatabaseError(
            f"{kind} is not installed", f"install it with: pip install {known.package}"
        )
    if kind and is_remote(kind):
        external.remember(kind)
    if kind:
        database.set_setting("index", kind)
        if is_remote(kind):
            name_collection(database)
    if recall:
        database.set_setting("recall", str(recall))


def rebuild(database: Database) -> Manifest | None:
    """Builds a generation of all rows and commits it; only inside `writing`. None where search is
    exact, or Milvus's.

    Raises:
      DatabaseError: the disk is full.
    """
    snapshot = database.snapshot()
    kind = wanted_kind(database, snapshot)
    if is_remote(kind):
        sync_mirror(kind, database, snapshot)
    if not kind or is_remote(kind):
        database.set_setting("generation", "")
        database.remove_strays()
        return None
    partial = database.folder / "index" / f"{uuid.uuid4().hex}.part"
    try:
        partial.mkdir(parents=True)
        name, manifest = write_generation(database, snapshot, kind, partial)
        if not (partial.parent / name).exists():  # the very same one may be there
            partial.rename(partial.parent / name)
        flush_folder(partial.parent)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise write_error(partial.parent, error) from error
    database.set_setting("generation", name)
    database.remove_strays()
    return manifest


def write_generation(
    database: Database, snapshot: Snapshot, kind: str, partial: pathlib.Path
) -> tuple[str, Manifest]:
    """Builds a generation of the snapshot's rows in this folder; its name and what it is."""
    coarse = indexes.build_coarse(snapshot.vectors, kind)
    coarse.save(partial)
    num_rows, dim = snapshot.vectors.shape
    # Tuned as it will be read: what was not written completely fails here, and not in a search.
    coarse = indexes.load_coarse(
        partial, kind, num_rows=num_rows, num_cells=coarse.num_cells, dim=dim
    )
    effort = tune(coarse, snapshot.vectors, recall=wanted_recall(database))
    np.save(
        partial / TRACKS,
        np.stack(track_numbers(snapshot.tracks), axis=1)[:, [0, 2]],
        allow_pickle=False,
    )
    files = {path.name: flushed_crc32(path) for path in sorted(partial.iterdir())}
    manifest = Manifest(
        kind,
        indexes.library(kind),
        database.model_id.weights_hash,
        num_rows,
        coarse.num_cells,
        dim,
        effort,
        files,
    )
    text = json.dumps(dataclasses.asdict(manifest), indent=1).encode()
    (partial / MANIFEST).write_bytes(text)
    flushed_crc32(partial / MANIFEST)
    flush_folder(partial)
    return f"{kind}-{hashlib.sha256(text).hexdigest()[:16]}", manifest


def rebuild_if_due(database: Database, *, mirror_only: bool = False) -> None:
    """After tracks were added: Milvus gets them at once, a generation when many have gathered;
    only inside `writing`.

    With `mirror_only` a generation is left for later: its new rows are searched exactly until
    then.
    """
    snapshot = database.snapshot()
    kind = wanted_kind(database, snapshot)
    if is_remote(kind):
        try:
            if mirror_stale_share(kind, database, snapshot):
                rebuild(database)
        except DatabaseError as error:  # the tracks are safe: they are searched exactly until then
            _log.warning("Milvus gets what is new with the next `confp add`: %s", error)
    elif not mirror_only and stale_share(database, snapshot) > MAX_STALE_SHARE:
        rebuild(database)


def stale_share(database: Database, snapshot: Snapshot) -> float:
    """Returns the share of rows that the generation lacks, or holds although they were removed: 1
    without a usable generation, 0 if none is needed.
    """
    kind = wanted_kind(database, snapshot)
    if not kind:
        return 0.0
    if is_remote(kind):
        return mirror_stale_share(kind, database, snapshot)
    try:
        folder = generation_folder(database, snapshot.generation)
        return staleness(
            rows_now(read_tracks(folder), snapshot),
            len(snapshot.vectors),
        )
    except (StaleGenerationError, OSError, ValueError):
        return 1.0


def load_generation(
    database: Database, snapshot: Snapshot, *, max_stale_share: float = MAX_STALE_SHARE
) -> ApproximateIndex:
    """Opens the generation that belongs to the snapshot.

    Raises:
      StaleGenerationError: it is missing, damaged, of another model or library, or too many rows
        changed since.
    """
    folder = generation_folder(database, snapshot.generation)
    manifest = check_generation(folder)
    chosen = database.setting("index") and wanted_kind(database, snapshot)
    if manifest.kind != (chosen or manifest.kind):
        raise StaleGenerationError(f"the present index is {manifest.kind}")
    weights_hash = database.model_id.weights_hash
    dim = snapshot.vectors.shape[1]
    if (manifest.identity, manifest.dim) != (weights_hash, dim):
        raise StaleGenerationError("the present index is of another model")
    try:
        if manifest.library != indexes.library(manifest.kind):
            raise StaleGenerationError(
                f"it was made with {manifest.library}, here is {indexes.library(manifest.kind)}"
            )
        rows = rows_now(read_tracks(folder, manifest.num_rows), snapshot)
        share = staleness(rows, len(snapshot.vectors))
        if share > max_stale_share:
            raise StaleGenerationError(f"{share:.0%} of the rows changed since")
        coarse = indexes.load_coarse(
            folder,
            manifest.kind,
            num_rows=manifest.num_rows,
            num_cells=manifest.num_cells,
            dim=manifest.dim,
        )
    except ImportError as error:
        raise StaleGenerationError(f"{manifest.kind} is not installed here") from error
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise (
            error if isinstance(error, StaleGenerationError) else StaleGenerationError(str(error))
        ) from error
    return ApproximateIndex(coarse, snapshot.vectors, manifest.effort, rows)


def generation_folder(database: Database, name: str) -> pathlib.Path:
    """Returns the folder of a generation.

    Raises:
      StaleGenerationError: it is missing, or this program gives no such name.
    """
    if not name:
        raise StaleGenerationError("there is none yet")
    path = generation_path(database.folder, name)
    if path is None:
        raise StaleGenerationError(f"{name!r} is no index of this program's making")
    return path
