"""A database's rows in Milvus: opened, brought up to date, compared.

Every database has a collection of its own for each model; its name is in the catalogue's settings.
"""

import logging
import pathlib
import urllib.parse
import uuid
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32

from confp_jax.database import Database, DatabaseError, Snapshot
from confp_jax.database.tracks import track_numbers
from confp_jax.index.approximate import ApproximateIndex, SearchBudget
from confp_jax.index.exact import ExactIndex
from confp_jax.index.external import token_for
from confp_jax.index.kinds import MILVUS
from confp_jax.index.protocol import Hits, Index

if TYPE_CHECKING:
    from confp_jax.index.milvus import MilvusRows

_log = logging.getLogger(__name__)
MIRROR_SETTING = (
    "mirror"  # the collection's own name, and the catalogue's inode: a copy has another
)
_FALLBACKS = ("", "exact")
# How much is searched is set on the server; Hamming distance proposes more for the same recall.
_EFFORT = SearchBudget(1, 200)
_EFFORT_BY_BITS = SearchBudget(1, 400)


class Mirror(NamedTuple):
    """What `milvus://HOST:PORT?fallback=exact` or `milvus:///FILE.db` says."""

    address: str  # for the client
    fallback: str  # "exact": while the server is away, search all rows here


def parse_uri(uri: str) -> Mirror:
    """Reads an address.

    Raises:
      ValueError: it is not an address of Milvus; the message says what is expected.
    """
    parts = urllib.parse.urlsplit(uri)
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    fallback = options.pop("fallback", "")
    is_place = bool(parts.netloc) != bool(parts.path.strip("/"))
    if f"{parts.scheme}://" != MILVUS.name or options or fallback not in _FALLBACKS or not is_place:
        raise ValueError(
            f"{uri} is no address of Milvus: expected milvus://HOST:PORT or milvus:///FILE.db, "
            "with ?fallback=exact at the end to search here while it is away"
        )
    return Mirror(f"http://{parts.netloc}" if parts.netloc else parts.path, fallback)


class _WithFallback:
    """An index whose searches another one does while it fails."""

    def __init__(self, index: Index, fallback: Index):
        self._index = index
        self._fallback = fallback

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """Returns the `k` (or all, if fewer) rows of greatest inner product."""
        try:
            return self._index.search(queries, k=k)
        except DatabaseError as error:
            _log.warning("all rows are searched here: %s", error)
            return self._fallback.search(queries, k=k)


def open_mirror(uri: str, database: Database, snapshot: Snapshot) -> Index:
    """Search by way of Milvus; rows that are not there yet are searched exactly.

    Raises:
      DatabaseError: it cannot be reached and no fallback is chosen, or pymilvus is not installed.
    """
    exact = ExactIndex(snapshot.vectors) if parse_uri(uri).fallback else None
    try:
        collection = connect(uri, database)
        rows = collection.rows_of(snapshot)
    except DatabaseError as error:
        if exact is None:
            raise
        _log.warning("all rows are searched here: %s", error)
        return exact
    effort = _EFFORT_BY_BITS if collection.is_binary else _EFFORT
    index = ApproximateIndex(collection, snapshot.vectors, effort, rows)
    return index if exact is None else _WithFallback(index, exact)


def sync_mirror(uri: str, database: Database, snapshot: Snapshot) -> None:
    """Writes what is new and deletes what was removed; only inside `writing`.

    Raises:
      DatabaseError: as for `open_mirror`.
    """
    name_collection(database)
    collection = connect(uri, database)
    try:
        collection.sync(snapshot)
    finally:
        collection.close()


def mirror_stale_share(uri: str, database: Database, snapshot: Snapshot) -> float:
    """Returns the share of rows that Milvus still lacks, or has although they were removed."""
    collection = connect(uri, database)
    try:
        there = collection.mirrored()
    finally:
        collection.close()
    ids, _, num_rows = track_numbers(snapshot.tracks)
    wanted = dict(zip(ids.tolist(), num_rows.tolist(), strict=True))
    wrong = [wanted.get(number, there.get(number, 0)) for number in wanted.keys() ^ there.keys()]
    return float(np.sum(wrong)) / max(1, len(snapshot.vectors))


def connect(uri: str, database: Database) -> "MilvusRows":
    """Returns the database's collection, which may not be there yet.

    Raises:
      DatabaseError: as for `open_mirror`.
    """
    try:
        from confp_jax.index.milvus import MilvusRows
    except ImportError as error:
        raise DatabaseError(
            f"{uri} needs pymilvus; install it with: pip install 'confp-jax[milvus]'"
        ) from error
    own = (database.setting(MIRROR_SETTING) or "").partition(" ")[0]
    name = f"confp_{database.model_id.weights_hash}"
    name = f"{name}_{own}" if own else name
    return MilvusRows(parse_uri(uri).address, name, token=token_for(uri))


def name_collection(database: Database) -> None:
    """Gives a database a collection of its own, also one that was copied from another; only inside
    `writing`.
    """
    place = _inode(database.catalogue)
    if (database.setting(MIRROR_SETTING) or "").partition(" ")[2] != place:
        database.set_setting(MIRROR_SETTING, f"{uuid.uuid4().hex[:12]} {place}")


def _inode(path: pathlib.Path) -> str:
    return str(path.stat().st_ino)
