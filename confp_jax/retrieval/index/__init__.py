"""Nearest-neighbour search behind one small protocol: an approximate index and its exact twin."""

import numpy as np
from jaxtyping import Float32

from confp_jax.retrieval.index.exact import ExactIndex
from confp_jax.retrieval.index.protocol import Hits, Index

__all__ = ["ExactIndex", "Hits", "Index", "build_index"]


def build_index(vectors: Float32[np.ndarray, "N E"]) -> Index:
    """ScaNN where it is installed (Linux), exact search elsewhere and for an empty database."""
    if not len(vectors):
        return ExactIndex(vectors)
    try:
        from confp_jax.retrieval.index.scann import ScannIndex
    except ImportError:
        return ExactIndex(vectors)
    return ScannIndex(vectors)
