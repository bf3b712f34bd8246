"""Fingerprints of one recording, in order."""

import dataclasses

import numpy as np
from jaxtyping import Float32

from confp_jax.errors import UserError


class AudioError(UserError):
    """Audio that cannot be fingerprinted; the message says why and what would do."""


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """Fingerprints at a constant hop, as a database stores them. A window of silence has the zero
    vector: it is similar to nothing.

    Audio shorter than a segment is in all of its windows, each of which holds it at another place
    and sees nothing outside it.
    """

    vectors: Float32[np.ndarray, "N E"]
    hop_s: float
    segment_s: float  # of audio in a window
    is_partial: bool = False  # the audio is shorter than a window

    @property
    def num_silent(self) -> int:
        """Returns how many windows were silent."""
        return int((~self.vectors.any(axis=1)).sum())

    @property
    def duration_s(self) -> float:
        """Returns how much audio the windows hold, in seconds."""
        if self.is_partial:
            return self.segment_s
        return (len(self.vectors) - 1) * self.hop_s + self.segment_s
