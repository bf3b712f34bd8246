"""The encoder in ONNX Runtime: without JAX, ready at once, the default on CPUs."""

import pathlib

import numpy as np
import onnxruntime
from jaxtyping import Float32, Int32

from confp_jax.fingerprint.windows import batch_shapes
from confp_jax.model.errors import CheckpointError
from confp_jax.model.onnx_file import IDENTITY, check_made_of, read_config, read_onnx


class OnnxEngine:
    """An encoder as `confp export --onnx` wrote it (`Engine`)."""

    def __init__(self, file: pathlib.Path):
        self.name = "int8" if file.name.endswith(".int8.onnx") else "onnx"
        self._session = _session(file, read_onnx(file))
        metadata = self._session.get_modelmeta().custom_metadata_map
        check_made_of(file, metadata)
        self.config = read_config(file, metadata)
        self.weights_hash = metadata[IDENTITY]
        self.batch_shapes = batch_shapes(self.config.num_tokens, on_cpu=True)
        self._nothing = {
            put.name: np.zeros((0, *put.shape[1:]), np.int32 if put.name == "seen" else np.float32)
            for put in self._session.get_inputs()
        }
        self._has_both = len(self._session.get_outputs()) > 1

    def conform(
        self, power: Float32[np.ndarray, "B T F"], seen: Int32[np.ndarray, "B 2"]
    ) -> Float32[np.ndarray, "B E"]:
        """Returns what the conformer gives for mel power, of the frames `seen`: unit vectors."""
        return self._run("conformed", power=power, seen=seen)

    def project(self, contrast: Float32[np.ndarray, "B T F"]) -> Float32[np.ndarray, "B E"]:
        """Returns what the projection gives for segments of local contrast."""
        return self._run("projected", contrast=contrast)

    def _run(self, output: str, **inputs: np.ndarray) -> Float32[np.ndarray, "B E"]:
        """The other part gets no windows: ONNX Runtime computes the whole graph."""
        name = output if self._has_both else "fingerprint"
        found = self._session.run([name], self._nothing | inputs)
        return np.asarray(found[0])


def _session(file: pathlib.Path, data: bytes) -> onnxruntime.InferenceSession:
    """One thread each: several batches run at once instead."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Where the CPU's sums of int8 products overflow (before VNNI), exact ones are used.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{file}: ONNX Runtime cannot read it ({reason})") from error
