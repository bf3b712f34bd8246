"""Milvus, for what outgrows one machine: a collection that mirrors a database's rows and proposes
candidates.

Local search keeps the last word: candidates are scored by the stored vectors, rows that are not
mirrored yet are searched exactly. A row's key is its track's id and its place in the track, so
that what was removed or added since is known by the tracks alone. (The extra `milvus`;
`milvus-lite` is the same in one process, in a file.)
"""

import os
import urllib.parse

import numpy as np
from jaxtyping import Float32, Int64
from pymilvus import DataType, MilvusClient, MilvusException

from confp_jax.database import DatabaseError, Snapshot

_ROWS_PER_TRACK = 1 << 24  # 58 days of audio, 300 ms apart
_BATCH_ROWS = 2_000  # about 1.5 MB a message
_MAX_CANDIDATES = 16_384  # Milvus's own limit
_TOKEN = "CONFP_MILVUS_TOKEN"  # noqa: S105 - the variable's name


class MilvusRows:
    """A collection of a server (milvus://HOST:PORT) or a file (milvus:///PATH.db), one for each
    model.

    Raises:
      DatabaseError: it cannot be reached.
    """

    def __init__(self, uri: str, identity: str, dim: int):
        self._name = f"confp_{identity}"
        parts = urllib.parse.urlsplit(uri)
        address = f"http://{parts.netloc}" if parts.netloc else parts.path
        try:
            self._client = MilvusClient(address, token=os.environ.get(_TOKEN, ""))
            if not self._client.has_collection(self._name):
                self._create(dim)
            self._client.load_collection(self._name)
        except (MilvusException, OSError, ValueError) as error:
            raise DatabaseError(
                f"{uri} cannot be used ({error}); is Milvus running there? a secret goes into "
                f"{_TOKEN}"
            ) from error
        self._first_rows: Int64[np.ndarray, " T"] = np.zeros(0, np.int64)
        self._ids: Int64[np.ndarray, " T"] = np.zeros(0, np.int64)
        self.num_rows = 0

    def _create(self, dim: int) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("track", DataType.INT64)
        schema.add_field("num_rows", DataType.INT64)  # of the track, in its first row; elsewhere 0
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        self._client.create_collection(
            self._name, schema=schema, index_params=index, consistency_level="Strong"
        )

    def mirrored(self) -> dict[int, int]:
        """Id and number of rows of every track that is there completely: its first row is written
        last.
        """
        found: dict[int, int] = {}
        pages = self._client.query_iterator(
            self._name, filter="num_rows > 0", output_fields=["track", "num_rows"], batch_size=1000
        )
        while page := pages.next():
            found.update({row["track"]: row["num_rows"] for row in page})
        pages.close()
        return found

    def sync(self, snapshot: Snapshot) -> None:
        """Writes the tracks that are not there and deletes those that are no more; interrupted, it
        goes on.

        Raises:
          DatabaseError: Milvus refused.
        """
        try:
            there = self.mirrored()
            gone = sorted(set(there) - {track.id for track in snapshot.tracks})
            for first in range(0, len(gone), 500):
                self._client.delete(self._name, filter=f"track in {gone[first : first + 500]}")
            missing = [
                track for track in snapshot.tracks if track.id not in there and track.num_rows
            ]
            for track in missing:
                vectors = snapshot.vectors[track.first_row : track.first_row + track.num_rows]
                self._write(track.id, vectors)
        except MilvusException as error:
            raise DatabaseError(f"Milvus refused: {error}") from error

    def _write(self, track: int, vectors: Float32[np.ndarray, "n E"]) -> None:
        for last in range(len(vectors), 0, -_BATCH_ROWS):  # the first row comes with the last batch
            rows = range(max(0, last - _BATCH_ROWS), last)
            lengths = [0 if row else len(vectors) for row in rows]
            entries = [
                {
                    "id": track * _ROWS_PER_TRACK + row,
                    "track": track,
                    "num_rows": length,
                    "vector": vectors[row],
                }
                for row, length in zip(rows, lengths, strict=True)
            ]
            self._client.upsert(self._name, entries)

    def rows_of(self, snapshot: Snapshot) -> Int64[np.ndarray, " N"]:
        """For each row of the snapshot itself if it is mirrored, else -1; candidates are numbered
        as these rows from now on.
        """
        there = self.mirrored()
        ids = np.array([track.id for track in snapshot.tracks], np.int64)
        first_rows = np.array([track.first_row for track in snapshot.tracks], np.int64)
        complete = np.array(
            [there.get(track.id) == track.num_rows for track in snapshot.tracks], bool
        )
        order = np.argsort(ids)
        self._ids, self._first_rows = ids[order], first_rows[order]
        self.num_rows = len(snapshot.vectors)
        rows = np.arange(self.num_rows, dtype=np.int64)
        return np.where(complete[snapshot.row_tracks], rows, -1) if len(ids) else rows

    def candidates(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int, num_cells: int
    ) -> Int64[np.ndarray, "Q num"]:
        """The best `num` rows (at most 16,384) by Milvus's own index, best first; -1 where there
        are fewer.
        """
        num = min(num, self.num_rows, _MAX_CANDIDATES)
        try:
            answers = self._client.search(
                self._name, data=list(queries), limit=num, search_params={"metric_type": "IP"}
            )
        except MilvusException as error:
            raise DatabaseError(f"Milvus did not answer: {error}") from error
        found = np.full((len(queries), num), -1, np.int64)
        for row, answer in zip(found, answers, strict=True):
            keys = np.array([hit["id"] for hit in answer], np.int64)
            row[: len(keys)] = self._rows(keys)
        return found

    def _rows(self, keys: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " K"]:
        """Rows of the snapshot; -1 for a track that it does not have."""
        if not len(self._ids):
            return np.full(len(keys), -1, np.int64)
        tracks, rows = np.divmod(keys, _ROWS_PER_TRACK)
        place = np.minimum(np.searchsorted(self._ids, tracks), len(self._ids) - 1)
        return np.where(self._ids[place] == tracks, self._first_rows[place] + rows, -1)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()
