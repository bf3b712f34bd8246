"""What every index can do."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.database.vectors import StoredVectors

Vectors: TypeAlias = StoredVectors | Float32[np.ndarray, "N E"]

SIGNS_PER_BLOCK = 4  # have 16 patterns, as many as a block of 4 bits has codes: nothing is lost
_CHECKED_ROWS = 1_000


class Hits(NamedTuple):
    """The nearest rows of each query, best first.

    A place that was not filled has row -1 and score -inf.
    """

    rows: Int64[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]  # inner products: cosines, as all vectors are unit


class Index(Protocol):
    """Nearest neighbours by inner product."""

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """Returns the `k` (or all, if fewer) rows of greatest inner product."""
        ...


class CandidateSource(Protocol):
    """Proposes rows by approximate scores, which the caller then scores exactly."""

    num_rows: int

    def candidates(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int, num_cells: int
    ) -> Int64[np.ndarray, "Q num"]:
        """Returns the best `num` rows (at most all) of the nearest `num_cells` cells, best first;
        -1 where there are fewer.
        """
        ...


class CandidateIndex(CandidateSource, Protocol):
    """Compressed vectors in cells."""

    num_cells: int

    def save(self, folder: pathlib.Path) -> None:
        """Writes it into an empty folder that may be moved."""
        ...


def row_blocks(vectors: Vectors, num_rows: int) -> Iterator[tuple[int, Float32[np.ndarray, "n E"]]]:
    """Yields all rows in order, some at a time, each block with its first row's number."""
    num_rows = max(1, num_rows)
    if isinstance(vectors, StoredVectors):
        yield from vectors.blocks(num_rows)
        return
    for first in range(0, len(vectors), num_rows):
        yield first, np.ascontiguousarray(vectors[first : first + num_rows], np.float32)


def holds_signs(vectors: Vectors) -> bool:
    """Returns whether the rows are signs, by how they are stored, or by some of them."""
    if isinstance(vectors, StoredVectors):
        return vectors.is_binary
    return len(vectors) > 0 and are_signs(vectors[:: max(1, len(vectors) // _CHECKED_ROWS)])


def are_signs(rows: Float32[np.ndarray, "n E"]) -> bool:
    """Returns whether all values of a row have one magnitude, as binary fingerprints have."""
    magnitudes = np.abs(rows)
    return rows.shape[1] % SIGNS_PER_BLOCK == 0 and bool(np.all(magnitudes == magnitudes[:, :1]))
