"""What every index can do."""

import pathlib
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.database.vectors import StoredVectors

Vectors: TypeAlias = StoredVectors | Float32[np.ndarray, "N E"]


class Hits(NamedTuple):
    """The nearest rows of each query, best first.

    A place that was not filled has row -1 and score -inf.
    """

    rows: Int64[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]  # inner products: cosines, as all vectors are unit


class Index(Protocol):
    """Nearest neighbours by inner product."""

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """The `k` (or all, if fewer) rows of greatest inner product."""
        ...


class CandidateSource(Protocol):
    """Proposes rows by approximate scores, which the caller then scores exactly."""

    num_rows: int

    def candidates(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int, num_cells: int
    ) -> Int64[np.ndarray, "Q num"]:
        """The best `num` rows (at most all) of the nearest `num_cells` cells, best first; -1 where
        there are fewer.
        """
        ...


class CandidateIndex(CandidateSource, Protocol):
    """Compressed vectors in cells."""

    num_cells: int

    def save(self, folder: pathlib.Path) -> None:
        """Writes it into an empty folder that may be moved."""
        ...
