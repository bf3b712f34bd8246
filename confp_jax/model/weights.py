"""An encoder's arrays as Orbax keeps them: save, load, name.

The configuration travels inside, as JSON.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from etils import epath
from flax import nnx
from orbax.checkpoint import v1 as ocp

from confp_jax.config import ModelConfig, TrainConfig
from confp_jax.model.addresses import is_remote
from confp_jax.model.checksums import checksums, differing
from confp_jax.model.encoder import Encoder
from confp_jax.model.errors import CheckpointError, DamagedArraysError
from confp_jax.model.forked import check_not_forked
from confp_jax.model.readable import check_readable
from confp_jax.model.remote import copied_here

UNREADABLE = (
    KeyError,
    TypeError,
    ValueError,
    OSError,
)  # what Orbax raises for missing, cut and overwritten files


class EncoderState(NamedTuple):
    """The arrays of an encoder."""

    params: nnx.State
    statistics: nnx.State  # BatchNorm's running mean and variance


def save_encoder(
    folder: epath.PathLike, config: TrainConfig, state: EncoderState, *, dtype: str = "float32"
) -> None:
    """Writes an encoder alone, for inference, its arrays as `dtype` ("float32", "float16" or
    "bfloat16").
    """
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype), state._asdict())
    read = jax.tree.map(lambda leaf: leaf.astype("float32"), stored)  # as it will be read
    ocp.save_checkpointables(
        str(absolute_path(folder)),
        {"encoder": stored},
        custom_metadata=metadata_of(config, {"encoder": read}),
    )


def load_encoder_state(folder: epath.PathLike) -> tuple[ModelConfig, EncoderState]:
    """Returns what decides an encoder's fingerprints: configuration and arrays, as
    `load_trained_encoder` reads them.
    """
    config, state = load_trained_encoder(folder)
    return config.model, state


def load_trained_encoder(folder: epath.PathLike) -> tuple[TrainConfig, EncoderState]:
    """Returns how an encoder was trained, and its arrays (float32, on the first device).

    Args:
      folder: what `save_encoder` wrote, an exported model's with that in it, a run's workdir (its
        newest checkpoint), or one step of it; here or in a bucket.

    Raises:
      CheckpointError: no such folder, no checkpoint of this project in it, or a damaged one.
    """
    check_not_forked()
    path = _checkpoint_path(absolute_path(folder))
    with orbax_is_quiet():
        try:
            return _load_encoder(path)
        except DamagedArraysError:
            raise
        except UNREADABLE as error:
            reason = reason_of(error)
        gc.collect()  # what Orbax left behind complains now
    raise CheckpointError(
        f"{folder}: no confp_jax encoder could be read ({reason}); name a run's workdir, one of "
        "its checkpoints, or a model that ships (`confp models`)"
    )


def _load_encoder(path: epath.Path) -> tuple[TrainConfig, EncoderState]:
    with copied_here(path) as here:
        check_readable(pathlib.Path(here))
        metadata = read_metadata(here)
        check_metadata(metadata, {}, path)
        config = TrainConfig.from_json(metadata["config"])
        wanted = jax.tree.map(template, abstract_encoder(config.model)._asdict())
        found = ocp.load_checkpointables(str(here), {"encoder": wanted})
    check_metadata(metadata, found, path)
    return config, EncoderState(**found["encoder"])


@contextlib.contextmanager
def orbax_is_quiet() -> Iterator[None]:
    """Keeps Orbax from telling what the error that it raises says: logs with whole files in them,
    and complaints of the tasks that a failed read leaves behind.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def hash_weights(config: ModelConfig, state: EncoderState) -> str:
    """Returns 16 hex digits that name the weights and everything before them: two encoders with
    the same hash agree.
    """
    groups = [_distinguishing(group) for group in (config.audio, config.mel, config.encoder)]
    digest = hashlib.sha256(json.dumps(groups, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()[:16]


# What decides how a model is trained or run, and not what its fingerprints are.
_INDIFFERENT = frozenset({"dropout", "query_phases"})


def _distinguishing(group: Any) -> dict[str, Any]:
    """Returns a configuration's fields that are not at their default: a later version's new field
    must not rename every model.
    """
    found = {}
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if field.name not in _INDIFFERENT and value != field.default:
            found[field.name] = _distinguishing(value) if dataclasses.is_dataclass(value) else value
    return found


def abstract_encoder(config: ModelConfig) -> EncoderState:
    """Shapes and types of an encoder's arrays, without arrays."""
    model = nnx.eval_shape(
        lambda: Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(0))
    )
    _, params, statistics = nnx.split(model, nnx.Param, ...)
    return EncoderState(params, statistics)


def template(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns what to restore: an array's shape, type and place; the first of this process where it
    has none yet.
    """
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(leaf, jax.Array):
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def metadata_of(config: TrainConfig, trees: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what lies beside a checkpoint's arrays: the configuration, and checksums of all."""
    text = config.to_json()
    return {"config": text, "checksums": checksums(trees, config=text)}


def saved_checksum(state: EncoderState) -> str:
    """Returns the checksum of an encoder's arrays, as its checkpoint has it."""
    return checksums({"encoder": state._asdict()}, config="")["encoder"]


def read_metadata(step_folder: epath.Path) -> dict[str, Any]:
    """Returns what `metadata_of` gave when a checkpoint was saved. Only the encoder's metadata is
    asked for: Grain's iterator has none and warns.
    """
    found = ocp.metadata(str(step_folder), checkpointable_name="encoder").custom_metadata
    return cast(dict[str, Any], found)


def check_metadata(
    metadata: Mapping[str, Any], trees: Mapping[str, Any], folder: epath.Path
) -> None:
    """Compares what was read, and the configuration, with the checksums of what was saved.

    Raises:
      DamagedArraysError: something differs.
    """
    found = checksums(trees, config=metadata["config"])
    names = differing(found, metadata.get("checksums"))
    if names:
        raise DamagedArraysError(
            f"{folder} is damaged: {' and '.join(names)} differ from what was saved (checksums); "
            "copy or download it again"
        )


def reason_of(error: Exception) -> str:
    """Returns the kind of error and the first line of its message: Orbax's can hold the whole
    tree.
    """
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def absolute_path(folder: epath.PathLike) -> epath.Path:
    """A folder of this machine made absolute, as Orbax wants it; a bucket's (gs://) as it is."""
    path = epath.Path(folder)
    return path if is_remote(folder) else path.expanduser().absolute()


def is_reachable_folder(folder: epath.PathLike) -> bool:
    """Returns whether there is such a folder.

    Raises:
      CheckpointError: it is a bucket's, and the bucket does not answer.
    """
    try:
        return epath.Path(folder).is_dir()
    except Exception as error:  # whatever a store's client raises
        if not is_remote(folder):
            raise
        raise CheckpointError(
            f"{folder}: the bucket cannot be read ({reason_of(error)}); log in to it, and install "
            "what speaks to it (gcsfs for gs://, s3fs for s3://)"
        ) from error


def complete_steps(folder: epath.Path) -> list[int]:
    """Returns the steps that a run's `checkpoints` folder holds, ascending; unfinished saves have
    other names.
    """
    return (
        sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        if folder.is_dir()
        else []
    )


def _checkpoint_path(folder: epath.Path) -> epath.Path:
    """Returns the step to load: the folder itself, that of an exported model, or the newest
    complete step of a run.
    """
    if not is_reachable_folder(folder):
        raise CheckpointError(
            f"{folder}: no such checkpoint folder; `confp models` lists the models that ship"
        )
    if (folder / "checkpoint").is_dir():
        return folder / "checkpoint"
    for run in (folder / "checkpoints", folder):
        steps = complete_steps(run)
        if steps:
            return run / str(steps[-1])
    return folder
