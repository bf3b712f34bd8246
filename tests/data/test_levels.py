"""Levels that change with time: what they promise, and the host's equal to a device's."""

import jax.numpy as jnp
import numpy as np
import pytest

from confp_jax.data.levels import automatic_gain, suppressed, swell

RATE_HZ = 16_000


def _steps() -> np.ndarray:
    """Four seconds at a tenth of the level of those before and of those after."""
    level = np.repeat([1.0, 0.1, 1.0], 4 * RATE_HZ).astype(np.float32)
    return level * np.random.default_rng(0).standard_normal(len(level)).astype(np.float32)


def _level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples))))


@pytest.mark.parametrize(("strength", "left_db"), [(0.0, 20.0), (0.5, 10.0), (1.0, 0.0)])
def test_automatic_gain_takes_its_share_of_a_difference(strength: float, left_db: float) -> None:
    samples = _steps()
    out = samples * automatic_gain(np, samples, np.float32(strength), RATE_HZ)
    # long after the steps, when the past level is forgotten
    loud, quiet = (out[int(at * RATE_HZ) - 2_000 : int(at * RATE_HZ)] for at in (4.0, 8.0))
    assert _level_db(loud) - _level_db(quiet) == pytest.approx(left_db, abs=5.0)


def test_automatic_gain_is_late() -> None:
    """What follows a quiet passage is too loud at first."""
    samples = _steps()
    gain = automatic_gain(np, samples, np.float32(0.8), RATE_HZ)
    assert gain[8 * RATE_HZ] > 1.8 * gain[-1]


def test_swell_deviates_by_what_was_drawn() -> None:
    found_db = 20 * np.log10(swell(np, 7, 2_000 * RATE_HZ // 4, RATE_HZ, np.float32(6.0)))
    assert found_db[:: RATE_HZ // 2].std() == pytest.approx(6.0, rel=0.1)
    assert np.abs(np.diff(found_db)).max() < 0.01  # no clicks


@pytest.mark.parametrize("num", [100, 8_000, 48_000])
def test_a_device_gives_the_hosts_factors(num: int) -> None:
    samples = np.random.default_rng(1).standard_normal(num).astype(np.float32)
    for found, expected in (
        (swell(jnp, 5, num, RATE_HZ, 4.0), swell(np, 5, num, RATE_HZ, 4.0)),
        (
            automatic_gain(jnp, jnp.asarray(samples), 0.7, RATE_HZ),
            automatic_gain(np, samples, np.float32(0.7), RATE_HZ),
        ),
    ):
        assert expected.shape == (num,)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-4)


def test_suppression_takes_what_is_there_all_the_time() -> None:
    power = np.ones((50, 3), np.float32)
    power[20:25, 1] = 100.0
    out = suppressed(np, power, np.float32(1.0))
    np.testing.assert_allclose(out[:, [0, 2]], 0.1, rtol=1e-5)
    np.testing.assert_allclose(out[20:25, 1], 99.0, rtol=1e-5)
    np.testing.assert_array_equal(suppressed(np, power, np.float32(0.0)), power)
    np.testing.assert_allclose(np.asarray(suppressed(jnp, jnp.asarray(power), 1.0)), out, rtol=1e-6)
