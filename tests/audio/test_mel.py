"""Mel power on the host against librosa."""

import dataclasses

import librosa
import numpy as np
import pytest

from confp_jax.audio.mel import hann_window, mel_centres_hz, mel_filterbank, mel_power
from confp_jax.config import MelConfig

RATE_HZ = 16_000
CONFIG = MelConfig()


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    ("num_mels", "fmin_hz", "fmax_hz"), [(80, 50.0, 8000.0), (40, 0.0, 4000.0)]
)
def test_filterbank_is_librosas(scale, num_mels, fmin_hz, fmax_hz):
    config = dataclasses.replace(
        CONFIG, scale=scale, num_mels=num_mels, fmin_hz=fmin_hz, fmax_hz=fmax_hz
    )
    expected = librosa.filters.mel(
        sr=RATE_HZ,
        n_fft=1024,
        n_mels=num_mels,
        fmin=fmin_hz,
        fmax=fmax_hz,
        htk=scale == "htk",
        norm="slaney",
    )
    np.testing.assert_allclose(mel_filterbank(config, RATE_HZ), expected.T, atol=1e-7)
    centres = librosa.mel_frequencies(num_mels + 2, fmin=fmin_hz, fmax=fmax_hz, htk=scale == "htk")[
        1:-1
    ]
    np.testing.assert_allclose(mel_centres_hz(config), centres)


def test_window_is_librosas():
    np.testing.assert_allclose(
        hann_window(1024), librosa.filters.get_window("hann", 1024), atol=1e-7
    )


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_power_is_librosas_over_several_blocks(samples, scale):
    config = dataclasses.replace(CONFIG, scale=scale)
    found = mel_power(samples, config, sample_rate_hz=RATE_HZ)
    expected = librosa.feature.melspectrogram(
        y=samples,
        sr=RATE_HZ,
        n_fft=1024,
        hop_length=128,
        center=False,
        n_mels=80,
        fmin=50.0,
        htk=scale == "htk",
        norm="slaney",
    ).T
    assert found.dtype == np.float32 and len(found) > 512  # more than one block of frames
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())


@pytest.mark.parametrize("offset", [64, 128, 1000])
def test_offset_skips_samples(samples, offset):
    found = mel_power(samples, CONFIG, sample_rate_hz=RATE_HZ, offset_samples=offset)
    np.testing.assert_allclose(
        found, mel_power(samples[offset:], CONFIG, sample_rate_hz=RATE_HZ), rtol=1e-6
    )


def test_a_hop_is_a_frame(samples):
    """128 samples later is one frame later: what lets overlapping windows share their frames."""
    whole = mel_power(samples, CONFIG, sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(
        mel_power(samples[128 * 3 :], CONFIG, sample_rate_hz=RATE_HZ), whole[3:], rtol=1e-5
    )


@pytest.mark.parametrize("num_samples", [0, 1, 1023])
def test_less_than_one_frame_gives_none(num_samples):
    assert mel_power(np.zeros(num_samples, np.float32), CONFIG, sample_rate_hz=RATE_HZ).shape == (
        0,
        80,
    )


def test_samples_are_not_changed(samples):
    before = samples.copy()
    mel_power(samples, CONFIG, sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize(("fmin_hz", "fmax_hz"), [(50.0, 8001.0), (500.0, 500.0), (-1.0, 8000.0)])
def test_a_range_that_cannot_be_is_an_error(fmin_hz, fmax_hz):
    with pytest.raises(ValueError, match="mel range"):
        mel_filterbank(dataclasses.replace(CONFIG, fmin_hz=fmin_hz, fmax_hz=fmax_hz), RATE_HZ)


def test_a_faster_tempo_is_frames_further_apart(samples):
    """Frame i lies 1.18 hops of 128, so 151 samples, after the one before; the last one still
    fits.
    """
    found = mel_power(samples, CONFIG, sample_rate_hz=RATE_HZ, offset_samples=64, tempo=1.18)
    assert len(found) == 1 + (len(samples) - 64 - 1024) // 151
    for i in (0, 1, 200, len(found) - 1):
        frame = mel_power(samples[64 + 151 * i :][:1024], CONFIG, sample_rate_hz=RATE_HZ)
        np.testing.assert_allclose(found[i], frame[0], rtol=1e-5)
