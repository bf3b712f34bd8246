"""Opens a database with its model, its index and its decision."""

import dataclasses
import logging
import pathlib
from typing import Any

import numpy as np

from confp_jax.database import Database, DatabaseError, Snapshot
from confp_jax.fingerprint.embedder import DEFAULT_MODEL, Embedder, UnknownModelError, load_encoder
from confp_jax.index import Index
from confp_jax.index.on_disk import open_index
from confp_jax.matching.decision import Decision, load_decision
from confp_jax.matching.searchable import Reference
from confp_jax.model.errors import CheckpointError
from confp_jax.texts import parse_json

_log = logging.getLogger(__name__)
CALIBRATION_SETTING = "calibration"  # of a database: what `confp calibrate` measured


def open_database(folder: str | pathlib.Path, model: str | None) -> tuple[Database, Embedder]:
    """Opens an existing database with its model.

    Raises:
      DatabaseError: no database, or `model` is another than the one it was made with.
    """
    database = Database(folder)
    model_id = database.model_id
    if not model and "://" in model_id.name:  # a database decides no address
        raise DatabaseError(
            f"{folder} was made with the model at {model_id.name}; if you trust that address, name "
            "it with --model"
        )
    try:
        embedder = load_encoder(model or model_id.name)
    except (UnknownModelError, CheckpointError) as error:
        if model:
            raise
        raise DatabaseError(
            f"{folder} was made with {model_id.name}: {error}; say where it is now with --model"
        ) from error
    if embedder.weights_hash != model_id.weights_hash:
        other = f"{folder} was made with model {model_id.name!r} ({model_id.weights_hash}), "
        if embedder.name != model_id.name:
            raise DatabaseError(
                f"{other}not with {embedder.name!r} ({embedder.weights_hash}): their fingerprints "
                "cannot be compared; leave --model "
                f"out, or make the database one of {model} with `confp reindex {folder} --model "
                f"{model}`"
            )
        raise DatabaseError(
            f"{other}which has other weights now ({embedder.weights_hash}): their fingerprints "
            f"cannot be compared; `confp reindex {folder} --model {model_id.name}` computes new "
            "ones from its files, or --model FOLDER uses the old weights, if you have them"
        )
    return database, embedder


def open_or_create(
    folder: str | pathlib.Path, model: str | None, *, precision: str | None = None
) -> tuple[Database, Embedder]:
    """Opens a database with its model, or creates it (with the default model unless one is named).

    Raises:
      DatabaseError: as there, or the database stores its vectors in another precision.
    """
    catalogue = pathlib.Path(folder) / "catalogue.sqlite"
    embedder = None if catalogue.exists() else load_encoder(model or DEFAULT_MODEL)
    if embedder is None or catalogue.exists():  # also where another process has made it meanwhile
        database, embedder = open_database(folder, model)
        if precision not in (None, database.precision):
            raise DatabaseError(
                f"{folder} stores vectors as {database.precision}; leave --precision out, or make "
                "a new database"
            )
        return database, embedder
    return Database.create(
        folder, embedder.model_id, precision=precision or embedder.precision
    ), embedder


def open_reference(
    database: Database, embedder: Embedder, *, build_index: bool = True, remote: str = ""
) -> Reference:
    """Returns the database in its present state, ready to be searched.

    Without `build_index` a stale index is used as it is, and new rows are searched exactly. A
    `remote` Milvus (milvus://...) also gives the fingerprints; then no shard is read.

    Raises:
      OtherModelError: it was reindexed with another model since it was opened.
    """
    expected = dataclasses.replace(embedder.model_id, hop_s=database.model_id.hop_s)
    database.model_id.check_compatible(expected)
    if remote:
        snapshot, index = _open_remote(remote, database)
    else:
        snapshot = database.snapshot()
        index = open_index(database, snapshot, build=build_index)
    database.model_id.check_compatible(expected)  # nor did it change while it was read
    segment_s = embedder.config.audio.segment_s
    phases = embedder.query_phases
    return Reference(
        snapshot, index, hop_s=database.model_id.hop_s, segment_s=segment_s, query_phases=phases
    )


def _open_remote(uri: str, database: Database) -> tuple[Snapshot, Index]:
    try:
        from confp_jax.index.remote import open_remote
    except ImportError as error:
        raise DatabaseError(
            f"{uri} needs pymilvus; install it with: pip install 'confp-jax[milvus]'"
        ) from error
    return open_remote(uri, database)


def database_decision(database: Database, embedder: Embedder) -> Decision:
    """Returns the model's decision, with the tails that `confp calibrate` measured on this
    database, if it did.

    Raises:
      DecisionError: the model's calibration is damaged, of another version, or of another model.
    """
    decision = load_decision(embedder.folder, embedder.weights_hash)
    stored = database.setting(CALIBRATION_SETTING)
    if stored is None:
        return decision
    try:
        return _with_measured(decision, parse_json(stored), embedder.weights_hash)
    except (ValueError, TypeError, KeyError):
        _log.warning(
            "%s: what `confp calibrate` measured is damaged and not used; run it again",
            database.folder,
        )
        return decision


def _with_measured(decision: Decision, measured: dict[str, Any], weights_hash: str) -> Decision:
    """Returns a decision with what was measured on a database; anything may stand there."""
    if measured["identity"] != weights_hash or not decision.calibrated:
        return decision
    lengths_s = np.array(measured["lengths_s"], np.float64)
    tails = np.array(measured["tails"], np.float64)
    num_tracks = measured["num_tracks"]
    if type(num_tracks) is not int or lengths_s.ndim != 1 or tails.shape != (len(lengths_s), 2):
        raise ValueError("other shapes")
    are_rising = len(lengths_s) and lengths_s[0] > 0 and (np.diff(lengths_s) > 0).all()
    if not (are_rising and np.isfinite(tails).all() and np.isfinite(lengths_s).all()):
        raise ValueError("other values")
    return decision.with_tails(lengths_s.tolist(), tails, num_tracks=num_tracks)
