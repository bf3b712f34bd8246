"""Fingerprints to fill a database with: copies of real ones with noise."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

_TRACK_ROWS = 600


def noisy_copies(
    real: Float32[np.ndarray, "n E"], num_rows: int
) -> Iterator[Float32[np.ndarray, "m E"]]:
    """Tracks of up to 600 unit vectors, `num_rows` in all, each drawn from `real` with noise
    (cosine about 0.8).
    """
    rng = np.random.default_rng(0)
    for first in range(0, num_rows, _TRACK_ROWS):
        rows = real[rng.integers(len(real), size=min(_TRACK_ROWS, num_rows - first))]
        rows = rows + rng.normal(scale=0.7 / np.sqrt(rows.shape[1]), size=rows.shape).astype(
            np.float32
        )
        yield (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
