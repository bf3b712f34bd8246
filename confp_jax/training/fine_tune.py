"""A new run that begins with the weights of another encoder."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from confp_jax.config import TrainConfig
from confp_jax.mapping import ConfigError
from confp_jax.model.shipped import shipped_folder, shipped_models
from confp_jax.training.checkpoint import load_encoder_state
from confp_jax.training.step import TrainState


def begin_from(state: TrainState, config: TrainConfig) -> TrainState:
    """The state of step 0 with the encoder of `config.init_from` (a shipped model's name, or a checkpoint folder) in it.

    Its normalisation in the convolution may be the other kind: scale and offset are taken over, BatchNorm's running statistics
    where both have them.

    Raises:
      ConfigError: that encoder has other sizes, or sees other features.
      CheckpointError: there is none.
    """
    source, encoder = load_encoder_state(_folder(config.init_from))
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
    average = jax.tree.map(jnp.copy, params)  # one array may not be given away twice
    if not jax.tree.leaves(encoder.statistics):
        if config.freeze_statistics:
            raise ConfigError(f"init_from={config.init_from} has no BatchNorm statistics to keep; set freeze_statistics=False")
        return state._replace(params=params, average=average)
    found = {_norm_free(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.statistics)}
    return state._replace(params=params, average=average, statistics=jax.tree_util.tree_map_with_path(take, state.statistics))


def _folder(source: str) -> str | pathlib.Path:
    return shipped_folder(source) / "checkpoint" if source in shipped_models() else source


def _norm_free(path: Any) -> str:
    """A name that is the same for either kind, and no other array's (the convolution has a `norm` of its own before it)."""
    return jax.tree_util.keystr(path).replace("batch_norm", "either_norm").replace("layer_norm", "either_norm")
