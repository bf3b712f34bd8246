"""A database's rows in Milvus: opened, brought up to date, compared."""

from typing import TYPE_CHECKING

import numpy as np

from confp_jax.database import Database, DatabaseError, Snapshot
from confp_jax.index.approximate import ApproximateIndex, SearchBudget

if TYPE_CHECKING:
    from confp_jax.index.milvus import MilvusRows

_EFFORT = SearchBudget(1, 200)  # how much is searched is set on the server


def open_mirror(uri: str, database: Database, snapshot: Snapshot) -> ApproximateIndex:
    """Search by way of Milvus; rows that are not there yet are searched exactly.

    Raises:
      DatabaseError: it cannot be reached, or pymilvus is not installed.
    """
    collection = _connect(uri, database, snapshot)
    rows = collection.rows_of(snapshot)
    return ApproximateIndex(collection, snapshot.vectors, _EFFORT, rows)


def sync_mirror(uri: str, database: Database, snapshot: Snapshot) -> None:
    """Writes what is new and deletes what was removed.

    Raises:
      DatabaseError: as for `open_mirror`.
    """
    collection = _connect(uri, database, snapshot)
    try:
        collection.sync(snapshot)
    finally:
        collection.close()


def mirror_stale_share(uri: str, database: Database, snapshot: Snapshot) -> float:
    """The share of rows that are not in Milvus yet, or there in vain."""
    collection = _connect(uri, database, snapshot)
    try:
        there = collection.mirrored()
    finally:
        collection.close()
    wanted = {track.id: track.num_rows for track in snapshot.tracks}
    wrong = [wanted.get(number, there.get(number, 0)) for number in wanted.keys() ^ there.keys()]
    return float(np.sum(wrong)) / max(1, len(snapshot.vectors))


def _connect(uri: str, database: Database, snapshot: Snapshot) -> "MilvusRows":
    try:
        from confp_jax.index.milvus import MilvusRows
    except ImportError as error:
        raise DatabaseError(
            f"{uri} needs pymilvus; install it with: pip install 'confp-jax[milvus]'"
        ) from error
    return MilvusRows(uri, database.model_id.identity, snapshot.vectors.shape[1])
