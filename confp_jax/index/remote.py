"""A database whose fingerprints are read from Milvus: a service needs its catalogue alone."""

import logging

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.database import Database, DatabaseError, Snapshot, StoredVectors
from confp_jax.database.tracks import Tracks
from confp_jax.index.milvus import ROWS_PER_TRACK, MilvusRows
from confp_jax.index.milvus_sync import connect
from confp_jax.index.protocol import Hits

_log = logging.getLogger(__name__)
_PROPOSED_PER_HIT = 2
_LEAST_PROPOSED = 200


class RemoteVectors(StoredVectors):
    """Rows [N, E] that Milvus holds: what is indexed is asked for, and nothing else."""

    def __init__(self, collection: MilvusRows, tracks: Tracks):
        super().__init__([], collection.dim)
        self._collection = collection
        self._ids = tracks.ids
        self._first_rows = tracks.first_rows
        self.shape = (int(tracks.num_rows.sum()), collection.dim)

    @property
    def is_binary(self) -> bool:
        """Returns whether the rows are stored as signs."""
        return self._collection.is_binary

    def _contiguous(self, first: int, last: int) -> Float32[np.ndarray, "n E"]:
        return self._gather(np.arange(first, max(first, last)))

    def _gather(self, rows: Int64[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        flat = rows.reshape(-1).astype(np.int64)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not (flat.min() >= 0 and flat.max() < len(self)):
            raise IndexError(f"a row is beyond the {len(self)} that there are")
        track = np.searchsorted(self._first_rows, flat, side="right") - 1
        keys = self._ids[track] * ROWS_PER_TRACK + flat - self._first_rows[track]
        return self._collection.vectors_of(keys).reshape(*rows.shape, self.shape[1])


class RemoteIndex:
    """Nearest neighbours by inner product: Milvus proposes rows and gives their vectors, which
    score them.
    """

    def __init__(self, collection: MilvusRows):
        self._collection = collection

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """Returns the `k` (or all, if fewer) rows of greatest inner product.

        Raises:
          DatabaseError: Milvus does not answer.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        k = min(k, self._collection.num_rows)
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        num = max(_PROPOSED_PER_HIT * k, _LEAST_PROPOSED)
        found = self._collection.candidates_with_vectors(queries, num=num) if k else ()
        for place, (some, vectors) in enumerate(found):
            cosines = np.where(some >= 0, vectors @ queries[place], -np.inf)
            best = np.argsort(-cosines, kind="stable")[:k]
            rows[place, : len(best)] = some[best]
            scores[place, : len(best)] = cosines[best]
        return Hits(rows, scores)


def open_remote(uri: str, database: Database) -> tuple[Snapshot, RemoteIndex]:
    """Returns the tracks that Milvus holds, with their rows there; no shard is read.

    Raises:
      DatabaseError: it cannot be reached, or holds nothing of this database.
    """
    collection = connect(uri, database)
    if not collection.exists:
        raise DatabaseError(
            f"{uri} holds nothing of {database.folder}; `confp compact {database.folder} --index "
            f"{uri}` mirrors it, where its fingerprints are"
        )
    there = collection.mirrored()
    tracks = database.ordered_tracks()
    missing = {
        place
        for place, number in enumerate(tracks.ids.tolist())
        if there.get(number) != tracks.num_rows[place]
    }
    if missing:
        _log.warning("%d tracks are not in %s yet and are left out", len(missing), uri)
        tracks = tracks.without(missing)
    collection.number_as(tracks.ids, tracks.first_rows, int(tracks.num_rows.sum()))
    row_tracks = np.repeat(np.arange(len(tracks), dtype=np.int32), tracks.num_rows)
    return Snapshot(tracks, RemoteVectors(collection, tracks), row_tracks), RemoteIndex(collection)
