import dataclasses

import numpy as np
import pytest

from confp_jax.data.telephone import TelephoneConfig, draw_telephone, lose_packets, telephone
from confp_jax.typed_config import ConfigError

RATE = 16_000
CLEAN = TelephoneConfig(
    codecs=("mulaw",),
    second_codec_p=0.0,
    loss_p=0.0,
    noise_p=0.0,
    clipping_p=0.0,
    touch_tone_p=0.0,
    sidetone_p=0.0,
)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)


def called(samples: np.ndarray, config: TelephoneConfig, seed: int = 0) -> np.ndarray:
    drawn = draw_telephone(np.random.default_rng(seed), config)
    return telephone(samples, drawn, sample_rate_hz=RATE)


def share_db(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * np.log10(power[(hz >= low_hz) & (hz < high_hz)].sum() / power.sum())


def test_only_the_band_of_a_telephone_is_left(noise):
    heard = called(noise, CLEAN)
    assert len(heard) == len(noise)
    assert share_db(heard, 300, 3_400) > -0.6
    assert share_db(heard, 0, 100) < -30 and share_db(heard, 4_100, 8_000) < -40


def test_noise_lies_as_far_below_as_was_drawn(noise):
    quiet = called(noise, CLEAN)
    noisy = called(noise, dataclasses.replace(CLEAN, noise_p=1.0, noise_snr_db=(12.0, 12.0)))
    snr_db = 10 * np.log10(np.mean(quiet**2) / np.mean((noisy - quiet) ** 2))
    assert abs(snr_db - 12) < 1


@pytest.mark.parametrize("is_concealed", [False, True])
def test_lost_packets_are_silent_or_filled(is_concealed):
    line = np.sin(2 * np.pi * 200 * np.arange(80_000) / 8_000).astype(np.float32)
    heard = lose_packets(line, np.random.default_rng(1), share=0.05, is_concealed=is_concealed)
    lost = (heard != line).reshape(-1, 160).any(axis=1)
    assert 0.03 < lost.mean() < 0.07
    power = np.mean(heard.reshape(-1, 160)[lost] ** 2)
    assert (power == 0) if not is_concealed else (0.2 < power < 0.5)


def test_the_same_draw_gives_the_same_call(noise):
    config = TelephoneConfig(touch_tone_p=1.0, sidetone_p=1.0, clipping_p=1.0)
    np.testing.assert_array_equal(called(noise, config, 3), called(noise, config, 3))
    assert not np.array_equal(called(noise, config, 3), called(noise, config, 4))


def test_silence_stays_finite():
    assert np.isfinite(called(np.zeros(RATE, np.float32), TelephoneConfig(), 5)).all()


def test_what_is_no_codec_is_refused():
    with pytest.raises(ConfigError, match="expected one or more of mp3"):
        TelephoneConfig(codecs=("g729",))
