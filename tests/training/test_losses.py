"""NT-Xent against optax and against equation 1 in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from confp_jax.training.losses import nt_xent

PAIR_LABELS = np.repeat(np.arange(8), 2)


def embed(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """16 rows before normalisation, partners near each other but not always nearest."""
    rng = np.random.default_rng(0)
    return (
        np.repeat(rng.normal(size=(8, 12)), 2, axis=0) + 0.8 * rng.normal(size=(16, 12))
    ).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.05, 0.07, 1.0])
def test_value_and_gradient_are_optaxs(points, temperature):
    ours = jax.value_and_grad(lambda x: nt_xent(embed(x), temperature=temperature).loss)(points)
    theirs = jax.value_and_grad(
        lambda x: optax.losses.ntxent(embed(x), PAIR_LABELS, temperature=temperature)
    )(points)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-3, atol=1e-5 * np.abs(theirs[1]).max())


def test_products_are_float32_on_every_chip(points):
    """On a CPU they are in any case: so the program is looked at, forward and backward."""
    program = str(jax.make_jaxpr(jax.grad(lambda z: nt_xent(z, temperature=0.07).loss))(points))
    num_products = program.count("dot_general[")
    assert (
        num_products
        == program.count("precision=Precision.HIGHEST")
        + program.count("precision=(Precision.HIGHEST")
        > 1
    )


def test_value_is_equation_1(points):
    z = np.asarray(embed(points), np.float64)
    similarity = z @ z.T / 0.07
    losses = []
    for i in range(16):
        partner = i + 1 if i % 2 == 0 else i - 1
        losses.append(
            -similarity[i, partner]
            + np.log(sum(np.exp(similarity[i, k]) for k in range(16) if k != i))
        )
    np.testing.assert_allclose(
        nt_xent(embed(points), temperature=0.07).loss, np.mean(losses), rtol=1e-5
    )


def test_top1_counts_those_whose_partner_is_nearest(points):
    z = np.asarray(embed(points))
    similarity = z @ z.T - 9 * np.eye(16)
    expected = np.mean(similarity.argmax(axis=1) == (np.arange(16) ^ 1))
    assert 0 < expected < 1
    np.testing.assert_allclose(nt_xent(z, temperature=0.07).top1, expected)


def test_rows_of_a_pair_may_swap_and_pairs_may_move(points):
    z = np.asarray(embed(points))
    expected = nt_xent(z, temperature=0.07)
    pairs = z.reshape(8, 2, 12)
    for same in (pairs[:, ::-1], pairs[np.random.default_rng(1).permutation(8)]):
        np.testing.assert_allclose(
            nt_xent(same.reshape(16, 12), temperature=0.07).loss, expected.loss, rtol=1e-6
        )
    mixed = np.roll(z, 1, axis=0)  # now different clips are called pairs
    assert nt_xent(mixed, temperature=0.07).loss > expected.loss + 1


def test_equal_embeddings_give_log_of_the_rivals():
    z = jnp.tile(jnp.eye(1, 12), (16, 1))
    loss, gradient = jax.value_and_grad(lambda z: nt_xent(z, temperature=0.05).loss)(z)
    np.testing.assert_allclose(loss, np.log(15), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_perfect_pairs():
    z = jnp.repeat(jnp.eye(8), 2, axis=0)
    contrast = nt_xent(z, temperature=0.05)
    np.testing.assert_allclose(contrast.loss, np.log1p(14 * np.exp(-20)), atol=1e-5)
    assert contrast.top1 == 1


def test_alignment_and_uniformity(points):
    """Wang and Isola (2020), in float64."""
    z = np.asarray(embed(points), np.float64)
    squared = np.square(z[:, None] - z[None, :]).sum(-1)
    contrast = nt_xent(z.astype(np.float32), temperature=0.07)
    np.testing.assert_allclose(
        contrast.alignment, squared[np.arange(16), np.arange(16) ^ 1].mean(), rtol=1e-5
    )
    others = np.exp(-2 * squared)[~np.eye(16, dtype=bool)]
    np.testing.assert_allclose(contrast.uniformity, np.log(others.mean()), rtol=1e-5)


def test_large_batches_are_compared_in_chunks():
    """Over 2^28 logits. Shapes alone: nothing is computed."""

    def program(num_rows: int) -> str:
        z = jax.ShapeDtypeStruct((num_rows, 8), jnp.float32)
        return str(jax.make_jaxpr(lambda z: nt_xent(z, temperature=0.07).loss)(z))

    assert "scan[" not in program(1 << 14)
    large = program(1 << 15)
    assert "scan[" in large
    assert "f32[8192,32768]" in large and "f32[32768,32768]" not in large


def test_a_batch_of_a_large_slice():
    """Its pairs of rows are more than an int32 counts."""
    rows = jax.ShapeDtypeStruct((160_000, 8), jnp.float32)
    assert (
        jax.eval_shape(functools.partial(nt_xent, temperature=0.1), rows).uniformity.dtype
        == jnp.float32
    )
