"""Orbax: save and resume a run, and the encoder alone for inference. The configuration travels inside, as JSON."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import grain
import jax
import numpy as np
from flax import nnx
from orbax.checkpoint import v1 as ocp

from confp_jax.config import ConfigError, TrainConfig
from confp_jax.model.encoder import Encoder
from confp_jax.training.step import TrainState


class CheckpointError(ValueError):
    """A folder that is no usable checkpoint; the message says why and what to do."""


class Checkpoints:
    """The checkpoints of one run: `restore`, then `save` at every step (the policy decides which)."""

    def __init__(self, checkpointer: ocp.training.Checkpointer, config: TrainConfig):
        self._checkpointer, self._config = checkpointer, config

    @classmethod
    @contextlib.contextmanager
    def open(cls, workdir: str | pathlib.Path, config: TrainConfig) -> Iterator["Checkpoints"]:
        """Opens (or begins) the run's folder; leaves only when the last save is complete."""
        policies = ocp.training.save_decision_policies
        with ocp.training.Checkpointer(
            str(pathlib.Path(workdir).resolve() / "checkpoints"),
            save_decision_policy=cast(Any, policies.FixedIntervalPolicy(config.checkpoint.every_steps)),
            preservation_policy=cast(Any, ocp.training.preservation_policies.LatestN(config.checkpoint.num_kept)),
            cleanup_tmp_directories=True,
        ) as checkpointer:
            yield cls(checkpointer, config)

    def restore(self, state: TrainState, batches: grain.DatasetIterator) -> tuple[TrainState, int]:
        """The newest checkpoint's state and step, with `batches` set to where it stood; (state, 0) if there is none.

        Raises:
          ConfigError: the run was begun with another model.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return state, 0
        saved = _read_config(pathlib.Path(self._checkpointer.directory) / str(latest.step))
        if (saved.encoder, saved.mel, saved.audio) != (self._config.encoder, self._config.mel, self._config.audio):
            raise ConfigError(
                f"{self._checkpointer.directory} was trained as {saved.encoder}, {saved.mel}; now asked for "
                f"{self._config.encoder}, {self._config.mel}; use another --workdir, or the old settings"
            )
        if saved.optimizer.decoupled != self._config.optimizer.decoupled:
            raise ConfigError(
                f"{self._checkpointer.directory} was trained with optimizer.decoupled={saved.optimizer.decoupled}; now asked for "
                f"{self._config.optimizer.decoupled}: another optimizer's state; use another --workdir, or the old setting"
            )
        templates = jax.tree.map(_template, _checkpointables(state)) | {"data": batches}
        found = self._checkpointer.load_checkpointables(latest, templates)
        encoder, optimizer = found["encoder"], found["optimizer"]
        restored = TrainState(
            params=optimizer["params"],
            average=encoder["params"],
            statistics=encoder["statistics"],
            optimizer=optimizer["state"],
            step=optimizer["step"],
        )
        return restored, latest.step

    def save(self, step: int, state: TrainState, batches: grain.DatasetIterator, *, force: bool = False) -> None:
        """Saves asynchronously when the policy says so, or `force` does. `step` counts the steps done."""
        if not force and not self._checkpointer.should_save(step):
            return
        if self._checkpointer.latest is not None and self._checkpointer.latest.step == step:
            return
        contents = _checkpointables(state) | {"data": batches}
        metadata: Any = {"config": self._config.to_json()}
        self._checkpointer.save_checkpointables_async(step, contents, force=force, custom_metadata=metadata)


class EncoderState(NamedTuple):
    """The arrays of an encoder."""

    params: nnx.State
    statistics: nnx.State  # BatchNorm's running mean and variance


def save_encoder(folder: str | pathlib.Path, config: TrainConfig, state: EncoderState, *, dtype: str = "float32") -> None:
    """Writes an encoder alone, for inference, its arrays as `dtype` ("float32", "float16" or "bfloat16")."""
    stored = jax.tree.map(lambda leaf: leaf.astype(dtype), state._asdict())
    ocp.save_checkpointables(
        str(pathlib.Path(folder).resolve()), {"encoder": stored}, custom_metadata={"config": config.to_json()}
    )


def load_encoder_state(folder: str | pathlib.Path) -> tuple[TrainConfig, EncoderState]:
    """Configuration and arrays (float32, on the first device) of an encoder.

    Args:
      folder: what `save_encoder` wrote, a run's workdir (its newest checkpoint), or one step of it.

    Raises:
      CheckpointError: no such folder, or no checkpoint of this project in it.
    """
    path = _checkpoint_path(pathlib.Path(folder).resolve())
    try:
        config = _read_config(path)
        template = jax.tree.map(_template, abstract_encoder(config)._asdict())
        return config, EncoderState(**ocp.load_checkpointables(str(path), {"encoder": template})["encoder"])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{folder}: no confp_jax encoder could be read ({type(error).__name__}: {_first_line(error)})"
        ) from error


def begin_from(state: TrainState, config: TrainConfig) -> TrainState:
    """The state of step 0 with the encoder of `config.init_from` instead of random weights.

    Its normalisation in the convolution may be the other kind: scale and offset are taken over.

    Raises:
      ConfigError: that encoder has other sizes, or sees other features.
      CheckpointError: there is none.
    """
    source, encoder = load_encoder_state(config.init_from)
    if (source.mel, source.audio.sample_rate_hz) != (config.mel, config.audio.sample_rate_hz):
        raise ConfigError(f"init_from={config.init_from} was trained on {source.mel}, this run on {config.mel}; set --config.mel")
    found = {_norm_free(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.params)}

    def take(path: Any, leaf: jax.Array) -> jax.Array:
        other = found.get(_norm_free(path))
        if other is None or other.shape != leaf.shape:
            raise ConfigError(
                f"init_from={config.init_from} is {source.encoder}, this run {config.encoder}; set --config.encoder to its values"
            )
        return jax.device_put(np.asarray(other), leaf.sharding)

    params = jax.tree_util.tree_map_with_path(take, state.params)
    return state._replace(params=params, average=params)


def _norm_free(path: Any) -> str:
    return jax.tree_util.keystr(path).replace("batch_norm", "norm").replace("layer_norm", "norm")


def encoder_identity(config: TrainConfig, state: EncoderState) -> str:
    """16 hex digits that name the weights and everything before them: two encoders with the same identity agree."""
    groups = [_distinguishing(group) for group in (config.audio, config.mel, config.encoder)]
    digest = hashlib.sha256(json.dumps(groups, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()[:16]


# What decides how a model is trained or run, and not what its fingerprints are.
_INDIFFERENT = frozenset({"dropout"})


def _distinguishing(group: Any) -> dict[str, Any]:
    """A configuration's fields that are not at their default: a later version's new field must not rename every model."""
    fields = [field for field in dataclasses.fields(group) if field.name not in _INDIFFERENT]
    return {field.name: getattr(group, field.name) for field in fields if getattr(group, field.name) != field.default}


def abstract_encoder(config: TrainConfig) -> EncoderState:
    """Shapes and types of an encoder's arrays, without arrays."""
    model = nnx.eval_shape(lambda: Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(0)))
    _, params, statistics = nnx.split(model, nnx.Param, ...)
    return EncoderState(params, statistics)


def _checkpointables(state: TrainState) -> dict[str, Any]:
    return {
        "encoder": {"params": state.average, "statistics": state.statistics},
        "optimizer": {"state": state.optimizer, "step": state.step, "params": state.params},
    }


def _template(leaf: Any) -> jax.ShapeDtypeStruct:
    """What to restore: an array's shape, type and place; the first device where it has none yet."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(leaf, jax.Array):
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _read_config(step_folder: pathlib.Path) -> TrainConfig:
    """The configuration inside a checkpoint. Only the encoder's metadata is asked for: Grain's iterator has none and warns."""
    metadata = cast(dict[str, str], ocp.metadata(str(step_folder), checkpointable_name="encoder").custom_metadata)
    return TrainConfig.from_json(metadata["config"])


def _first_line(error: Exception) -> str:
    """Orbax's messages can hold the whole tree."""
    return (str(error).splitlines() or [""])[0][:200]


def _checkpoint_path(folder: pathlib.Path) -> pathlib.Path:
    """The step to load: the folder itself, or the newest complete step of a run."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder; `confp models` lists the models that ship")
    for run in (folder / "checkpoints", folder):
        steps = [p for p in run.iterdir() if p.name.isdecimal()] if run.is_dir() else []
        if steps:
            return max(steps, key=lambda p: int(p.name))
    return folder
