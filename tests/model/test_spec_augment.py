"""SpecAugment: what masks look like, and how their widths and places are distributed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from confp_jax.config import SpecAugmentConfig
from confp_jax.model.spec_augment import spec_augment

CONFIG = SpecAugmentConfig(num_frequency_masks=2, max_mels=10, num_time_masks=2, max_frames=40)
ONE_TIME_MASK = SpecAugmentConfig(num_frequency_masks=0, max_mels=0, num_time_masks=1, max_frames=7)
ONE_FREQUENCY_MASK = SpecAugmentConfig(
    num_frequency_masks=1, max_mels=7, num_time_masks=0, max_frames=0
)


def masks(
    shape: tuple[int, int, int], config: SpecAugmentConfig, *, seed: int = 0, strength: float = 1.0
) -> np.ndarray:
    """Where a spectrogram of ones became 0."""
    return np.asarray(_augment_ones(jax.random.key(seed), shape, config, strength)) == 0


@functools.partial(jax.jit, static_argnames=("shape", "config", "strength"))
def _augment_ones(
    key: jax.Array, shape: tuple[int, int, int], config: SpecAugmentConfig, strength: float
) -> jax.Array:
    return spec_augment(jnp.ones(shape), key, config, strength=strength)


def intervals(hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First place (-1 if none) and width of the one interval of each row, checked to be one."""
    edges = np.diff(np.pad(hit.astype(int), ((0, 0), (1, 1))), axis=1)
    assert ((edges == 1).sum(axis=1) <= 1).all()
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1), hit.sum(axis=1)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_masks_are_whole_frames_and_whole_mels_within_the_limits(strength):
    hit = masks((64, 368, 80), CONFIG, strength=strength)
    frames = hit.all(axis=2)
    mels = hit.all(axis=1)
    np.testing.assert_array_equal(hit, frames[:, :, None] | mels[:, None, :])
    for marked, limit in ((frames, int(40 * strength)), (mels, int(10 * strength))):
        assert marked.sum(axis=1).max() <= 2 * limit
        assert (np.diff(np.pad(marked.astype(int), ((0, 0), (1, 1))), axis=1) == 1).sum(
            axis=1
        ).max() <= 2
        assert marked.sum(axis=1).max() > limit  # two masks, not one


def test_unmasked_values_stay_and_masked_ones_are_zero():
    x = np.random.default_rng(0).normal(size=(8, 100, 40)).astype(np.float32)
    out = np.asarray(spec_augment(jnp.asarray(x), jax.random.key(1), CONFIG))
    hit = masks((8, 100, 40), CONFIG, seed=1)
    assert 0 < hit.mean() < 1
    np.testing.assert_array_equal(out, np.where(hit, 0, x))


@pytest.mark.parametrize(("config", "axis"), [(ONE_TIME_MASK, 2), (ONE_FREQUENCY_MASK, 1)])
def test_widths_and_places_are_uniform(config, axis):
    size = 20
    hit = masks((40_000, size, 1) if axis == 2 else (40_000, 1, size), config).any(axis=axis)
    start, width = intervals(hit)
    counts = np.bincount(width, minlength=8)
    assert len(counts) == 8  # 0 and the limit itself among them
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    for w in (1, 4, 7):
        places = np.bincount(start[width == w], minlength=size - w + 1)
        assert len(places) == size - w + 1  # never past the end, up to the end
        assert scipy.stats.chisquare(places).pvalue > 1e-3


def test_a_limit_wider_than_the_spectrogram_is_cut():
    config = dataclasses.replace(ONE_TIME_MASK, max_frames=40)
    widths = masks((2000, 5, 2), config).all(axis=2).sum(axis=1)
    assert set(widths) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("strength", "config"),
    [(0.0, CONFIG), (1.0, SpecAugmentConfig(0, 10, 0, 40)), (1.0, SpecAugmentConfig(2, 0, 2, 0))],
)
def test_nothing_to_mask_is_the_identity(strength, config):
    assert not masks((16, 100, 40), config, strength=strength).any()


def test_examples_and_keys_differ_and_the_same_key_repeats():
    hit = masks((32, 368, 80), CONFIG)
    assert len({example.tobytes() for example in hit}) == 32
    np.testing.assert_array_equal(masks((32, 368, 80), CONFIG), hit)
    assert (masks((32, 368, 80), CONFIG, seed=1) != hit).any(axis=(1, 2)).all()


def test_frequency_and_time_masks_are_drawn_apart():
    """One key for both would tie the width in mels to the width in frames."""
    config = SpecAugmentConfig(num_frequency_masks=1, max_mels=20, num_time_masks=1, max_frames=20)
    hit = masks((4000, 60, 60), config)
    correlation = np.corrcoef(hit.all(axis=2).sum(axis=1), hit.all(axis=1).sum(axis=1))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(4000)
