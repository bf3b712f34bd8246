"""NT-Xent against optax and against equation 1 in float64; on four devices as on one."""

import json
import os
import pathlib
import subprocess
import sys

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
    return (np.repeat(rng.normal(size=(8, 12)), 2, axis=0) + 0.8 * rng.normal(size=(16, 12))).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.05, 0.07, 1.0])
def test_value_and_gradient_are_optaxs(points, temperature):
    ours = jax.value_and_grad(lambda x: nt_xent(embed(x), temperature=temperature).loss)(points)
    theirs = jax.value_and_grad(lambda x: optax.losses.ntxent(embed(x), PAIR_LABELS, temperature=temperature))(points)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-3, atol=1e-5 * np.abs(theirs[1]).max())


def test_value_is_equation_1(points):
    z = np.asarray(embed(points), np.float64)
    similarity = z @ z.T / 0.07
    losses = []
    for i in range(16):
        partner = i + 1 if i % 2 == 0 else i - 1
        losses.append(-similarity[i, partner] + np.log(sum(np.exp(similarity[i, k]) for k in range(16) if k != i)))
    np.testing.assert_allclose(nt_xent(embed(points), temperature=0.07).loss, np.mean(losses), rtol=1e-5)


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
        np.testing.assert_allclose(nt_xent(same.reshape(16, 12), temperature=0.07).loss, expected.loss, rtol=1e-6)
    mixed = np.roll(z, 1, axis=0)  # now strangers are called pairs
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


FOUR_DEVICES = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from confp_jax.config import EncoderConfig
from confp_jax.model.encoder import Encoder
from confp_jax.training.losses import nt_xent
from confp_jax.training.mesh import make_mesh

assert len(jax.devices()) == 4
rng = np.random.default_rng(0)
z = rng.normal(size=(16, 12)).astype(np.float32)
z /= np.linalg.norm(z, axis=1, keepdims=True)
loss = jax.value_and_grad(lambda z: nt_xent(z, temperature=0.07).loss)
frames = rng.normal(size=(16, 20, 6)).astype(np.float32)
config = EncoderConfig(dim=16, num_layers=1, num_heads=4, embedding_dim=8, dropout=0.5, frames_per_token=2, pool_segments=2)
graphdef, params, rest = nnx.split(Encoder(config, num_mels=6, rngs=nnx.Rngs(0)), nnx.Param, ...)

def whole(params, rest, frames):
    def loss_of(params):
        encoder = nnx.merge(graphdef, params, rest, copy=True)
        return nt_xent(encoder(frames, train=True, key=jax.random.key(1)), temperature=0.07).loss
    return jax.value_and_grad(loss_of)(params)

def apart(one, four):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in leaves)

single, whole_single = jax.jit(loss)(z), jax.jit(whole)(params, rest, frames)
with jax.set_mesh(make_mesh(4)) as mesh:
    sharded = jax.device_put(z, P("data"))
    replicated = jax.device_put((params, rest), P())
    compiled = jax.jit(loss).lower(sharded).compile()
    four, whole_four = compiled(sharded), jax.jit(whole)(*replicated, jax.device_put(frames, P("data")))
    spec = str(four[1].sharding.spec)
print(json.dumps({
    "value": apart(single[0], four[0]), "gradient": apart(single[1], four[1]), "spec": spec,
    "encoder_value": apart(whole_single[0], whole_four[0]), "encoder_gradient": apart(whole_single[1], whole_four[1]),
    "all_gathers": len(re.findall(r" all-gather(?:-start)?\\(", compiled.as_text())),
}))
"""


@pytest.fixture(scope="module")
def four_devices() -> dict:
    """Runs FOUR_DEVICES in its own process: the number of devices is fixed when JAX starts."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=pathlib.Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_four_devices_give_the_value_and_gradient_of_one(four_devices):
    assert four_devices["value"] < 1e-6
    assert four_devices["gradient"] < 1e-6
    assert "data" in four_devices["spec"]  # each device keeps the gradient of its own rows


def test_there_is_exactly_one_all_gather(four_devices):
    assert four_devices["all_gathers"] == 1


def test_a_sharded_encoder_with_dropout_trains_as_on_one_device(four_devices):
    """BatchNorm's statistics are the whole batch's and the masks do not depend on the mesh."""
    assert four_devices["encoder_value"] < 1e-5
    assert four_devices["encoder_gradient"] < 1e-4
