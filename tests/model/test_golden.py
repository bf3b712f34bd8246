"""Parity with PyTorch: the oracle is conformer_layer.npz, made by make_golden.py, and beside the
repository a larger one of two layers.
"""

import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from confp_jax.model.from_torch import load_torch_encoder, map_torch_names, read_npz
from confp_jax.training.losses import nt_xent

HERE = pathlib.Path(__file__).resolve().parent
ONE_LAYER = HERE / "conformer_layer.npz"
TWO_LAYERS = HERE.parents[2] / "shared" / "golden" / "conformer_tiny.npz"
TEMPERATURE = 0.07  # make_golden.py's


@pytest.fixture(scope="module", params=[ONE_LAYER, TWO_LAYERS], ids=["one layer", "two layers"])
def golden(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    if not request.param.is_file():
        pytest.skip(f"{request.param} is not there: the repository holds the smaller file only")
    return read_npz(request.param)


@pytest.fixture(scope="module")
def trained(golden):
    """Output, loss and gradients (by parameters and by input) of one pass in training mode, without
    dropout.
    """
    graphdef, params, rest = nnx.split(load_torch_encoder(golden), nnx.Param, ...)
    half = len(golden["input"]) // 2
    neighbours = np.stack(
        [np.arange(half), np.arange(half) + half], axis=1
    ).ravel()  # its pairs i, i + B/2; ours 2i, 2i + 1

    def loss_of(params, frames):
        encoder = nnx.merge(graphdef, params, rest, copy=True)
        output = encoder(frames, train=True, key=jax.random.key(0))
        return nt_xent(output[neighbours], temperature=TEMPERATURE).loss, (
            output,
            nnx.state(encoder, nnx.BatchStat),
        )

    return jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True))(
        params, golden["input"]
    )


def test_eval_output(golden):
    encoder = load_torch_encoder(golden)
    np.testing.assert_allclose(encoder(golden["input"]), golden["output_eval"], atol=2e-5, rtol=0)


def test_train_output(golden, trained):
    (_, (output, _)), _ = trained
    np.testing.assert_allclose(output, golden["output_train"], atol=2e-5, rtol=0)
    assert (
        np.abs(golden["output_train"] - golden["output_eval"]).max() > 0.05
    )  # else the batch's statistics were not tested


def test_loss(golden, trained):
    (loss, _), _ = trained
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)


def test_gradient_by_input(golden, trained):
    _, (_, by_input) = trained
    expected = golden["grad_input"]
    np.testing.assert_allclose(by_input, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_gradient_by_every_parameter(golden, trained):
    _, (by_params, _) = trained
    found = {path: np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(by_params)}
    expected = {
        name.removeprefix("grad:"): value
        for name, value in golden.items()
        if name.startswith("grad:")
    }
    num_layers = len({name.split(".")[1] for name in expected if name.startswith("layers.")})
    targets = map_torch_names(num_layers)
    assert {targets[name].path for name in expected} == set(found)
    scale = max(np.abs(value).max() for value in expected.values())
    for name, value in expected.items():
        target = targets[name]
        np.testing.assert_allclose(
            found[target.path],
            target.arrange(value),
            rtol=1e-3,
            atol=2e-6 * scale,
            err_msg=f"gradient of {name}",
        )


def test_running_statistics_move_a_tenth_towards_the_batch(golden, trained):
    (_, (_, statistics)), _ = trained
    before = golden["layers.0.conv.norm.running_mean"]
    batch_mean = (
        statistics["layers"][0]["convolution"]["batch_norm"]["mean"][...] - 0.9 * before
    ) / 0.1
    # The depthwise bias shifts the batch's mean one to one, which a wrong momentum would scale.
    arrays = dict(golden)
    arrays["layers.0.conv.depthwise.bias"] = golden["layers.0.conv.depthwise.bias"] + 1
    encoder = load_torch_encoder(arrays)
    encoder(golden["input"], train=True, key=jax.random.key(0))
    moved = (encoder.layers[0].convolution.batch_norm.mean[...] - 0.9 * before) / 0.1
    np.testing.assert_allclose(moved - batch_mean, np.ones_like(before), atol=1e-4)
