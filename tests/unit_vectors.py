"""Random rows of length 1, as fingerprints are."""

import numpy as np


def unit_rows(rng: np.random.Generator, num: int, dim: int = 64) -> np.ndarray:
    """Returns (num, dim) rows in random directions."""
    rows = rng.normal(size=(num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
