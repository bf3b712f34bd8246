"""Loads weights with PyTorch's names into our encoder.

The layout is torchaudio's conformer (docs/research/paper.md, "conformer block").

    python -m confp_jax.model.from_torch FILE.npz --check

The file is an .npz of a `state_dict()`: Linear weights [out, in], Conv1d weights [out, in /
groups, k], `in_proj_weight` with Q, K and V stacked. For --check it also holds `input` [B, T, F]
and `output_eval` [B, E], what PyTorch made of it in eval mode.
"""

import argparse
import pathlib
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from confp_jax.config import EncoderConfig
from confp_jax.errors import UserError
from confp_jax.model.encoder import Encoder, num_parameters
from confp_jax.typed_config import suggestion

TOLERANCE = 2e-5  # float32, on coordinates of unit vectors
_LAYER = re.compile(r"layers\.(\d+)\.")
_EXTRAS = (
    "input",
    "output_eval",
    "output_train",
    "loss",
    "grad_input",
)  # what golden files hold beside the weights


class WeightsError(UserError):
    """Weights that do not make an encoder; the message names the array, what was expected and what
    was found.
    """


class Target(NamedTuple):
    """Where a PyTorch array goes: the path in `nnx.state(encoder)`, and how to lay it out (weights
    and gradients alike).
    """

    path: tuple[str | int, ...]
    arrange: Callable[[np.ndarray], np.ndarray]


def map_torch_names(num_layers: int) -> dict[str, Target]:
    """PyTorch name -> our place, for every parameter and running statistic of an encoder with
    `num_layers` blocks.
    """
    targets = _linear("input", ("input",)) | _linear("output", ("output",))
    for i in range(num_layers):
        torch = f"layers.{i}."
        ours = ("layers", i)
        for theirs, block in (("ffn1", "feed_forward_1"), ("ffn2", "feed_forward_2")):
            targets |= _norm(f"{torch}{theirs}.sequential.0", (*ours, block, "norm"))
            targets |= _linear(f"{torch}{theirs}.sequential.1", (*ours, block, "inner"))
            targets |= _linear(f"{torch}{theirs}.sequential.4", (*ours, block, "outer"))
        targets |= _norm(f"{torch}attn_norm", (*ours, "attention", "norm"))
        targets[f"{torch}attn.in_proj_weight"] = Target(
            (*ours, "attention", "qkv", "kernel"), np.transpose
        )
        targets[f"{torch}attn.in_proj_bias"] = Target(
            (*ours, "attention", "qkv", "bias"), np.asarray
        )
        targets |= _linear(f"{torch}attn.out_proj", (*ours, "attention", "outer"))
        conv = (*ours, "convolution")
        targets |= _norm(f"{torch}conv.layer_norm", (*conv, "norm"))
        targets |= _pointwise(f"{torch}conv.pointwise_in", (*conv, "inner"))
        targets[f"{torch}conv.depthwise.weight"] = Target(
            (*conv, "depthwise_kernel"), lambda w: w.squeeze(1).T
        )
        targets[f"{torch}conv.depthwise.bias"] = Target((*conv, "depthwise_bias"), np.asarray)
        targets |= _norm(f"{torch}conv.norm", (*conv, "batch_norm"))
        targets[f"{torch}conv.norm.running_mean"] = Target(
            (*conv, "batch_norm", "mean"), np.asarray
        )
        targets[f"{torch}conv.norm.running_var"] = Target((*conv, "batch_norm", "var"), np.asarray)
        targets |= _pointwise(f"{torch}conv.pointwise_out", (*conv, "outer"))
        targets |= _norm(f"{torch}final_norm", (*ours, "norm"))
    return targets


def infer_config(
    arrays: Mapping[str, np.ndarray], *, num_heads: int | None = None
) -> tuple[EncoderConfig, int]:
    """Returns the encoder's configuration and its number of mels, from the shapes of its weights;
    dropout is off.

    Heads leave no trace in the shapes: 64 dims each and at least 4, unless `num_heads` says
    otherwise.

    Raises:
      WeightsError: an array that gives a size is missing or has the wrong rank, or the heads do
        not divide the dim.
    """
    layers = {int(found[1]) for name in arrays if (found := _LAYER.match(name))}
    if layers != set(range(len(layers))) or not layers:
        raise WeightsError(
            f"expected layers.0, layers.1, ... without a gap, found layers {sorted(layers)}"
        )
    dim, num_mels = _shape(arrays, "input.weight", 2)
    embedding_dim, _ = _shape(arrays, "output.weight", 2)
    *_, conv_kernel = _shape(arrays, "layers.0.conv.depthwise.weight", 3)
    heads = max(4, dim // 64) if num_heads is None else num_heads
    if heads < 1 or dim % heads:
        raise WeightsError(
            f"a dim of {dim} does not divide into {heads} heads; give the right number (--heads)"
        )
    if conv_kernel % 2 == 0:
        raise WeightsError(
            f"layers.0.conv.depthwise.weight has a kernel of {conv_kernel}; only odd kernels keep "
            "a frame's place"
        )
    config = EncoderConfig(
        dim=dim,
        num_layers=len(layers),
        num_heads=heads,
        conv_kernel=conv_kernel,
        embedding_dim=embedding_dim,
        dropout=0.0,
    )
    return config, num_mels


def load_torch_encoder(
    arrays: Mapping[str, np.ndarray], *, num_heads: int | None = None
) -> Encoder:
    """Returns an encoder with the weights and running statistics of `arrays`, which are under
    PyTorch's names.

    Counters (`num_batches_tracked`), gradients (`grad:...`) and the inputs and outputs of a golden
    file are passed over.

    Raises:
      WeightsError: weights are missing, unknown, of the wrong shape or no finite floats, or the
        heads do not divide the dim.
    """
    config, num_mels = infer_config(arrays, num_heads=num_heads)
    targets = map_torch_names(config.num_layers)
    given = [
        n
        for n in arrays
        if n not in _EXTRAS and not n.startswith("grad:") and not n.endswith(".num_batches_tracked")
    ]
    if missing := [name for name in targets if name not in arrays]:
        raise WeightsError(f"{len(missing)} weights are missing: {_listed(missing)}")
    if unexpected := [name for name in given if name not in targets]:
        raise WeightsError(
            f"{len(unexpected)} unexpected weights: "
            f"{_listed(unexpected)}{suggestion(unexpected[0], targets)}"
        )
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: Encoder(config, num_mels=num_mels, rngs=nnx.Rngs(0)))
    )
    empty = dict(nnx.to_flat_state(state))
    for name, (path, arrange) in targets.items():
        empty[path] = empty[path].replace(
            jnp.asarray(_fit(name, arrays[name], arrange, empty[path].shape))
        )
    return nnx.merge(graphdef, nnx.from_flat_state(empty))


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every array of an .npz file; nothing is unpickled.

    Raises:
      WeightsError: no such file, no .npz, damaged, or an array of Python objects.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    remedy = "write it with numpy.savez(path, **{name: weight.numpy() ...})"
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path}: not an .npz file; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); {remedy}") from error


def compare_output(encoder: Encoder, arrays: Mapping[str, np.ndarray]) -> float:
    """Returns the largest absolute difference between `output_eval` and what `encoder` makes of
    `input`, in float32.

    Raises:
      WeightsError: `input` or `output_eval` is missing or does not fit the encoder.
    """
    num_mels = encoder.input.in_features
    embedding_dim = encoder.output.out_features
    if absent := [name for name in ("input", "output_eval") if name not in arrays]:
        raise WeightsError(
            f"nothing to check against: {_listed(absent)} missing; the file needs input and "
            "output_eval"
        )
    frames = arrays["input"]
    expected = arrays["output_eval"]
    if frames.ndim != 3 or 0 in frames.shape or frames.shape[-1] != num_mels:
        raise WeightsError(
            f"input has shape {frames.shape}, expected [B, T, {num_mels}], B and T at least 1"
        )
    if expected.shape != (len(frames), embedding_dim):
        raise WeightsError(
            f"output_eval has shape {expected.shape}, expected ({len(frames)}, {embedding_dim})"
        )
    with jax.default_matmul_precision("highest"):  # accelerators multiply in fewer bits unless told
        found = np.asarray(encoder(jnp.asarray(frames, jnp.float32)))
    return float(np.max(np.abs(found - expected)))


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 if the weights load (and agree), 1 if the outputs differ, 2 if the file
    cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m confp_jax.model.from_torch",
        description="Rebuilds the encoder from PyTorch weights in an .npz file and says what "
        "it is.",
        epilog=f"Exit status: 0 fine, 1 the outputs differ by more than {TOLERANCE:g}, 2 the file "
        "cannot be used.",
    )
    parser.add_argument(
        "file", type=pathlib.Path, help=".npz with a state_dict() under PyTorch's names"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="run the file's `input` and compare with its `output_eval`",
    )
    parser.add_argument(
        "--heads", type=int, metavar="N", help="attention heads (default: 64 dims each, at least 4)"
    )
    options = parser.parse_args(arguments)
    try:
        arrays = read_npz(options.file)
        encoder = load_torch_encoder(arrays, num_heads=options.heads)
        config, num_mels = infer_config(arrays, num_heads=options.heads)
        print(
            f"{options.file}: dim {config.dim}, {config.num_layers} layers, {config.num_heads} "
            f"heads, kernel {config.conv_kernel}, {num_mels} mels, embedding "
            f"{config.embedding_dim}, {num_parameters(encoder):,} parameters"
        )
        if not options.check:
            return 0
        difference = compare_output(encoder, arrays)
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    agrees = difference <= TOLERANCE
    print(
        f"largest absolute difference {difference:.3g}, {'within' if agrees else 'above'} "
        f"{TOLERANCE:g}"
    )
    return 0 if agrees else 1


def _linear(torch: str, path: tuple[str | int, ...]) -> dict[str, Target]:
    return {
        f"{torch}.weight": Target((*path, "kernel"), np.transpose),
        f"{torch}.bias": Target((*path, "bias"), np.asarray),
    }


def _pointwise(torch: str, path: tuple[str | int, ...]) -> dict[str, Target]:
    return _linear(torch, path) | {
        f"{torch}.weight": Target((*path, "kernel"), lambda w: w.squeeze(2).T)
    }


def _norm(torch: str, path: tuple[str | int, ...]) -> dict[str, Target]:
    return {
        f"{torch}.weight": Target((*path, "scale"), np.asarray),
        f"{torch}.bias": Target((*path, "bias"), np.asarray),
    }


def _shape(arrays: Mapping[str, np.ndarray], name: str, rank: int) -> tuple[int, ...]:
    if name not in arrays:
        raise WeightsError(
            f"{name} is missing: are these weights under PyTorch's names, as state_dict() gives "
            "them?"
        )
    shape = arrays[name].shape
    if len(shape) != rank or 0 in shape:
        raise WeightsError(f"{name} has shape {shape}, expected {rank} axes, none empty")
    return shape


def _fit(
    name: str,
    array: np.ndarray,
    arrange: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
) -> Float32[np.ndarray, "..."]:
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(f"{name} is {array.dtype}, expected floats")
    if not np.isfinite(array).all():
        raise WeightsError(f"{name} contains NaN or infinite values")
    try:
        arranged = arrange(array)
    except ValueError:  # squeeze refuses an axis that is absent or longer than 1
        arranged = None
    if arranged is None or arranged.shape != shape:
        raise WeightsError(f"{name} has shape {array.shape}, which does not give our {shape}")
    return np.ascontiguousarray(arranged, np.float32)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


if __name__ == "__main__":
    sys.exit(main())
