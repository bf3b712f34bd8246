"""A new run that begins with the weights of another encoder."""

import pathlib
import re
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
    where both have them. It may have fewer layers: those that are added change nothing until they are trained (`_origin`).

    Raises:
      ConfigError: that encoder has other sizes, or sees other features.
      CheckpointError: there is none.
    """
    source, encoder = load_encoder_state(_folder(config.init_from))
    if (source.mel, source.audio.sample_rate_hz) != (config.mel, config.audio.sample_rate_hz):
        raise ConfigError(f"init_from={config.init_from} was trained on {source.mel}, this run on {config.mel}; set --config.mel")
    depths = source.encoder.num_layers, config.encoder.num_layers

    def take(found: dict[str, Any]) -> Any:
        def one(path: Any, leaf: jax.Array) -> jax.Array:
            name = _origin(_norm_free(path), *depths)
            if name is None:
                return jnp.zeros_like(leaf) if "['outer']" in jax.tree_util.keystr(path) else leaf
            other = found.get(name)
            if other is None or other.shape != leaf.shape or depths[0] > depths[1]:
                raise ConfigError(
                    f"init_from={config.init_from} is {source.encoder}, this run {config.encoder}; set --config.encoder to its "
                    "values (num_layers may be more)"
                )
            return jax.device_put(np.asarray(other), leaf.sharding)

        return one

    params = jax.tree_util.tree_map_with_path(take(_by_name(encoder.params)), state.params)
    average = jax.tree.map(jnp.copy, params)  # one array may not be given away twice
    if not jax.tree.leaves(encoder.statistics):
        if config.freeze_statistics:
            raise ConfigError(f"init_from={config.init_from} has no BatchNorm statistics to keep; set freeze_statistics=False")
        return state._replace(params=params, average=average)
    statistics = jax.tree_util.tree_map_with_path(take(_by_name(encoder.statistics)), state.statistics)
    return state._replace(params=params, average=average, statistics=statistics)


def _origin(name: str, old_depth: int, depth: int) -> str | None:
    """Which array of an encoder of `old_depth` layers becomes `name` of one of `depth`; None: as a new encoder has it.

    The layers that are added follow the others. The last product ("outer") of each of their branches begins at zero, so they
    pass on what they get; it is normalised already, if the old last layer leaves its LayerNorm's scale and offset to the new.
    """
    found = re.match(r"\['layers'\]\[(\d+)\](.*)", name)
    if found is None or old_depth == depth:
        return name
    layer, rest = int(found[1]), found[2]
    if rest.startswith("['norm']"):
        last = f"['layers'][{old_depth - 1}]{rest}"
        return last if layer == depth - 1 else None if layer >= old_depth - 1 else name
    return name if layer < old_depth else None


def _folder(source: str) -> str | pathlib.Path:
    return shipped_folder(source) / "checkpoint" if source in shipped_models() else source


def _by_name(tree: Any) -> dict[str, Any]:
    return {_norm_free(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _norm_free(path: Any) -> str:
    """A name that is the same for either kind, and no other array's (the convolution has a `norm` of its own before it)."""
    return jax.tree_util.keystr(path).replace("batch_norm", "either_norm").replace("layer_norm", "either_norm")
