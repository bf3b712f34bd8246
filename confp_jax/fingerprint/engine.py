"""What computes an encoder: ONNX Runtime (float32 or int8) or JAX, and which by default."""

import importlib.util
import os
import pathlib
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int32

from confp_jax.config import ModelConfig
from confp_jax.errors import UserError
from confp_jax.model.addresses import is_remote

ENGINES = ("onnx", "int8", "jax")
ENGINE_VARIABLE = "CONFP_ENGINE"
# Packages that bring JAX an accelerator, and the devices that show one.
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
_DEVICES = ("/dev/nvidia0", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")


class EngineError(UserError):
    """An engine that cannot be had; the message says what is missing."""


class Engine(Protocol):
    """An encoder's two parts, ready to compute; several threads may call them at once."""

    name: str
    config: ModelConfig
    weights_hash: str  # `model.weights.hash_weights`

    @property
    def batch_shapes(self) -> tuple[int, ...]:
        """Returns how many windows are best conformed together, rising from 1."""
        ...

    def conform(
        self, power: Float32[np.ndarray, "B T F"], seen: Int32[np.ndarray, "B 2"]
    ) -> Float32[np.ndarray, "B E"]:
        """Returns what the conformer gives for mel power, of the frames `seen`: unit vectors."""
        ...

    def project(self, contrast: Float32[np.ndarray, "B T F"]) -> Float32[np.ndarray, "B E"]:
        """Returns what the projection gives for segments of local contrast."""
        ...


def load_engine(folder: pathlib.Path, engine: str | None = None) -> Engine:
    """Loads an encoder.

    Args:
      folder: a checkpoint folder, or an ONNX file.
      engine: one of ENGINES, or None: what CONFP_ENGINE names, or the faster one on this machine.

    Raises:
      EngineError: that engine is unknown or not installed, or has no file of this model.
      CheckpointError: no encoder of this project, or a damaged one.
    """
    wanted = chosen_engine(folder, engine)
    file = onnx_file(folder, is_int8=wanted == "int8")
    if file and wanted != "jax":
        from confp_jax.fingerprint.onnx_engine import OnnxEngine

        return OnnxEngine(file)
    from confp_jax.fingerprint.jax_engine import load_jax_engine

    return load_jax_engine(folder)


def chosen_engine(folder: pathlib.Path, engine: str | None = None) -> str:
    """Returns the engine that runs a model: JAX on an accelerator, else ONNX Runtime in float32.

    Raises:
      EngineError: the engine asked for cannot run it here, or none can.
    """
    source = f"{ENGINE_VARIABLE}=" if engine is None else "engine "
    wanted = engine or os.environ.get(ENGINE_VARIABLE) or "auto"
    if wanted not in (*ENGINES, "auto"):
        raise EngineError(f"{source}{wanted!r} is unknown; expected auto, onnx, int8 or jax")
    refused = {
        "onnx": _why_not_onnx(onnx_file(folder)),
        "int8": _why_not_onnx(onnx_file(folder, is_int8=True)),
        "jax": _why_not_jax(folder),
    }
    if wanted != "auto":
        if refused[wanted]:
            raise EngineError(f"{source}{wanted}: {refused[wanted]}")
        return wanted
    best = ("jax", "onnx") if has_accelerator() else ("onnx", "jax")
    found = next((name for name in best if not refused[name]), None)
    if found is None:
        raise EngineError(f"{refused['jax']}; {refused['onnx']}")
    return found


def check_jax(model: str) -> None:
    """Checks whether JAX can be had for a checkpoint.

    Raises:
      EngineError: it is not installed.
    """
    refused = _why_not_jax(pathlib.Path(model))
    if refused:
        raise EngineError(refused)


def onnx_file(folder: pathlib.Path, *, is_int8: bool = False) -> pathlib.Path | None:
    """Returns where the ONNX file of a checkpoint folder lies, if it has one: NAME.onnx in folder
    NAME, or NAME.int8.onnx.

    None for a bucket's; for a file it is the file itself.
    """
    if is_remote(folder):
        return None
    folder = folder.absolute()
    if folder.suffix == ".onnx":
        return folder
    return folder / f"{folder.name}{'.int8' if is_int8 else ''}.onnx"


def has_accelerator() -> bool:
    """Returns whether JAX could use a GPU or TPU here; JAX itself is not asked, as that takes a
    second.
    """
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0] != "cpu"
    return any(map(_is_installed, _PLUGINS)) and any(
        pathlib.Path(device).exists() for device in _DEVICES
    )


def _why_not_onnx(file: pathlib.Path | None) -> str:
    if file is None:
        return "a bucket's model runs in JAX; copy its ONNX file to this machine"
    if not file.is_file():
        option = " --int8" if file.name.endswith(".int8.onnx") else ""
        return (
            f"{file}: no such file; `confp export MODEL --onnx {file}{option}` makes it, where "
            "JAX is"
        )
    if not _is_installed("onnxruntime"):
        return f"{file} needs ONNX Runtime: pip install onnxruntime"
    return ""


def _why_not_jax(folder: pathlib.Path) -> str:
    if folder.suffix == ".onnx":
        return f"{folder} is an ONNX file, which JAX does not read"
    missing = [name for name in ("jax", "flax", "orbax.checkpoint") if not _is_installed(name)]
    if missing:
        return f"{folder} is a checkpoint of Orbax, which needs JAX: pip install 'confp-jax[jax]'"
    return ""


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
