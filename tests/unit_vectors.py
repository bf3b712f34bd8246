"""Rows of length 1, as fingerprints are."""

import numpy as np


def normalised(rows: np.ndarray) -> np.ndarray:
    """Returns the rows at length 1, in float32."""
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def unit_rows(draws: np.random.Generator | int, num: int, dim: int = 64) -> np.ndarray:
    """Returns (num, dim) rows in random directions, by a generator or by a seed."""
    return normalised(np.random.default_rng(draws).normal(size=(num, dim)).astype(np.float32))
