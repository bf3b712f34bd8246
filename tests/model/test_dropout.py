"""What is dropped is a fair, independent draw that follows its key, and the same on any number of
devices.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from confp_jax.model.dropout import Dropout, hashed_words


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(50, 40, 64), (1000, 131), (100_000,)])
def test_the_share_is_zeroed_and_the_mean_stays(rate, shape):
    dropped = np.asarray(
        jax.jit(lambda x, key: Dropout(rate)(x, train=True, key=key))(
            jnp.ones(shape), jax.random.key(2)
        )
    )
    assert dropped.shape == shape
    assert set(np.unique(dropped)) == {0, np.float32(1 / (1 - rate))}
    spread = np.sqrt(rate * (1 - rate) / dropped.size)
    assert abs((dropped == 0).mean() - rate) < 5 * spread
    assert abs(dropped.mean() - 1) < 5 * spread / (1 - rate)


def test_dropped_values_are_independent():
    """Neighbours and rows must not go together, whether powers of two apart or not."""
    dropped = (
        np.asarray(Dropout(0.5)(jnp.ones((512, 512)), train=True, key=jax.random.key(3))) - 1.0
    )
    for axis, distance in itertools.product((0, 1), (1, 2, 3, 4, 7, 16, 64, 256)):
        assert abs((dropped * np.roll(dropped, distance, axis)).mean()) < 5 / 512
    for axis in (0, 1):
        np.testing.assert_allclose(dropped.mean(axis=axis), 0, atol=5 / np.sqrt(512))
    assert len({column.tobytes() for column in dropped.T}) == 512


def test_draws_of_two_keys_are_independent():
    """Also of keys that were folded from neighbouring steps, as a training step's are."""
    keys = [jax.random.fold_in(jax.random.key(0), step) for step in range(6)]
    draws = [
        np.asarray(Dropout(0.5)(jnp.ones((300, 300)), train=True, key=key)) - 1.0 for key in keys
    ]
    for one, other in itertools.combinations(draws, 2):
        assert abs((one * other).mean()) < 5 / 300
        assert abs((one.ravel() * np.sort(other.ravel())).mean()) < 5 / 300


def test_words_are_even():
    """Chi-square over every one of the four bytes: 255 degrees of freedom, a spread of 22.6."""
    words = np.asarray(hashed_words(jax.random.key(5), (700, 300)))
    assert len(np.unique(words)) == words.size  # a bijection of the places
    for byte in range(4):
        counts = np.bincount((words.ravel() >> (8 * byte)) & 255, minlength=256)
        expected = words.size / 256
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 22.6


@pytest.mark.parametrize(("rate", "train"), [(0.0, True), (0.5, False)])
def test_what_drops_nothing_is_the_identity(rate, train):
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(Dropout(rate)(x, train=train, key=jax.random.key(0)), x)


def test_the_gradient_is_the_mask():
    x = jnp.full((8, 12), 3.0)
    key = jax.random.key(4)
    drop = Dropout(0.5)
    gradient = jax.grad(lambda x: drop(x, train=True, key=key).sum())(x)
    np.testing.assert_array_equal(gradient, drop(x, train=True, key=key) / 3)
