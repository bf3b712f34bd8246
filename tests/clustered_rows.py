"""Rows that lie as fingerprints do, and queries as distorted excerpts are; more than are searched
exactly.
"""

import numpy as np
from unit_vectors import normalised, unit_rows

from confp_jax.index import BRUTE_FORCE_ROWS

NUM_ROWS = BRUTE_FORCE_ROWS + 5_000


def clustered_rows(rng: np.random.Generator, num: int, dim: int = 128) -> np.ndarray:
    """Like fingerprints: tracks are clusters in which neighbours in time are neighbours in
    space.
    """
    centres = unit_rows(rng, -(-num // 100), dim)
    walk = np.cumsum(rng.normal(size=(len(centres), 100, dim)) * 0.04, axis=1)
    rows = (centres[:, None] + walk).reshape(-1, dim)[:num].astype(np.float32)
    return normalised(rows)


def noisy(vectors: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cosine about 0.7, as of a distorted excerpt to its original."""
    queries = vectors[rows] + unit_rows(rng, len(rows), vectors.shape[1])
    return normalised(queries)


def sample_rows() -> np.ndarray:
    """`NUM_ROWS` of them, two silent, as a database stores them."""
    vectors = clustered_rows(np.random.default_rng(5), NUM_ROWS)
    vectors[[17, 9_000]] = 0
    return vectors.astype(np.float16).astype(np.float32)
