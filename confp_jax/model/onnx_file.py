"""What an ONNX file of ours holds beside the graph: configuration, weights hash, checksum. It needs
neither JAX nor `onnx`.
"""

import pathlib
import zlib
from collections.abc import Mapping

from confp_jax.config import ModelConfig
from confp_jax.model.errors import CheckpointError, DamagedArraysError
from confp_jax.texts import parse_json
from confp_jax.typed_config import from_mapping

CONFIG, IDENTITY, CHECKPOINT, CHECKSUM = (
    f"confp_jax.{name}" for name in ("config", "identity", "checkpoint", "checksum")
)
NO_CHECKSUM = "0" * 8  # what stands for the checksum while it is computed
_AGAIN = "copy it again, or make it with `confp export MODEL --onnx FILE`"


def sealed(data: bytes) -> bytes:
    """Returns a file's bytes with the checksum of all others in its place."""
    first, last = _place(data)
    return data[:first] + _checksum(data) + data[last:]


def read_onnx(file: pathlib.Path) -> bytes:
    """Reads a file that `confp export` wrote.

    Raises:
      CheckpointError: it cannot be read, is another's, or is damaged.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    if CHECKSUM.encode() not in data:
        raise CheckpointError(f"{file} was not made by confp, or is cut off; {_AGAIN}")
    first, last = _place(data)
    if data[first:last] != _checksum(data):
        raise DamagedArraysError(f"{file} is damaged: its checksum is another; {_AGAIN}")
    return data


def check_made_of(file: pathlib.Path, metadata: Mapping[str, str]) -> None:
    """Compares an ONNX file with the checkpoint that lies beside it, if there is one.

    Raises:
      CheckpointError: it was made of another checkpoint.
    """
    beside = file.parent / "checkpoint"
    if beside.is_dir() and metadata[CHECKPOINT] != checkpoint_checksum(beside):
        raise CheckpointError(
            f"{file} was made of other weights than those in {beside}; make it again with "
            f"`confp export {file.parent} --onnx {file}`"
        )


def checkpoint_checksum(folder: pathlib.Path) -> str:
    """Returns the checksum of the arrays that was saved in an Orbax checkpoint, "" if none was."""
    try:
        found = parse_json((folder / "_CHECKPOINT_METADATA").read_text())
        return found["custom_metadata"]["checksums"]["encoder"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def read_config(file: pathlib.Path, metadata: Mapping[str, str]) -> ModelConfig:
    """Returns the configuration.

    Raises:
      CheckpointError: the file has none, or one of another version.
    """
    try:
        return from_mapping(ModelConfig, parse_json(metadata[CONFIG]))
    except (KeyError, ValueError) as error:  # ConfigError is one
        raise CheckpointError(f"{file}: no usable configuration ({error}); {_AGAIN}") from error


def _place(data: bytes) -> tuple[int, int]:
    """Returns where the checksum lies: behind its key, the value's tag and the value's length."""
    key = CHECKSUM.encode()
    first = data.rfind(key) + len(key) + 2
    return first, first + len(NO_CHECKSUM)


def _checksum(data: bytes) -> bytes:
    first, last = _place(data)
    begun = zlib.crc32(NO_CHECKSUM.encode(), zlib.crc32(memoryview(data)[:first]))
    return f"{zlib.crc32(memoryview(data)[last:], begun):08x}".encode()
