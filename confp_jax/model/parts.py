"""What joins an encoder's two parts, and its tokens, in numpy: shared by every engine."""

import functools

import numpy as np
from jaxtyping import Float, Float32


@functools.lru_cache(maxsize=32)
def pooling_weights(num_tokens: int, num_segments: int) -> Float32[np.ndarray, "P T"]:
    """Row p takes the mean over the p-th of `num_segments` parts that overlap by half and cover the
    window; 1 is the mean.
    """
    length = max(1, round(2 * num_tokens / (num_segments + 1)))
    starts = np.round(np.linspace(0, num_tokens - length, num_segments)).astype(int)
    weights = np.zeros((num_segments, num_tokens), np.float32)
    for row, start in zip(weights, starts, strict=True):
        row[start : start + length] = 1 / length
    return weights


def with_halves(conformed: Float[np.ndarray, "N E"]) -> Float32[np.ndarray, "2 N E"]:
    """Returns what the conformer gives for N segments, and for those half a hop later, as unit
    vectors: the mean of two neighbours, zero where one of them is.
    """
    halves = np.zeros_like(conformed)
    halves[:-1] = conformed[:-1] + conformed[1:]
    is_loud = np.asarray(conformed.any(axis=1))
    halves[:-1] *= (is_loud[:-1] & is_loud[1:])[:, None]
    return np.stack([unit_rows(conformed), unit_rows(halves)]).astype(np.float32)


def mixed(
    projected: Float[np.ndarray, "P N E"], conformed: Float[np.ndarray, "P N E"], *, share: float
) -> Float32[np.ndarray, "P N E"]:
    """Returns the fingerprints of an encoder with both parts: the unit vectors of both, added, of
    unit length.

    Args:
      projected: what the projection gives, of any length; zero where there is no segment, and so
        is the result.
      conformed: what the conformer gives.
      share: of the squared length that is the projection's, both parts being orthogonal.
    """
    total = np.sqrt(share) * unit_rows(projected) + np.sqrt(1 - share) * unit_rows(conformed)
    return (unit_rows(total) * np.any(projected, axis=-1, keepdims=True)).astype(np.float32)


def unit_rows(rows: Float[np.ndarray, "B E"]) -> Float[np.ndarray, "B E"]:
    """Returns the rows at length 1; zero ones stay so."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
