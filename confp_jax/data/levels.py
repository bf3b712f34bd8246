"""Levels that change with time, as factors of samples or of mel power: surroundings that come and
go, automatic gain, noise suppression.

Each takes the array module to compute with (numpy or jax.numpy), as `data/responses.py` does.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np

from confp_jax.data.responses import hashed_normal

_SWELL_S = 0.5  # between two levels of the surroundings
_BLOCK_S = 0.1  # of which automatic gain measures the level
_RELEASE_S = 0.5  # in which it forgets a level, to 1/e
_LEAST_POWER = 1e-4  # of the mean: a pause is not made louder than this makes it
_SWELL = 4  # salt, beside those of `data/responses.py`
_FLOOR_QUANTILE = 0.2  # of a band's power over time: what is there all the time
_LEAST_GAIN = 0.1  # of power, which noise suppression leaves of a band

_Array = Any  # of numpy or jax


def swell(
    xp: ModuleType, seed: _Array, num: int, sample_rate_hz: int, deviation_db: _Array
) -> _Array:
    """Returns factors [num] of a sound that comes and goes: normal in dB at points half a second
    apart, linear in between.
    """
    num_points = math.ceil(num / (_SWELL_S * sample_rate_hz)) + 1
    points_db = deviation_db * hashed_normal(xp, seed, _SWELL, xp.asarray(np.arange(num_points)))
    return _factors(xp, points_db, num, _SWELL_S * sample_rate_hz)


def automatic_gain(
    xp: ModuleType, samples: _Array, strength: _Array, sample_rate_hz: int
) -> _Array:
    """Returns factors [n] that make quiet passages louder and loud ones quieter.

    A strength of 1 gives a level that is nearly constant, 0 changes nothing. The level is that of
    the past: an exponential mean over half a second, by blocks of a tenth.
    """
    block = round(_BLOCK_S * sample_rate_hz)
    num_blocks = -(-len(samples) // block)
    padded = xp.concatenate([samples, xp.zeros(num_blocks * block - len(samples), samples.dtype)])
    power = xp.mean(xp.square(padded.reshape(num_blocks, block)), axis=1)
    power = xp.asarray(_past(num_blocks)) @ power
    power = power / xp.maximum(xp.mean(power), 1e-20) + _LEAST_POWER
    return _factors(xp, -strength * 10 * xp.log10(power), len(samples), block)


def suppressed(xp: ModuleType, power: _Array, strength: _Array) -> _Array:
    """Returns mel power [T, F] less `strength` times what is in a band all the time: noise
    suppression as telephones and computers have it. 0 changes nothing.
    """
    rank = int(_FLOOR_QUANTILE * power.shape[0])
    floor = xp.sort(power, axis=0)[rank]
    return xp.maximum(power - strength * floor, _LEAST_GAIN * power)


def _past(num_blocks: int) -> np.ndarray:
    """Returns weights [blocks, blocks] of an exponential mean over a block and those before it."""
    age = np.subtract.outer(np.arange(num_blocks), np.arange(num_blocks))
    weights = np.where(age >= 0, np.exp(-np.maximum(age, 0) * _BLOCK_S / _RELEASE_S), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _factors(xp: ModuleType, points_db: _Array, num: int, spacing: float) -> _Array:
    """Factors of amplitude, linear in dB between points."""
    places = np.arange(num, dtype=np.float32) / np.float32(spacing)
    before = np.minimum(places.astype(np.int32), len(points_db) - 2) if len(points_db) > 1 else 0
    if len(points_db) == 1:
        return xp.ones(num, xp.float32) * 10 ** (points_db[0] / 20)
    part = xp.asarray((places - before).clip(0, 1).astype(np.float32))
    curve = points_db[before] * (1 - part) + points_db[before + 1] * part
    return (xp.float32(10) ** (curve / 20)).astype(xp.float32)
