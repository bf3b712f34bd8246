"""The encoder in JAX: the reference, and the engine for accelerators and checkpoints of Orbax."""

import pathlib
from typing import cast

import jax
import numpy as np
from jaxtyping import Float32, Int32

from confp_jax.config import ModelConfig
from confp_jax.fingerprint.windows import batch_shapes
from confp_jax.model.compiler import has_fast_bfloat16
from confp_jax.model.conformer import with_narrow_kernels
from confp_jax.model.inference import embed, project
from confp_jax.model.weights import (
    EncoderState,
    absolute_path,
    hash_weights,
    is_reachable_folder,
    load_encoder_state,
)

_PROJECTED = (8, 32)  # segments of one matrix product


class JaxEngine:
    """An encoder compiled by XLA, for a few sizes of batches (`Engine`)."""

    name = "jax"

    def __init__(self, config: ModelConfig, state: EncoderState):
        self.config = config
        self.state = state
        self.weights_hash = hash_weights(config, state)
        self._params = with_narrow_kernels(state.params) if has_fast_bfloat16() else state.params
        on_cpu = jax.default_backend() == "cpu"
        self.batch_shapes = batch_shapes(config.num_tokens, on_cpu=on_cpu)

    def conform(
        self, power: Float32[np.ndarray, "B T F"], seen: Int32[np.ndarray, "B 2"]
    ) -> Float32[np.ndarray, "B E"]:
        """Returns what the conformer gives for mel power, of the frames `seen`: unit vectors."""
        missing = next(s for s in self.batch_shapes if s >= len(power)) - len(power)
        power = np.pad(power, ((0, missing), (0, 0), (0, 0)), constant_values=1)
        seen = np.pad(seen, ((0, missing), (0, 0)), mode="edge")
        found = embed(self._params, self.state.statistics, power, seen, config=self.config)
        return np.asarray(found)[: len(found) - missing]

    def project(self, contrast: Float32[np.ndarray, "B T F"]) -> Float32[np.ndarray, "B E"]:
        """Returns what the projection gives for segments of local contrast."""
        missing = next(s for s in (*_PROJECTED, len(contrast)) if s >= len(contrast))
        missing -= len(contrast)
        padded = np.pad(contrast, ((0, missing), (0, 0), (0, 0)))
        found = project(self._params, self.state.statistics, padded, config=self.config)
        return np.asarray(found)[: len(found) - missing]


def bucket_folder(address: str) -> pathlib.Path | None:
    """Returns a folder in a bucket, None if it does not exist. It is used like a `pathlib.Path`.

    Raises:
      CheckpointError: the bucket does not answer.
    """
    folder = absolute_path(address)
    return cast(pathlib.Path, folder) if is_reachable_folder(folder) else None


def load_jax_engine(folder: pathlib.Path) -> JaxEngine:
    """Loads a checkpoint.

    Raises:
      CheckpointError: the folder holds no encoder of this project, or a damaged one.
    """
    return JaxEngine(*load_encoder_state(folder))
