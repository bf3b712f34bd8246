"""Local contrast against its definition, point by point, and what it promises of gain, colour and
place.
"""

import dataclasses
import pathlib

import numpy as np
import pytest

from confp_jax.audio.contrast import clip_contrast, local_contrast
from confp_jax.audio.decode import decode
from confp_jax.audio.mel import mel_power
from confp_jax.config import ContrastConfig, MelConfig, ProjectionConfig

RATE_HZ = 16_000
CONFIG = ProjectionConfig()
CLIP = pathlib.Path(__file__).resolve().parents[2] / "examples/music/jordan-trudgett_battle2.mp3"


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    return decode(CLIP, sample_rate_hz=RATE_HZ).samples


def by_definition(power: np.ndarray, mel: MelConfig, config: ContrastConfig) -> np.ndarray:
    """Every box cut out and averaged by itself, in double precision."""
    time = config.box_frames // 2
    height = config.box_mels // 2

    def box_mean(values: np.ndarray, height: int) -> np.ndarray:
        out = np.empty(values.shape)
        for t, f in np.ndindex(*values.shape):
            out[t, f] = values[
                max(0, t - time) : t + time + 1, max(0, f - height) : f + height + 1
            ].mean()
        return out

    power = power.astype(np.float64)
    logarithm = np.log(power + mel.floor * box_mean(power.mean(axis=1, keepdims=True), 0) + 1e-20)
    deviation = logarithm - box_mean(logarithm, height)
    contrast = deviation / np.sqrt(box_mean(deviation**2, height) + config.least_variance)
    return np.exp(config.sharpness * np.minimum(contrast, config.highest))


@pytest.mark.parametrize("num_frames", [1, 7, 40])
@pytest.mark.parametrize("box", [(15, 13), (3, 5)])
def test_every_point_is_what_its_box_says(num_frames: int, box: tuple[int, int]) -> None:
    config = dataclasses.replace(CONFIG.contrast, box_frames=box[0], box_mels=box[1])
    power = np.random.default_rng(0).gamma(0.3, 100.0, (num_frames, 20)).astype(np.float32)
    power[num_frames // 2, 3:5] = 0.0
    found = local_contrast(power, CONFIG.mel, config)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(power, CONFIG.mel, config), rtol=2e-4)


def test_gain_changes_nothing_and_a_loudspeakers_colour_little(music: np.ndarray) -> None:
    samples = music[: 3 * RATE_HZ]
    plain = clip_contrast(samples, CONFIG, sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(
        clip_contrast(1e-3 * samples, CONFIG, sample_rate_hz=RATE_HZ), plain, rtol=5e-3
    )
    power = mel_power(samples, CONFIG.mel, sample_rate_hz=RATE_HZ)
    tilted = power * np.geomspace(
        1.0, 1e-3, power.shape[1], dtype=np.float32
    )  # 30 dB over the range
    whole, coloured = (local_contrast(p, CONFIG.mel, CONFIG.contrast) for p in (power, tilted))
    assert np.corrcoef(whole.ravel(), coloured.ravel())[0, 1] > 0.97


def test_a_frame_depends_on_three_boxes_around_it(music: np.ndarray) -> None:
    """So a piece of a stream with that margin has the values of the whole."""
    samples = music[: 4 * RATE_HZ]
    margin = 3 * (CONFIG.contrast.box_frames // 2) + 3
    whole = clip_contrast(samples, CONFIG, sample_rate_hz=RATE_HZ)
    first = 50
    last = 80
    hop = CONFIG.mel.hop_samples
    piece = clip_contrast(
        samples[(first - margin) * hop : (last + margin) * hop], CONFIG, sample_rate_hz=RATE_HZ
    )
    np.testing.assert_allclose(piece[margin:-margin], whole[first:last], rtol=1e-4)
    assert np.abs(piece[0] - whole[first - margin]).max() > 0.01, "the margin is needed"


def test_frames_lie_in_the_middle_of_hops() -> None:
    """A click in the middle of hop number 30 stands out most there, and nowhere is there a frame
    too many.
    """
    hop = CONFIG.mel.hop_samples
    samples = 1e-3 * np.random.default_rng(0).standard_normal(60 * hop + 17).astype(np.float32)
    samples[30 * hop + hop // 2] = 1.0
    found = clip_contrast(samples, CONFIG, sample_rate_hz=RATE_HZ)
    assert len(found) == 60 and found.mean(axis=1).argmax() == 30


def test_silence_is_finite() -> None:
    found = clip_contrast(np.zeros(RATE_HZ, np.float32), CONFIG, sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(found, 1.0, rtol=1e-4)
