"""A new run that begins with the weights of another encoder."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from confp_jax.config import TrainConfig
from confp_jax.mapping import ConfigError, flat_fields
from confp_jax.model.shipped import shipped_folder, shipped_models
from confp_jax.training.checkpoint import load_encoder_state
from confp_jax.training.step import TrainState

_ADAPTED = ("encoder.dropout", "encoder.conv_norm", "encoder.num_layers")  # an encoder that differs in these can be taken over


def begin_from(state: TrainState, config: TrainConfig) -> TrainState:
    """The state of step 0 with the encoder of `config.init_from` (a shipped model's name, or a checkpoint folder) in it.

    Its normalisation in the convolution may be the other kind: scale and offset are taken over, BatchNorm's running statistics
    where both have them. It may have fewer layers: those that are added change nothing until they are trained (`_origin`).

    Raises:
      ConfigError: that encoder has other sizes, or hears other features; the message lists what to set.
      CheckpointError: there is none.
    """
    source, encoder = load_encoder_state(source_folder(config.init_from))
    if misfits := _misfits(source, config):
        raise ConfigError(f"init_from={config.init_from} is of other settings than this run: {'; '.join(misfits)}")
    depths = source.encoder.num_layers, config.encoder.num_layers
    params = _taken(state.params, encoder.params, *depths)
    average = jax.tree.map(jnp.copy, params)  # one array may not be given away twice
    if not jax.tree.leaves(encoder.statistics):
        if config.freeze_statistics:
            raise ConfigError(f"init_from={config.init_from} has no BatchNorm statistics to keep; set freeze_statistics=False")
        return state._replace(params=params, average=average)
    statistics = _taken(state.statistics, encoder.statistics, *depths)
    return state._replace(params=params, average=average, statistics=statistics)


def _misfits(source: TrainConfig, config: TrainConfig) -> list[str]:
    """What has to be set so that the encoder of `source` can be taken over."""
    old, new = flat_fields(source), flat_fields(config)
    shared = [name for name in new if name.startswith(("mel.", "encoder.")) and name not in _ADAPTED]
    misfits = [f"set --config.{n}={old[n]} (not {new[n]})" for n in (*shared, "audio.sample_rate_hz") if old[n] != new[n]]
    if source.encoder.num_layers > config.encoder.num_layers:
        misfits.append(f"set --config.encoder.num_layers={source.encoder.num_layers} or more (not {config.encoder.num_layers})")
    return misfits


def _taken(new: nnx.State, old: nnx.State, old_depth: int, depth: int) -> nnx.State:
    """The arrays of `old`, of an encoder of `old_depth` layers, in the places of `new`, of one of `depth`."""
    found = {_norm_free(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}

    def take(path: Any, leaf: jax.Array) -> jax.Array:
        name = _origin(_norm_free(path), old_depth, depth)
        if name is None:
            return jnp.zeros_like(leaf) if "['outer']" in jax.tree_util.keystr(path) else leaf
        return jax.device_put(np.asarray(found[name]), leaf.sharding)

    return jax.tree_util.tree_map_with_path(take, new)


def _origin(name: str, old_depth: int, depth: int) -> str | None:
    """Which array of an encoder of `old_depth` layers becomes `name` of one of `depth`; None: none does.

    The layers that are added follow the others. The last product ("outer") of each of their branches begins at zero, so they
    pass on what they get; it is normalised already, if the old last layer leaves its LayerNorm's scale and offset to the new.
    """
    found = re.match(r"\['layers'\]\[(\d+)\](.*)", name)
    if found is None:
        return name
    layer, rest = int(found[1]), found[2]
    is_block_norm = rest.startswith("['norm']")
    if is_block_norm and layer == depth - 1:
        return f"['layers'][{old_depth - 1}]{rest}"
    num_kept = old_depth - 1 if is_block_norm else old_depth
    return name if layer < num_kept else None


def source_folder(source: str) -> str | pathlib.Path:
    """The checkpoint folder of a shipped model's name; anything else is one."""
    return shipped_folder(source) / "checkpoint" if source in shipped_models() else source


def _norm_free(path: Any) -> str:
    """A name that is the same for either kind, and no other array's (the convolution has a `norm` of its own before it)."""
    return jax.tree_util.keystr(path).replace("batch_norm", "either_norm").replace("layer_norm", "either_norm")
