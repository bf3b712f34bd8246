"""Frequency responses of loudspeakers, microphones and surroundings, as gains of FFT bins.

Each takes the array module to compute with (numpy or jax.numpy): the host and a device give the
same response for the same numbers. What is random is a hash of the seed, not a generator's state.
"""

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

# beyond them a response is constant
LOWEST_HZ = 30.0
HIGHEST_HZ = 8000.0
# Where a response is computed; between these its gain is linear.
_CURVE_HZ = np.geomspace(LOWEST_HZ, HIGHEST_HZ, 193).astype(np.float32)
# so that one seed gives each its own unevenness
_SPEAKER = 1
_MICROPHONE = 2
_AMBIENCE = 3
_NUM_POINTS = 1_000  # the place in the hash that gives the number of points of a response

_Array = Any  # of numpy or jax


def gains(
    xp: ModuleType, gain_db: Callable[..., _Array], drawn: Any, size: int, sample_rate_hz: int
) -> _Array:
    """Returns a response as factors of the bins of an FFT.

    Args:
      xp: numpy, or jax.numpy.
      gain_db: gives the response in dB at frequencies.
      drawn: what was drawn for it.
      size: samples of the FFT.
      sample_rate_hz: of the audio.
    """
    curve = xp.float32(10) ** (gain_db(xp, xp.asarray(_CURVE_HZ), drawn) / 20)
    before, part = _places(size, sample_rate_hz)
    curve = curve.astype(xp.float32)
    return curve[before] * (1 - part) + curve[before + 1] * part


@functools.lru_cache(maxsize=16)
def _places(size: int, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each bin's point of the curve, and how far it is from there to the next, on a
    logarithmic scale.
    """
    hz = np.clip(np.arange(size // 2 + 1) * (sample_rate_hz / size), LOWEST_HZ, HIGHEST_HZ)
    place = np.log(hz / LOWEST_HZ) / math.log(HIGHEST_HZ / LOWEST_HZ) * (len(_CURVE_HZ) - 1)
    before = np.minimum(place.astype(np.int32), len(_CURVE_HZ) - 2)
    return before, (place - before).astype(np.float32)


def speaker_db(xp: ModuleType, hz: _Array, drawn: Any) -> _Array:
    """Returns a loudspeaker's response: no bass, perhaps no treble, uneven.

    Args:
      xp: numpy or jax.numpy.
      hz: [n] frequencies.
      drawn: a `ReplayDraw`, or what has its fields as arrays.
    """
    treble = drawn.dull_slope_db * xp.maximum(_octaves(xp, hz, xp.maximum(drawn.dull_hz, 1.0)), 0)
    gain_db = _high_pass(xp, hz, drawn.speaker_low_hz, drawn.speaker_slope_db)
    gain_db = gain_db - xp.where(drawn.dull_hz > 0, treble, 0.0)
    return gain_db + uneven_db(xp, hz, drawn.seed, _SPEAKER, drawn.speaker_uneven_db, 24)


def microphone_db(xp: ModuleType, hz: _Array, drawn: Any) -> _Array:
    """Returns a microphone's response: less bass, uneven. Arguments as in `speaker_db`."""
    gain_db = _high_pass(xp, hz, drawn.microphone_low_hz, drawn.microphone_slope_db)
    return gain_db + uneven_db(xp, hz, drawn.seed, _MICROPHONE, drawn.microphone_uneven_db, 10)


def ambience_db(xp: ModuleType, hz: _Array, drawn: Any) -> _Array:
    """Returns the spectrum of the surroundings' noise, 0 dB at 1 kHz. Arguments as in
    `speaker_db`.
    """
    tilt = drawn.ambience_tilt_db * _octaves(xp, xp.maximum(hz, 40.0), 1000.0)
    return tilt + uneven_db(xp, hz, drawn.seed, _AMBIENCE, 3.0, 12)


def uneven_db(
    xp: ModuleType, hz: _Array, seed: _Array, salt: int, deviation_db: _Array, most_points: int
) -> _Array:
    """Returns a response that wanders: random at a third of `most_points` to all of them, linear
    in between on a logarithmic scale of frequency.

    Args:
      xp: numpy, or jax.numpy.
      hz: the frequencies.
      seed: of the draws.
      salt: gives each response of one seed its own draws.
      deviation_db: the standard deviation of its values.
      most_points: how many values there are at most.
    """
    least = max(2, most_points // 3)
    spread = most_points - least + 1
    num = least + xp.minimum(
        (_uniform(xp, seed, salt, xp.asarray([_NUM_POINTS])) * spread).astype(int), spread - 1
    )
    span = math.log(HIGHEST_HZ / LOWEST_HZ)
    place = xp.log(xp.clip(hz, LOWEST_HZ, HIGHEST_HZ) / LOWEST_HZ) / span * (num - 1)
    point = xp.minimum(place.astype(int), num - 2)
    part = place - point
    before = hashed_normal(xp, seed, salt, point)
    after = hashed_normal(xp, seed, salt, point + 1)
    return deviation_db * ((1 - part) * before + part * after)


def _octaves(xp: ModuleType, hz: _Array, above_hz: _Array) -> _Array:
    return xp.log2(xp.clip(hz, LOWEST_HZ, HIGHEST_HZ) / above_hz)


def _high_pass(xp: ModuleType, hz: _Array, low_hz: _Array, slope_db: _Array) -> _Array:
    return -slope_db * xp.maximum(-_octaves(xp, hz, low_hz), 0)


def hashed_normal(xp: ModuleType, seed: _Array, salt: int, index: _Array) -> _Array:
    """Returns nearly normal numbers of mean 0 and deviation 1, one for each index: the sum of four
    uniform ones.
    """
    total = sum(_uniform(xp, seed, salt, 4 * index + number) for number in range(4))
    return (total - 2.0) * math.sqrt(3.0)


def _uniform(xp: ModuleType, seed: _Array, salt: int, index: _Array) -> _Array:
    """Returns values in [0, 1), by the finaliser of MurmurHash3."""
    hashed = xp.asarray(index).astype(xp.uint32) * xp.uint32(0x9E3779B1)
    hashed = hashed ^ (xp.asarray([seed]).astype(xp.uint32) * xp.uint32(0x85EBCA77))
    hashed = hashed + xp.uint32(salt * 0x27D4EB2F & 0xFFFFFFFF)
    hashed = (hashed ^ (hashed >> 16)) * xp.uint32(0x85EBCA6B)
    hashed = (hashed ^ (hashed >> 13)) * xp.uint32(0xC2B2AE35)
    return ((hashed ^ (hashed >> 16)) >> 8).astype(xp.float32) / 2**24
