"""Log-mel on the device against librosa and against the host's, and what standardisation
promises.
"""

import dataclasses

import jax
import librosa
import numpy as np
import pytest

from confp_jax.audio import mel
from confp_jax.config import MelConfig
from confp_jax.model.features import log_mel, mel_power

RATE_HZ = 16_000
CONFIG = MelConfig()


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """Two seconds and a bit of a falling chirp over noise; twice, the second reversed."""
    time_s = np.arange(32_500) / RATE_HZ
    noise = np.random.default_rng(0).normal(size=len(time_s))
    sound = 0.3 * np.sin(2 * np.pi * (3000 * time_s - 500 * time_s**2)) + 0.02 * noise
    return np.stack([sound, sound[::-1]]).astype(np.float32)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    ("num_mels", "fmin_hz", "fmax_hz"), [(80, 50.0, 8000.0), (96, 0.0, 6000.0)]
)
def test_device_mel_power_is_librosas(samples, scale, num_mels, fmin_hz, fmax_hz):
    config = dataclasses.replace(
        CONFIG, scale=scale, num_mels=num_mels, fmin_hz=fmin_hz, fmax_hz=fmax_hz
    )
    found = np.asarray(mel_power(samples, config, sample_rate_hz=RATE_HZ))
    for row, sound in zip(found, samples, strict=True):
        expected = librosa.feature.melspectrogram(
            y=sound,
            sr=RATE_HZ,
            n_fft=1024,
            hop_length=128,
            center=False,
            n_mels=num_mels,
            fmin=fmin_hz,
            fmax=fmax_hz,
            htk=scale == "htk",
            norm="slaney",
        ).T
        np.testing.assert_allclose(row, expected, rtol=2e-3, atol=1e-6 * expected.max())


def test_device_and_host_agree(samples):
    found = mel_power(samples[:1], CONFIG, sample_rate_hz=RATE_HZ)[0]
    expected = mel.mel_power(samples[0], CONFIG, sample_rate_hz=RATE_HZ)
    assert found.shape == expected.shape == (CONFIG.num_frames(32_500), 80)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6 * expected.max())


def test_the_product_is_float32_on_every_chip(samples):
    """On a CPU it is in any case: so the program is looked at."""
    program = str(jax.make_jaxpr(lambda x: mel_power(x, CONFIG, sample_rate_hz=RATE_HZ))(samples))
    assert program.count("dot_general[") == program.count("precision=(Precision.HIGHEST") == 1


@pytest.mark.parametrize("num_samples", [48_000, 1024, 1151, 1152])
def test_frames_are_those_wholly_inside(num_samples):
    power = jax.eval_shape(
        lambda x: mel_power(x, CONFIG, sample_rate_hz=RATE_HZ),
        np.zeros((1, num_samples), np.float32),
    )
    assert power.shape[1] == len(range(0, num_samples - 1024 + 1, 128))
    if num_samples == 48_000:
        assert power.shape[1] == 368


@pytest.mark.parametrize("gain", [1e-3, 0.1, 30.0])
def test_gain_does_not_matter(samples, gain):
    plain = log_mel(mel_power(samples, CONFIG, sample_rate_hz=RATE_HZ), CONFIG)
    louder = log_mel(mel_power(np.float32(gain) * samples, CONFIG, sample_rate_hz=RATE_HZ), CONFIG)
    np.testing.assert_allclose(louder, plain, atol=2e-3)


def test_each_example_has_mean_0_and_variance_1(samples):
    out = np.asarray(
        log_mel(
            mel_power(samples * np.float32([[1], [0.01]]), CONFIG, sample_rate_hz=RATE_HZ), CONFIG
        )
    )
    np.testing.assert_allclose(out.mean(axis=(1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(out.var(axis=(1, 2)), 1, atol=1e-3)


def test_log_mel_is_the_formula():
    power = np.random.default_rng(0).uniform(0, 5, (2, 30, 8)).astype(np.float32)
    logarithm = np.log(power / power.mean(axis=(1, 2), keepdims=True) + CONFIG.floor)
    centred = logarithm - logarithm.mean(axis=(1, 2), keepdims=True)
    expected = centred / np.sqrt(centred.var(axis=(1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(log_mel(power, CONFIG), expected, atol=1e-4)


def test_a_part_of_a_window_is_standardised_by_itself():
    power = np.random.default_rng(1).uniform(0, 5, (3, 30, 8)).astype(np.float32)
    seen = np.int32([[0, 30], [4, 21], [17, 30]])
    found = np.asarray(log_mel(power, CONFIG, seen))
    for row, values, (first, end) in zip(found, power, seen, strict=True):
        np.testing.assert_allclose(
            row[first:end], log_mel(values[None, first:end], CONFIG)[0], atol=1e-5
        )
        assert not row[:first].any() and not row[end:].any()


def test_silence_is_finite_and_flat():
    silence = np.zeros((1, 48_000), np.float32)
    out = np.asarray(log_mel(mel_power(silence, CONFIG, sample_rate_hz=RATE_HZ), CONFIG))
    np.testing.assert_allclose(out, 0, atol=1e-3)


def test_one_click_in_silence_is_finite():
    click = np.zeros((1, 48_000), np.float32)
    click[0, 20_000] = 1 / 32_768
    out = np.asarray(log_mel(mel_power(click, CONFIG, sample_rate_hz=RATE_HZ), CONFIG))
    assert np.isfinite(out).all() and out.std() > 0.9
