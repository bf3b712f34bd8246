"""G.711, the code of telephone networks: mu-law and A-law, 8 bits a sample, by their tables.

ITU-T G.711: 256 levels, finer near zero. mu-law is used in North America and Japan, A-law in the
rest of the world.
"""

import functools
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

Law = Literal["mulaw", "alaw"]
RATE_HZ = 8_000  # of telephone networks
_FULL_SCALE = 32_768.0
_MULAW_BIAS = 33  # of 14 bits, so that every segment is a power of two long


def decode_g711(coded: bytes, law: Law) -> Float32[np.ndarray, " n"]:
    """Returns the samples of G.711 bytes, in [-1, 1]."""
    return _levels(law)[np.frombuffer(coded, np.uint8)]


def encode_g711(samples: Float32[np.ndarray, " n"], law: Law) -> UInt8[np.ndarray, " n"]:
    """Returns the code of the nearest level for each sample; louder than full scale is clipped."""
    levels = _levels(law)
    order = np.argsort(levels, kind="stable")
    edges = (levels[order][1:] + levels[order][:-1]) / 2
    return order[np.searchsorted(edges, samples)].astype(np.uint8)


def through_g711(samples: Float32[np.ndarray, " n"], law: Law) -> Float32[np.ndarray, " n"]:
    """Returns the samples as G.711 leaves them."""
    return _levels(law)[encode_g711(samples, law)]


@functools.cache
def _levels(law: Law) -> Float32[np.ndarray, "256"]:
    """Returns the level of each byte: sign, segment (3 bits) and step in the segment (4 bits)."""
    coded = np.arange(256) ^ (0xFF if law == "mulaw" else 0x55)
    segment = (coded >> 4) & 7
    step = coded & 15
    if law == "mulaw":
        level = 4 * (((2 * step + _MULAW_BIAS) << segment) - _MULAW_BIAS)
        is_negative = coded & 0x80 != 0
    else:
        inside = 16 * step + 8
        level = np.where(segment == 0, inside, (inside + 256) << np.maximum(segment - 1, 0))
        is_negative = coded & 0x80 == 0
    levels = (np.where(is_negative, -level, level) / _FULL_SCALE).astype(np.float32)
    levels.flags.writeable = False  # it is kept for all callers
    return levels
