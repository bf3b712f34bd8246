"""Milvus, for what outgrows one machine: a collection that mirrors a database's rows and proposes
candidates.

Local search keeps the last word: candidates are scored by the stored vectors, rows that are not
mirrored yet are searched exactly. A row's key is its track's id and its place in the track, so
that what was removed or added since is known by the tracks alone. Signs are kept as bits on a
server. (The extra `milvus`; `milvus-lite` is the same in one process, in a file, with floats.)
"""

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from pymilvus import DataType, MilvusClient, MilvusException

from confp_jax.database import DatabaseError, Snapshot, StoredTrack
from confp_jax.database.tracks import track_numbers
from confp_jax.database.vectors import decode, encode
from confp_jax.index.external import TOKEN, VARIABLE

_log = logging.getLogger(__name__)
ROWS_PER_TRACK = 1 << 24  # 58 days of audio, 300 ms apart
_MESSAGE_BYTES = 4 << 20
_PAGE = 10_000  # keys that are asked for or about at once
_MAX_CANDIDATES = 16_384  # Milvus's own limit
_TIMEOUT_S = 20.0
_FLAT_ROWS = 200_000
_SMALL_ROWS = 1_000_000
_MEMORY_ROWS = 20_000_000
_CELL_SHARE = 0.3  # is searched: what queries with noise of 0 dB need (benchmarks/bits.py)


class IndexType(NamedTuple):
    """A kind of Milvus's indexes, and what it is made and searched with."""

    name: str
    build: dict[str, int]
    search: dict[str, int]


def index_type(num_rows: int, *, is_binary: bool, version: tuple[int, int]) -> IndexType:
    """Returns the index for a collection of this size, of those that the server's version knows;
    version (0, 0) is milvus-lite.
    """
    num_cells = int(min(4 * max(num_rows, 16) ** 0.5, 65_536))
    cells = {"nlist": num_cells}, {"nprobe": max(1, round(_CELL_SHARE * num_cells))}
    if version == (0, 0):
        return IndexType("AUTOINDEX", {}, {})
    if is_binary:
        return (
            IndexType("BIN_FLAT", {}, {})
            if num_rows < _FLAT_ROWS
            else IndexType("BIN_IVF_FLAT", *cells)
        )
    if num_rows < _SMALL_ROWS:
        return IndexType("IVF_SQ8", *cells)
    if version >= (2, 6):
        return IndexType("IVF_RABITQ", *cells)
    if num_rows < _MEMORY_ROWS:
        return IndexType("SCANN", *cells)
    return IndexType("DISKANN", {}, {"search_list": _MAX_CANDIDATES})


class MilvusRows:
    """A collection of a server, or of a file where `address` is a path.

    Raises:
      DatabaseError: it cannot be reached.
    """

    def __init__(self, address: str, name: str, *, token: str = ""):
        self.address = address
        self._name = name
        self._lock = threading.Lock()
        self._first_rows: Int64[np.ndarray, " T"] = np.zeros(0, np.int64)
        self._ids: Int64[np.ndarray, " T"] = np.zeros(0, np.int64)
        self.num_rows = 0
        self.is_binary = False
        self.dim = 0
        self._search_parameters: dict[str, int] = {}
        with self._explained():
            self._client = MilvusClient(address, token=token, timeout=_TIMEOUT_S)
            self._version = self._read_version() if "://" in address else (0, 0)
            if self._client.has_collection(name, timeout=_TIMEOUT_S):
                self._describe()
                self._client.load_collection(name, timeout=_TIMEOUT_S)

    @property
    def exists(self) -> bool:
        """Returns whether the collection is there."""
        return self.dim > 0

    def mirrored(self) -> dict[int, int]:
        """Id and number of rows of every track that is there completely: its first row is written
        last.
        """
        found: dict[int, int] = {}
        if not self.exists:
            return found
        with self._explained():
            pages = self._client.query_iterator(
                self._name,
                filter="num_rows > 0",
                output_fields=["track", "num_rows"],
                batch_size=_PAGE,
                timeout=_TIMEOUT_S,
            )
            while page := pages.next():
                found.update({row["track"]: row["num_rows"] for row in page})
            pages.close()
        return found

    def sync(
        self, snapshot: Snapshot, *, report: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Writes the tracks that are not there and deletes those that are no more; interrupted, it
        continues. The index becomes the one for the present number of rows.

        Raises:
          DatabaseError: Milvus refused.
        """
        there = self.mirrored()
        ids, _, num_rows = track_numbers(snapshot.tracks)
        present = dict(zip(ids.tolist(), num_rows.tolist(), strict=True))
        gone = sorted(number for number in there if present.get(number) != there[number])
        missing = [
            place
            for place, number in enumerate(ids.tolist())
            if num_rows[place] and there.get(number) != num_rows[place]
        ]
        with self._explained():
            self._make(snapshot)
            for first in range(0, len(gone), 500):
                chosen = f"track in {gone[first : first + 500]}"
                self._client.delete(self._name, filter=chosen, timeout=_TIMEOUT_S)
            for done, group in _groups(missing, num_rows, self._rows_a_message):
                self._write(snapshot, [snapshot.tracks[place] for place in group])
                report(done, len(missing))

    def rows_of(self, snapshot: Snapshot) -> Int64[np.ndarray, " N"]:
        """Returns each row of the snapshot itself if it is mirrored, else -1; candidates are
        numbered as these rows from now on.
        """
        there = self.mirrored()
        ids, first_rows, num_rows = track_numbers(snapshot.tracks)
        pairs = zip(ids.tolist(), num_rows.tolist(), strict=True)
        complete = np.array([there.get(number) == num for number, num in pairs], bool)
        self.number_as(ids, first_rows, len(snapshot.vectors))
        rows = np.arange(self.num_rows, dtype=np.int64)
        return np.where(complete[snapshot.row_tracks], rows, -1) if len(ids) else rows

    def number_as(
        self, ids: Int64[np.ndarray, " T"], first_rows: Int64[np.ndarray, " T"], num_rows: int
    ) -> None:
        """Numbers candidates by these tracks' rows from now on."""
        order = np.argsort(ids)
        self._ids = ids[order]
        self._first_rows = first_rows[order]
        self.num_rows = num_rows

    def candidates(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int, num_cells: int
    ) -> Int64[np.ndarray, "Q num"]:
        """Returns the best `num` rows (at most 16,384) by Milvus's own index, best first; -1 where
        there are fewer.

        Raises:
          DatabaseError: it does not answer.
        """
        num = min(num, self.num_rows, _MAX_CANDIDATES)
        found = np.full((len(queries), num), -1, np.int64)
        for row, answer in zip(found, self._search(queries, num), strict=True):
            row[: len(answer)] = self._rows(np.array([hit["id"] for hit in answer], np.int64))
        return found

    def candidates_with_vectors(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int
    ) -> Iterator[tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, "K E"]]]:
        """Yields the rows of each query as `candidates`, and their vectors."""
        num = min(num, self.num_rows, _MAX_CANDIDATES)
        for answer in self._search(queries, num, output_fields=["vector"]):
            keys = np.array([hit["id"] for hit in answer], np.int64)
            yield self._rows(keys), self._decoded([hit["entity"]["vector"] for hit in answer])

    def vectors_of(self, keys: Int64[np.ndarray, " K"]) -> Float32[np.ndarray, "K E"]:
        """Returns the vectors of these keys; zeros for a key that is gone.

        Raises:
          DatabaseError: it does not answer.
        """
        wanted, place = np.unique(keys, return_inverse=True)
        out = np.zeros((len(wanted), self.dim), np.float32)
        step = max(1, min(_PAGE, _MESSAGE_BYTES // max(1, self._row_bytes)))
        for first in range(0, len(wanted), step):
            some = wanted[first : first + step]
            answers = self._asked(
                lambda some=some: self._client.query(
                    self._name, ids=some.tolist(), output_fields=["vector"], timeout=_TIMEOUT_S
                )
            )
            if answers:
                found = np.searchsorted(wanted, [answer["id"] for answer in answers])
                out[found] = self._decoded([answer["vector"] for answer in answers])
        return out[place]

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def drop(self) -> None:
        """Deletes the collection."""
        with self._explained():
            self._client.drop_collection(self._name, timeout=_TIMEOUT_S)

    @property
    def _row_bytes(self) -> int:
        return self.dim // 8 if self.is_binary else 4 * self.dim

    @property
    def _rows_a_message(self) -> int:
        return max(1, min(20_000, _MESSAGE_BYTES // (self._row_bytes + 64)))

    def _read_version(self) -> tuple[int, int]:
        said = str(self._client.get_server_version(timeout=_TIMEOUT_S))
        found = re.search(r"(\d+)\.(\d+)", said)
        return (int(found[1]), int(found[2])) if found else (2, 0)

    def _describe(self) -> None:
        about: Any = self._client.describe_collection(self._name, timeout=_TIMEOUT_S)
        field = next(one for one in about["fields"] if one["name"] == "vector")
        self.is_binary = field["type"] == DataType.BINARY_VECTOR
        self.dim = int(field["params"]["dim"])
        there: Any = self._client.describe_index(self._name, "vector", timeout=_TIMEOUT_S) or {}
        cells = int(there.get("nlist", 0))
        if cells:
            self._search_parameters = {"nprobe": max(1, round(_CELL_SHARE * cells))}
        if there.get("index_type") == "DISKANN":
            self._search_parameters = {"search_list": _MAX_CANDIDATES}
        self._index_type = there.get("index_type", "")

    def _make(self, snapshot: Snapshot) -> None:
        """Makes the collection if it is missing, and the index that suits its size."""
        num_rows, dim = snapshot.vectors.shape
        is_new = not self.exists
        if is_new:
            self.dim = dim
            self.is_binary = getattr(snapshot.vectors, "is_binary", False) and self._version > (
                0,
                0,
            )
        wanted = index_type(num_rows, is_binary=self.is_binary, version=self._version)
        if not is_new and self._version > (0, 0) and self._index_type != wanted.name:
            self._client.release_collection(self._name, timeout=_TIMEOUT_S)
            self._client.drop_index(self._name, "vector", timeout=_TIMEOUT_S)
            self._client.create_index(self._name, self._parameters(wanted), timeout=_TIMEOUT_S)
        if is_new:
            self._create(wanted)
        self._client.load_collection(self._name)
        self._describe()

    def _parameters(self, wanted: IndexType) -> Any:
        index = self._client.prepare_index_params()
        metric = "HAMMING" if self.is_binary else "IP"
        index.add_index("vector", index_type=wanted.name, metric_type=metric, params=wanted.build)
        return index

    def _create(self, wanted: IndexType) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        kind = DataType.BINARY_VECTOR if self.is_binary else DataType.FLOAT_VECTOR
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("track", DataType.INT64)
        schema.add_field("num_rows", DataType.INT64)  # of the track, in its first row; elsewhere 0
        schema.add_field("vector", kind, dim=self.dim)
        self._client.create_collection(
            self._name,
            schema=schema,
            index_params=self._parameters(wanted),
            consistency_level="Strong",
            timeout=_TIMEOUT_S,
        )

    def _write(self, snapshot: Snapshot, tracks: Sequence[StoredTrack]) -> None:
        """Writes whole tracks. Their first rows, which mark them as complete, are in the last
        messages.
        """
        entries: list[dict[str, Any]] = []
        firsts: list[dict[str, Any]] = []
        for track in tracks:
            vectors = snapshot.vectors[track.first_row : track.first_row + track.num_rows]
            values = (
                [row.tobytes() for row in encode(vectors, "binary")]
                if self.is_binary
                else (list(vectors))
            )
            for row, value in enumerate(values):
                about = {"id": track.id * ROWS_PER_TRACK + row, "track": track.id, "vector": value}
                (entries if row else firsts).append(about | {"num_rows": 0 if row else len(values)})
        for some in (entries, firsts):
            for first in range(0, len(some), self._rows_a_message):
                chosen = some[first : first + self._rows_a_message]
                self._client.upsert(self._name, chosen, timeout=_TIMEOUT_S)

    def _search(
        self, queries: Float32[np.ndarray, "Q E"], num: int, **options: Any
    ) -> Sequence[Any]:
        bits = encode(queries, "binary") if self.is_binary else ()
        data = [row.tobytes() for row in bits] if self.is_binary else list(queries)
        parameters = {"metric_type": "HAMMING" if self.is_binary else "IP"}
        parameters |= {"params": self._search_parameters}
        return self._asked(
            lambda: self._client.search(
                self._name,
                data=data,
                limit=num,
                search_params=parameters,
                timeout=_TIMEOUT_S,
                **options,
            )
        )

    def _asked(self, call: Callable[[], Any]) -> Any:
        """Asks; once more where a server that was restarted has to load the collection again."""
        try:
            return call()
        except (MilvusException, OSError, ValueError) as error:
            _log.warning("%s: %s; asking again", self.address, error)
        with self._lock, self._explained():
            self._client.load_collection(self._name, timeout=_TIMEOUT_S)
            return call()

    def _decoded(self, values: Sequence[Any]) -> Float32[np.ndarray, "K E"]:
        if not self.is_binary:
            return np.array(values, np.float32).reshape(-1, self.dim)
        parts = [value[0] if isinstance(value, list) else value for value in values]
        return decode(np.frombuffer(b"".join(parts), np.uint8).reshape(-1, self.dim // 8))

    def _rows(self, keys: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " K"]:
        """Returns rows of the snapshot; -1 for a track that it does not have."""
        if not len(self._ids):
            return np.full(len(keys), -1, np.int64)
        tracks, rows = np.divmod(keys, ROWS_PER_TRACK)
        place = np.minimum(np.searchsorted(self._ids, tracks), len(self._ids) - 1)
        return np.where(self._ids[place] == tracks, self._first_rows[place] + rows, -1)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises what the client raises as an error that says what to do."""
        try:
            yield
        except DatabaseError:
            raise
        except (MilvusException, OSError, ValueError) as error:
            said = next(iter(str(error).strip().splitlines()), repr(error))
            raise DatabaseError(
                f"{self.address} cannot be used ({said}); is Milvus running there? A secret goes "
                f"into {TOKEN}, with {VARIABLE}=milvus://...; `confp compact DB --index exact` "
                "does without Milvus, and ?fallback=exact at the end of its address while it is "
                "away"
            ) from error


def _groups(
    places: Sequence[int], num_rows: Int64[np.ndarray, " T"], most_rows: int
) -> Iterator[tuple[int, list[int]]]:
    """Yields tracks together that fill a message, with how many there were so far."""
    group: list[int] = []
    total = 0
    for done, place in enumerate(places, 1):
        group.append(place)
        total += int(num_rows[place])
        if total >= most_rows or done == len(places):
            yield done, group
            group = []
            total = 0
