"""Writes an encoder as one ONNX file, for ONNX Runtime here and in other languages."""

import dataclasses
import json
import pathlib
import tempfile

import onnx
from flax import nnx

from confp_jax.config import ModelConfig
from confp_jax.model import onnx_file
from confp_jax.model.errors import CheckpointError
from confp_jax.model.onnx_graph import encoder_model
from confp_jax.model.shipped import shipped_folder, shipped_models
from confp_jax.model.weights import (
    EncoderState,
    hash_weights,
    load_encoder_state,
    saved_checksum,
)


def export_model(model: str, file: pathlib.Path, *, is_int8: bool = False) -> str:
    """Writes a shipped model or a checkpoint folder as an ONNX file; returns its weights
    hash.

    Raises:
      CheckpointError: there is no checkpoint, or the file cannot be written.
    """
    source = shipped_folder(model) if model in shipped_models() else pathlib.Path(model)
    config, state = load_encoder_state(source)
    try:
        return write_onnx(file, config, state, is_int8=is_int8)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}; nothing was written") from error


def write_onnx(
    file: pathlib.Path, config: ModelConfig, state: EncoderState, *, is_int8: bool = False
) -> str:
    """Writes an encoder; returns its weights hash.

    With `is_int8` the matrices are stored as int8, and activations are quantised as they come.
    """
    params, statistics = (nnx.to_pure_dict(group) for group in state)
    model = encoder_model(config, params, statistics, is_compact=not is_int8)
    model = _quantised(model) if is_int8 else model
    weights_hash = hash_weights(config, state)
    onnx.helper.set_model_props(
        model,
        {
            onnx_file.CONFIG: json.dumps(dataclasses.asdict(config), sort_keys=True),
            onnx_file.IDENTITY: weights_hash,
            onnx_file.CHECKPOINT: saved_checksum(state),
            onnx_file.CHECKSUM: onnx_file.NO_CHECKSUM,
        },
    )
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(onnx_file.sealed(model.SerializeToString(deterministic=True)))
    part.replace(file)
    return weights_hash


def _quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Dynamic int8, a scale for each column of a matrix."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            out,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(out)
