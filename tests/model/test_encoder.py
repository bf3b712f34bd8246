"""The encoder and its parts: parameter counts, and numpy as the oracle of each piece of
arithmetic.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.fma import get_config
from confp_jax.config import EncoderConfig, TrainConfig
from confp_jax.model.conformer import Linear, depthwise, with_narrow_kernels
from confp_jax.model.dropout import Dropout
from confp_jax.model.encoder import Encoder, num_parameters, unit
from confp_jax.model.parts import pooling_weights
from confp_jax.typed_config import from_mapping

TINY = EncoderConfig(dim=16, num_layers=1, num_heads=4, embedding_dim=8, dropout=0.0)
MELS = 6


def build(config: EncoderConfig = TINY, *, num_mels: int = MELS, seed: int = 0) -> Encoder:
    """Random weights straight from numpy: JAX would compile every initialiser."""
    abstract = nnx.eval_shape(lambda: Encoder(config, num_mels=num_mels, rngs=nnx.Rngs(0)))
    graphdef, params, statistics = nnx.split(abstract, nnx.Param, ...)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), params
    )
    return nnx.merge(
        graphdef, params, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), statistics)
    )


def encode(
    encoder: Encoder, frames: np.ndarray, *, train: bool = False, key: jax.Array | None = None
) -> np.ndarray:
    """In one jit: fewer things to compile than op by op."""
    graphdef, state = nnx.split(encoder)
    return np.asarray(_encode(graphdef, state, frames, key, train=train))


@functools.partial(jax.jit, static_argnames=("graphdef", "train"))
def _encode(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    frames: jax.Array,
    key: jax.Array | None,
    *,
    train: bool,
) -> jax.Array:
    return nnx.merge(graphdef, state, copy=True)(frames, train=train, key=key)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 24, MELS)).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "expected"), [("small", 1_510_272), ("medium", 8_802_432), ("large", 26_214_272)]
)
def test_parameter_counts_are_the_papers(model, expected):
    config = from_mapping(TrainConfig, get_config(model))
    encoder = nnx.eval_shape(lambda: build(config.encoder, num_mels=config.mel.num_mels))
    assert num_parameters(encoder) == expected


def test_narrow_kernels_are_multiplied_in_their_type_and_summed_in_float32():
    rng = np.random.default_rng(0)
    linear = Linear(256, 32, rngs=nnx.Rngs(0))
    x = rng.normal(size=(3, 5, 256)).astype(np.float32)
    bias = rng.normal(size=32).astype(np.float32)
    linear.bias[...] = bias
    graphdef, params = nnx.split(linear)
    found = np.asarray(nnx.merge(graphdef, with_narrow_kernels(params))(x))
    rounded = [
        np.asarray(jnp.asarray(values).astype(jnp.bfloat16), np.float64)
        for values in (x, linear.kernel[...])
    ]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rounded[0] @ rounded[1] + bias, atol=1e-5)
    assert np.abs(found - np.asarray(linear(x))).max() > 1e-3


def test_only_the_kernels_of_linear_become_narrow():
    narrow = nnx.to_flat_state(with_narrow_kernels(nnx.state(build(), nnx.Param)))
    assert {path[-1] for path, leaf in narrow if leaf.dtype == jnp.bfloat16} == {"kernel"}
    assert (
        sum(leaf.dtype == jnp.bfloat16 for _, leaf in narrow) == 10
    )  # input, output, 2 feed-forwards, attention, convolution
    assert all(leaf.dtype in (jnp.bfloat16, jnp.float32) for _, leaf in narrow)


def test_a_block_has_11_d2_and_29_d_parameters():
    one, two = (
        nnx.eval_shape(lambda n=n: build(dataclasses.replace(TINY, num_layers=n))) for n in (1, 2)
    )
    assert num_parameters(two) - num_parameters(one) == 11 * 16**2 + 29 * 16


def test_outputs_are_unit_vectors_of_the_example_alone(frames):
    encoder = build()
    together = encode(encoder, frames)
    assert together.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(encode(encoder, frames[2:3]), together[2:3], atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    np.testing.assert_array_equal(unit(jnp.zeros((1, 3))), np.zeros((1, 3)))
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros((1, 3)))).all()
    np.testing.assert_allclose(unit(jnp.array([[3.0, 4.0]])), [[0.6, 0.8]], rtol=1e-6)


def test_stacked_frames_become_one_token(frames):
    """3 frames a token are what one frame a token sees when the same numbers arrive as 3 times the
    mels.
    """
    stacking = build(dataclasses.replace(TINY, frames_per_token=3))
    plain = build(TINY, num_mels=3 * MELS)
    nnx.update(plain, nnx.state(stacking))
    np.testing.assert_allclose(
        encode(stacking, frames), encode(plain, frames.reshape(4, 8, 3 * MELS)), atol=1e-6
    )


def test_left_over_frames_are_not_seen(frames):
    encoder = build(
        dataclasses.replace(TINY, frames_per_token=5)
    )  # 24 frames: 4 tokens, 4 frames left
    changed = frames.copy()
    changed[:, 20:] += 1
    np.testing.assert_array_equal(encode(encoder, changed), encode(encoder, frames))
    changed[:, 19] += 1
    assert np.abs(encode(encoder, changed) - encode(encoder, frames)).max() > 1e-4


def test_one_pooled_part_forgets_order_and_several_keep_it(frames):
    """Without positions only the depthwise kernel sees order: with a kernel of 1 a reversed window
    has the same mean.
    """
    reversed_ = frames[:, ::-1]
    one = build(dataclasses.replace(TINY, conv_kernel=1))
    four = build(dataclasses.replace(TINY, conv_kernel=1, pool_segments=4))
    np.testing.assert_allclose(encode(one, frames), encode(one, reversed_), atol=1e-5)
    assert np.abs(encode(four, frames) - encode(four, reversed_)).max() > 1e-2


def test_training_needs_a_key(frames):
    with pytest.raises(ValueError, match="needs a key"):
        build()(frames, train=True)


def test_dropout_follows_the_key_and_evaluation_does_not(frames):
    encoder = build(dataclasses.replace(TINY, dropout=0.5))
    key, other = jax.random.split(jax.random.key(1))
    first = encode(encoder, frames, train=True, key=key)
    np.testing.assert_array_equal(encode(encoder, frames, train=True, key=key), first)
    assert np.abs(encode(encoder, frames, train=True, key=other) - first).max() > 0.01
    np.testing.assert_array_equal(
        encode(encoder, frames, key=key), encode(encoder, frames, key=other)
    )


def test_config_reaches_every_dropout():
    encoder = build(dataclasses.replace(TINY, dropout=0.25, num_layers=2))
    rates = [node.rate for _, node in nnx.iter_graph(encoder) if isinstance(node, Dropout)]
    assert rates == [0.25] * (4 * 2)  # two feed-forwards (sharing one each), attention, convolution


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("num_frames", [1, 2, 9])
def test_depthwise_is_numpys_correlation(width, num_frames):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, num_frames, 3)).astype(np.float32)
    kernel = rng.normal(size=(width, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (width // 2, width // 2), (0, 0)))
    expected = np.empty_like(x)
    for b, d in np.ndindex(2, 3):
        expected[b, :, d] = np.correlate(padded[b, :, d], kernel[:, d], "valid")
    np.testing.assert_allclose(depthwise(jnp.asarray(x), jnp.asarray(kernel)), expected, atol=1e-6)


@given(num_tokens=st.integers(1, 400), num_segments=st.integers(1, 12))
@settings(deadline=None)
def test_pooling_weights_are_means_that_cover_the_window(num_tokens, num_segments):
    weights = pooling_weights(num_tokens, num_segments)
    assert weights.shape == (num_segments, num_tokens)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    for row in weights:
        inside = np.flatnonzero(row)
        np.testing.assert_array_equal(inside, np.arange(inside[0], inside[-1] + 1))  # one run ...
        assert len(set(row[inside])) == 1  # ... of equal weights
    assert weights[0, 0] > 0 and weights[-1, -1] > 0
    if num_segments <= num_tokens:
        assert (weights.sum(axis=0) > 0).all()


def test_one_part_is_the_mean():
    np.testing.assert_allclose(pooling_weights(46, 1), np.full((1, 46), 1 / 46), rtol=1e-6)


def test_four_parts_overlap_by_half():
    starts = [int(np.flatnonzero(row)[0]) for row in pooling_weights(50, 4)]
    assert starts == [0, 10, 20, 30] and (pooling_weights(50, 4)[0] > 0).sum() == 20
