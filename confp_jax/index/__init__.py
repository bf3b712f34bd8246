"""Nearest-neighbour search behind one small protocol: approximate indexes and their exact twin."""

import importlib
import pathlib

from confp_jax.index.approximate import ApproximateIndex, SearchBudget
from confp_jax.index.exact import ExactIndex
from confp_jax.index.kinds import default_kind
from confp_jax.index.protocol import CandidateIndex, Hits, Index, Vectors
from confp_jax.index.tuning import DEFAULT_RECALL, tune

__all__ = [
    "ApproximateIndex",
    "ExactIndex",
    "Hits",
    "Index",
    "SearchBudget",
    "Vectors",
    "build_index",
]

BRUTE_FORCE_ROWS = 20_000  # below, exact search wins


def build_coarse(vectors: Vectors, kind: str) -> CandidateIndex:
    """Trains an index of this kind."""
    if kind == "faiss":
        from confp_jax.index.faiss import FaissCells

        return FaissCells.build(vectors)
    from confp_jax.index.scann import ScannCells

    return ScannCells.build(vectors)


def load_coarse(
    folder: pathlib.Path, kind: str, *, num_rows: int, num_cells: int, dim: int
) -> CandidateIndex:
    """Reads what `CandidateIndex.save` wrote.

    Raises:
      ValueError: it is not of so many rows, cells and values.
    """
    sizes = {"num_rows": num_rows, "num_cells": num_cells, "dim": dim}
    if kind == "faiss":
        from confp_jax.index.faiss import FaissCells

        return FaissCells.load(folder, **sizes)
    from confp_jax.index.scann import ScannCells

    return ScannCells.load(folder, **sizes)


def library(kind: str) -> str:
    """Name and version of what an index of this kind is made with."""
    module = importlib.import_module(f"confp_jax.index.{kind}")
    return module.LIBRARY


def build_index(
    vectors: Vectors, *, kind: str | None = None, recall: float = DEFAULT_RECALL
) -> Index:
    """Exact search below 20,000 rows; above, the approximate index that is installed, tuned to the
    recall of the first hit.
    """
    kind = default_kind(vectors) if kind is None else kind
    if len(vectors) < BRUTE_FORCE_ROWS or not kind:
        return ExactIndex(vectors)
    coarse = build_coarse(vectors, kind)
    return ApproximateIndex(coarse, vectors, tune(coarse, vectors, recall=recall))
