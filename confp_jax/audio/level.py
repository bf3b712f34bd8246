"""How loud a stream is, and the gate that keeps silence from costing work."""

import collections
import math
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

SILENCE_DB = -60.0  # of full scale, root mean square
FLOOR_DB = -120.0
_HOLD_S = 3.0  # what follows sound is let through: music has rests
_PIECE_S = 0.5


class LevelMeter:
    """Passes audio on and remembers how loud it was; what is below the gate is passed on as zeros,
    which no model looks at.
    """

    def __init__(self, sample_rate_hz: int, *, gate_db: float = SILENCE_DB):
        self._rate_hz = sample_rate_hz
        self._gate_db = gate_db
        self._levels: collections.deque[tuple[float, float]] = collections.deque()
        self._num = 0
        self._open_until = 0

    def through(
        self, blocks: Iterable[Float32[np.ndarray, " n"]]
    ) -> Iterator[Float32[np.ndarray, " m"]]:
        """Yields the blocks in pieces of at most half a second."""
        size = round(_PIECE_S * self._rate_hz)
        for block in blocks:
            for first in range(0, len(block), size):
                yield self._gated(block[first : first + size])

    def loudest_db(self, until_s: float) -> float:
        """Returns the level of the loudest piece since the last call, up to a place."""
        loudest = FLOOR_DB
        while self._levels and self._levels[0][0] <= until_s:
            loudest = max(loudest, self._levels.popleft()[1])
        return loudest

    def _gated(self, piece: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        level_db = rms_db(piece)
        self._num += len(piece)
        self._levels.append((self._num / self._rate_hz, level_db))
        if level_db >= self._gate_db:
            self._open_until = self._num + round(_HOLD_S * self._rate_hz)
        return piece if self._num <= self._open_until else np.zeros_like(piece)


def rms_db(samples: Float32[np.ndarray, " n"]) -> float:
    """Returns the root mean square in decibels of full scale, at least -120."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB
