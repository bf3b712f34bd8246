"""Weights under PyTorch's names; the oracle is the same forward pass in float64 numpy, at other
sizes than the golden file's.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

from confp_jax.model.encoder import num_parameters
from confp_jax.model.from_torch import (
    WeightsError,
    infer_config,
    load_torch_encoder,
    main,
    map_torch_names,
    read_npz,
)

DIM = 24
LAYERS = 2
KERNEL = 3
MELS = 10
EMBEDDING = 6
HEADS = 4


def make_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A state_dict() in numpy: shapes as PyTorch has them."""
    shapes: dict[str, tuple[int, ...]] = {"input.weight": (DIM, MELS), "input.bias": (DIM,)}
    for i in range(LAYERS):
        for ffn in ("ffn1", "ffn2"):
            shapes |= {
                f"layers.{i}.{ffn}.sequential.0.{part}": (DIM,) for part in ("weight", "bias")
            }
            for linear in (1, 4):
                shapes[f"layers.{i}.{ffn}.sequential.{linear}.weight"] = (DIM, DIM)
                shapes[f"layers.{i}.{ffn}.sequential.{linear}.bias"] = (DIM,)
        layer = {
            "attn.in_proj_weight": (3 * DIM, DIM),
            "attn.in_proj_bias": (3 * DIM,),
            "attn.out_proj.weight": (DIM, DIM),
            "attn.out_proj.bias": (DIM,),
            "conv.pointwise_in.weight": (2 * DIM, DIM, 1),
            "conv.pointwise_in.bias": (2 * DIM,),
            "conv.depthwise.weight": (DIM, 1, KERNEL),
            "conv.depthwise.bias": (DIM,),
            "conv.pointwise_out.weight": (DIM, DIM, 1),
            "conv.pointwise_out.bias": (DIM,),
        }
        for norm in ("attn_norm", "conv.layer_norm", "conv.norm", "final_norm"):
            layer |= {f"{norm}.weight": (DIM,), f"{norm}.bias": (DIM,)}
        layer |= {"conv.norm.running_mean": (DIM,), "conv.norm.running_var": (DIM,)}
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes |= {"output.weight": (EMBEDDING, DIM), "output.bias": (EMBEDDING,)}
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return weights | {
        name: value**2 + 0.5 for name, value in weights.items() if name.endswith("running_var")
    }


Weights = dict[str, np.ndarray]


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].reshape(len(w[f"{name}.weight"]), -1).T + w[f"{name}.bias"]


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return unit * w[f"{name}.weight"] + w[f"{name}.bias"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def feed_forward(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    x = linear(w, f"{name}.sequential.1", layer_norm(w, f"{name}.sequential.0", x))
    return linear(w, f"{name}.sequential.4", x * sigmoid(x))


def attend(w: Weights, name: str, x: np.ndarray, heads: int) -> np.ndarray:
    stacked = np.split(x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"], 3, axis=-1)
    mixed = []
    for q, k, v in zip(*(np.split(part, heads, axis=-1) for part in stacked), strict=True):
        scores = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
        mixed.append(scores / scores.sum(-1, keepdims=True) @ v)
    return linear(w, f"{name}.out_proj", np.concatenate(mixed, axis=-1))


def convolve(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    x = linear(w, f"{name}.pointwise_in", layer_norm(w, f"{name}.layer_norm", x))
    value, gate = np.split(x, 2, axis=-1)
    padded = np.pad(value * sigmoid(gate), ((KERNEL // 2, KERNEL // 2), (0, 0)))
    kernel = w[f"{name}.depthwise.weight"][:, 0]
    columns = [np.correlate(padded[:, d], kernel[d], "valid") for d in range(DIM)]
    x = np.stack(columns, axis=1) + w[f"{name}.depthwise.bias"]
    x = (x - w[f"{name}.norm.running_mean"]) / np.sqrt(w[f"{name}.norm.running_var"] + 1e-5)
    x = x * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
    return linear(w, f"{name}.pointwise_out", x * sigmoid(x))


def encode_in_numpy(w: Weights, x: np.ndarray, heads: int) -> np.ndarray:
    """make_golden.py's forward pass in eval mode, one example at a time."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    out = []
    for example in x.astype(np.float64):
        y = linear(w, "input", example)
        for i in range(LAYERS):
            y = y + 0.5 * feed_forward(w, f"layers.{i}.ffn1", y)
            y = y + attend(w, f"layers.{i}.attn", layer_norm(w, f"layers.{i}.attn_norm", y), heads)
            y = y + convolve(w, f"layers.{i}.conv", y)
            y = y + 0.5 * feed_forward(w, f"layers.{i}.ffn2", y)
            y = layer_norm(w, f"layers.{i}.final_norm", y)
        y = linear(w, "output", y.mean(0))
        out.append(y / np.linalg.norm(y))
    return np.array(out)


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    return make_weights(np.random.default_rng(0))


@pytest.fixture
def checkable(weights) -> dict[str, np.ndarray]:
    """Weights with an input and the output that numpy makes of it, and what else a golden file
    holds.
    """
    frames = np.random.default_rng(1).normal(size=(3, 11, MELS)).astype(np.float32)
    extra = {
        "layers.0.conv.norm.num_batches_tracked": np.int64(7),
        "grad:input.bias": np.zeros(DIM),
        "loss": np.float32(1),
    }
    return (
        weights
        | extra
        | {
            "input": frames,
            "output_eval": encode_in_numpy(weights, frames, HEADS).astype(np.float32),
        }
    )


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_sizes_come_from_the_shapes(weights):
    config, num_mels = infer_config(weights)
    assert (config.dim, config.num_layers, config.conv_kernel, config.embedding_dim) == (
        DIM,
        LAYERS,
        KERNEL,
        EMBEDDING,
    )
    assert (config.num_heads, num_mels) == (4, MELS)


@pytest.mark.parametrize(
    ("dim", "heads"), [(24, 4), (256, 4), (512, 8), (768, 12)]
)  # the last three: the paper's
def test_heads_have_64_dims_but_are_4_at_least(dim, heads):
    arrays = {
        "input.weight": np.zeros((dim, 1)),
        "output.weight": np.zeros((1, dim)),
        "layers.0.conv.depthwise.weight": np.zeros((dim, 1, 5)),
    }
    assert infer_config(arrays)[0].num_heads == heads


def test_every_weight_has_one_place(weights):
    encoder = load_torch_encoder(weights)
    paths = [target.path for target in map_torch_names(LAYERS).values()]
    assert len(set(paths)) == len(paths)
    assert set(paths) == {path for path, _ in nnx.to_flat_state(nnx.state(encoder))}
    assert num_parameters(encoder) == sum(
        v.size for name, v in weights.items() if "running" not in name
    )


@pytest.mark.parametrize("heads", [None, 2, 8])
def test_output_is_numpys(weights, heads):
    frames = np.random.default_rng(2).normal(size=(2, 9, MELS)).astype(np.float32)
    expected = encode_in_numpy(weights, frames, heads or HEADS)
    np.testing.assert_allclose(
        load_torch_encoder(weights, num_heads=heads)(frames), expected, atol=2e-6
    )


def test_half_precision_weights_become_float32(weights):
    encoder = load_torch_encoder(
        {name: value.astype(np.float16) for name, value in weights.items()}
    )
    assert {leaf.dtype.name for _, leaf in nnx.to_flat_state(nnx.state(encoder))} == {"float32"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layers.1.attn.in_proj_bias": None, "output.bias": None},
            r"2 weights are missing: output\.bias, layers\.1\.attn\.in_proj_bias",
        ),
        ({"input.weight": None}, r"input\.weight is missing"),
        ({"output.weight": None}, r"output\.weight is missing"),
        ({"layers.0.conv.depthwise.weight": None}, r"depthwise\.weight is missing"),
        (
            {"layers.0.ffn3.bias": np.zeros(3)},
            r"unexpected weights: layers\.0\.ffn3\.bias; did you mean",
        ),
        ({"layers.3.final_norm.bias": np.zeros(DIM)}, r"without a gap, found layers \[0, 1, 3\]"),
        ({"input.weight": np.zeros(4)}, r"input\.weight has shape \(4,\), expected 2 axes"),
        ({"output.weight": np.zeros((6, DIM + 1))}, r"output\.weight has shape \(6, 25\)"),
        (
            {"layers.1.conv.depthwise.weight": np.zeros((DIM, 2, KERNEL))},
            r"layers\.1\.conv\.depthwise\.weight has shape",
        ),
        (
            {"layers.1.conv.pointwise_in.weight": np.zeros((2 * DIM, DIM))},
            r"pointwise_in\.weight has shape \(48, 24\)",
        ),
        (
            {"layers.1.attn.in_proj_weight": np.zeros((DIM, 3 * DIM))},
            r"in_proj_weight has shape \(24, 72\)",
        ),
        ({"layers.0.conv.depthwise.weight": np.zeros((DIM, 1, 4))}, r"kernel of 4; only odd"),
        ({"input.bias": np.zeros(DIM, int)}, r"input\.bias is int64, expected floats"),
        ({"input.bias": np.full(DIM, np.nan)}, r"input\.bias contains NaN"),
    ],
)
def test_unusable_weights_are_named(weights, change, message):
    arrays = {name: value for name, value in (weights | change).items() if value is not None}
    with pytest.raises(WeightsError, match=message):
        load_torch_encoder(arrays)


@pytest.mark.parametrize("heads", [5, 0, -4])
def test_heads_must_divide_the_dim(weights, heads):
    with pytest.raises(WeightsError, match=rf"dim of 24 does not divide into {heads} heads"):
        load_torch_encoder(weights, num_heads=heads)


def test_no_layers(weights):
    with pytest.raises(WeightsError, match=r"expected layers\.0"):
        load_torch_encoder({name: value for name, value in weights.items() if "layers" not in name})


def test_cli_agrees(tmp_path, checkable, capsys):
    assert main([save(tmp_path / "good.npz", checkable), "--check"]) == 0
    out = capsys.readouterr().out
    assert "dim 24, 2 layers, 4 heads, kernel 3, 10 mels, embedding 6" in out
    assert float(out.split("largest absolute difference ")[1].split(",")[0]) <= 2e-5


def test_cli_says_what_it_is_without_check(tmp_path, weights, capsys):
    assert main([save(tmp_path / "weights.npz", weights)]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["input.weight", "layers.1.conv.norm.running_var", "output_eval"])
def test_cli_sees_a_perturbed_file(tmp_path, checkable, capsys, name):
    checkable[name].flat[0] += np.float32(1e-2)
    assert main([save(tmp_path / "bad.npz", checkable), "--check"]) == 1
    assert "above 2e-05" in capsys.readouterr().out


def test_cli_takes_other_heads(tmp_path, checkable, capsys):
    path = save(tmp_path / "good.npz", checkable)
    assert main([path, "--check", "--heads", "2"]) == 1  # another model
    checkable["output_eval"] = encode_in_numpy(checkable, checkable["input"], 2).astype(np.float32)
    assert main([save(tmp_path / "two.npz", checkable), "--check", "--heads", "2"]) == 0
    assert main([path, "--check", "--heads", "5"]) == 2
    assert "does not divide into 5 heads" in capsys.readouterr().err


def test_cli_does_not_pass_nan(tmp_path, checkable):
    checkable["output_eval"] = np.full_like(checkable["output_eval"], np.nan)
    assert main([save(tmp_path / "nan.npz", checkable), "--check"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": None}, "input missing"),
        ({"output_eval": None}, "output_eval missing"),
        (
            {"input": np.zeros((3, MELS), np.float32)},
            "input has shape (3, 10), expected [B, T, 10]",
        ),
        ({"input": np.zeros((0, 5, MELS), np.float32)}, "input has shape (0, 5, 10)"),
        (
            {"output_eval": np.zeros((3, 7), np.float32)},
            "output_eval has shape (3, 7), expected (3, 6)",
        ),
        ({"output.bias": None}, "weights are missing: output.bias"),
    ],
)
def test_cli_names_what_is_wrong(tmp_path, checkable, capsys, change, message):
    arrays = {name: value for name, value in (checkable | change).items() if value is not None}
    assert main([save(tmp_path / "file.npz", arrays), "--check"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err


def test_read_refuses_what_is_no_npz(tmp_path):
    text = tmp_path / "text.npz"
    cut = tmp_path / "cut.npz"
    pickled = tmp_path / "pickled.npz"
    text.write_text("not weights")
    np.savez(cut, a=np.arange(1000))
    cut.write_bytes(cut.read_bytes()[:-500])
    np.savez(pickled, a=np.array([{}], dtype=object))
    for path, message in (
        (text, "not an .npz"),
        (cut, "not an .npz"),
        (pickled, "cannot be read"),
        (tmp_path, "no such file"),
    ):
        with pytest.raises(WeightsError, match=message) as raised:
            read_npz(path)
        assert str(path) in str(raised.value)


def test_a_corrupt_member_is_an_error(tmp_path):
    path = tmp_path / "flipped.npz"
    np.savez(path, a=np.arange(1000))
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF  # inside the array: its checksum no longer fits
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_npz(path)


def test_module_runs_from_the_shell(tmp_path, checkable):
    path = save(
        tmp_path / "good.npz",
        checkable | {"output_eval": checkable["output_eval"] * np.float32(0.9)},
    )
    done = subprocess.run(
        [sys.executable, "-m", "confp_jax.model.from_torch", path, "--check"],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).resolve().parents[2],
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "largest absolute difference" in done.stdout
