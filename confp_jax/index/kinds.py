"""The kinds of search index that a database may have, by the name that a user gives."""

import dataclasses
import importlib.util

from confp_jax.index.protocol import Vectors, holds_signs

# Above, an index is built from some rows at a time, which ScaNN cannot do: it takes 5 GB for a
# million rows of 640 values.
MOST_ROWS_IN_MEMORY = 1_000_000


@dataclasses.dataclass(frozen=True)
class IndexKind:
    """One kind. Its name is what `--index` takes; that of a remote one begins an address."""

    name: str
    usage: str  # how a user writes it
    module: str = ""  # the library that makes it; none is needed for exact search
    package: str = ""  # which brings that library
    is_remote: bool = False  # a server keeps the rows: nothing is built here


EXACT = IndexKind("exact", "exact")
SCANN = IndexKind("scann", "scann", "scann", "scann")
FAISS = IndexKind("faiss", "faiss", "faiss", "faiss-cpu")
MILVUS = IndexKind(
    "milvus://", "milvus://HOST:PORT, milvus:///FILE.db", "pymilvus", "confp-jax[milvus]", True
)
ALL = (SCANN, FAISS, EXACT, MILVUS)
BUILT = (SCANN, FAISS)  # here, as generations on the disk


def find_kind(text: str) -> IndexKind | None:
    """Returns the kind that a setting names; None if no kind has this name."""
    for kind in ALL:
        if text.startswith(kind.name) if kind.is_remote else text == kind.name:
            return kind
    return None


def is_remote(text: str) -> bool:
    """Returns whether a setting names an index that a server keeps."""
    kind = find_kind(text)
    return kind is not None and kind.is_remote


def is_missing(text: str) -> bool:
    """Returns whether a setting names an index that is built here, by a library that is not
    installed.
    """
    kind = find_kind(text)
    return kind in BUILT and kind is not None and not is_installed(kind)


def is_installed(kind: IndexKind) -> bool:
    """Returns whether the library that makes this kind of index is there."""
    return not kind.module or importlib.util.find_spec(kind.module) is not None


def default_kind(vectors: Vectors) -> str:
    """Returns the name of the approximate index for these rows: "faiss" for signs and for many
    rows, else "scann", of those that are installed; "": search is exact.
    """
    prefer_faiss = holds_signs(vectors) or len(vectors) > MOST_ROWS_IN_MEMORY
    kinds = reversed(BUILT) if prefer_faiss else BUILT
    return next((kind.name for kind in kinds if is_installed(kind)), "")
