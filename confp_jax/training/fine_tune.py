"""A new run that begins with the weights of another encoder."""

import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, Float64

from confp_jax.audio.mel import mel_centres_hz
from confp_jax.config import MelConfig, ModelConfig, TrainConfig
from confp_jax.model.shipped import shipped_folder, shipped_models
from confp_jax.model.weights import load_encoder_state
from confp_jax.training.step import TrainState
from confp_jax.typed_config import ConfigError, flat_fields

# An encoder that differs in these can be taken over: in the folded ones where theirs is a multiple,
# in the others always.
_FOLDED = ("encoder.frames_per_token", "encoder.pool_segments")
_RESPACED = ("mel.num_mels", "mel.fmin_hz", "mel.fmax_hz", "mel.scale")
_CHANGED = ("encoder.conv_norm", "encoder.num_layers", *_FOLDED, *_RESPACED)
_ADAPTED = ("encoder.dropout", *_CHANGED)


def warm_start(state: TrainState, config: TrainConfig) -> TrainState:
    """Returns the state of step 0 with the encoder of `config.init_from` (a shipped model's name,
    or a checkpoint folder) in it.

    Its normalisation in the convolution may be the other kind: scale and offset are taken over,
    BatchNorm's running statistics where both have them. It may have fewer layers: those that are
    added change nothing until they are trained (`_origin`). If it has more layers, its first ones
    and its last are copied; if it has longer tokens or more parts, their sums; if its mel filters
    are at other frequencies, the nearest (`_adapt_input_output`): the result is then a beginning,
    and no longer the same encoder. What was changed is printed on standard error.

    Raises:
      ConfigError: that encoder has other sizes, or hears other features; the message lists what to
        set.
      CheckpointError: the folder holds no encoder.
    """
    source, encoder = load_encoder_state(source_folder(config.init_from))
    refuse_projection("init_from", config.init_from, source)
    if misfits := _misfits(source, config.model):
        raise ConfigError(
            f"init_from={config.init_from} is of other settings than this run: {'; '.join(misfits)}"
        )
    _report_changes(source, config)
    depths = source.encoder.num_layers, config.encoder.num_layers
    params = _copy_weights(
        state.params, _adapt_input_output(encoder.params, source, config.model), *depths
    )
    average = jax.tree.map(jnp.copy, params)  # one array may not be given away twice
    if not jax.tree.leaves(encoder.statistics):
        if config.freeze_statistics:
            raise ConfigError(
                f"init_from={config.init_from} has no BatchNorm statistics to keep; set "
                "freeze_statistics=False"
            )
        return state._replace(params=params, average=average)
    statistics = _copy_weights(state.statistics, encoder.statistics, *depths)
    return state._replace(params=params, average=average, statistics=statistics)


def refuse_projection(field: str, name: str, source: ModelConfig) -> None:
    """Refuses an encoder that has a linear part.

    Raises:
      ConfigError: it has one; training knows the conformer alone.
    """
    if source.encoder.has_projection:
        raise ConfigError(
            f"{field}={name} has a projection, which is fitted and not trained: name the model "
            "whose conformer it has beside it "
            "(edge2: edge), and put the trained conformer beside a projection with `python -m "
            "confp_jax.training.fit_projection`"
        )


def _misfits(source: ModelConfig, config: ModelConfig) -> list[str]:
    """Returns what has to be set so that the encoder of `source` can be taken over."""
    names = [
        name
        for name in flat_fields(config)
        if name.startswith(("mel.", "encoder.")) and name not in _ADAPTED
    ]
    old = flat_fields(source)
    new = flat_fields(config)
    indivisible = [name for name in _FOLDED if old[name] % new[name]]
    divisors = [
        f"set --config.{name} to a divisor of {old[name]} (not {new[name]})" for name in indivisible
    ]
    return what_to_set(source, config, [*names, "audio.sample_rate_hz"]) + divisors


def _report_changes(source: ModelConfig, config: TrainConfig) -> None:
    """A range of mels that an update of the defaults has changed should be no surprise."""
    old = flat_fields(source)
    new = flat_fields(config)
    changes = [
        f"{name}={new[name]} instead of {old[name]}" for name in _CHANGED if old[name] != new[name]
    ]
    if changes and jax.process_index() == 0:
        print(
            f"init_from={config.init_from} is changed for this run: {', '.join(changes)}",
            file=sys.stderr,
        )


def what_to_set(source: ModelConfig, config: ModelConfig, names: Iterable[str]) -> list[str]:
    """Returns how to set the fields `names` in which `config` differs from `source` alike."""
    old = flat_fields(source)
    new = flat_fields(config)
    return [
        f"set --config.{name}={old[name]} (not {new[name]})"
        for name in names
        if old[name] != new[name]
    ]


def _adapt_input_output(params: nnx.State, source: ModelConfig, config: ModelConfig) -> nnx.State:
    """Returns the first and last products for shorter tokens, fewer parts and other mel filters.

    A frame stands for all those of its old token, and a part for those that are no more: each is
    given the sum of their rows, so that of sound that does not change all tokens are what they
    were. Each old mel filter is read between the two new ones nearest to it.
    """
    old = source.encoder
    new = config.encoder

    def fit(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if name.startswith("['input']['kernel']"):
            return _folded(
                _respaced(leaf, source.mel, config.mel), old.frames_per_token, new.frames_per_token
            )
        if name.startswith("['output']['kernel']"):
            return _folded(leaf, old.pool_segments, new.pool_segments)
        return leaf

    return jax.tree_util.tree_map_with_path(fit, params)


def _folded(kernel: jax.Array, old: int, new: int) -> jax.Array:
    """Returns the rows of `old` equal blocks, summed over `old // new` neighbouring blocks."""
    if old <= new:
        return kernel
    return (
        kernel.reshape(new, old // new, len(kernel) // old, -1)
        .sum(axis=1)
        .reshape(-1, kernel.shape[1])
    )


def _respaced(kernel: jax.Array, old: MelConfig, new: MelConfig) -> jax.Array:
    """Returns the rows, one for each frame's mel filter, for other filters."""
    reading = _between(mel_centres_hz(old), mel_centres_hz(new))
    rows = np.asarray(kernel).reshape(
        -1, old.num_mels, kernel.shape[1]
    )  # in numpy: an accelerator would round the product
    return jnp.asarray(np.einsum("on,fod->fnd", reading, rows).reshape(-1, kernel.shape[1]))


def _between(
    old: Float64[np.ndarray, " old"], new: Float64[np.ndarray, " new"]
) -> Float32[np.ndarray, "old new"]:
    """Row i reads a function that is known at the rising places `new` at `old[i]`: linearly between
    two, beyond them the last.
    """
    return np.stack([np.interp(old, new, column) for column in np.eye(len(new))], axis=1).astype(
        np.float32
    )


def _copy_weights(new: nnx.State, old: nnx.State, old_depth: int, depth: int) -> nnx.State:
    """Returns the arrays of `old`, of an encoder of `old_depth` layers, in the places of `new`, of
    one of `depth`.
    """
    found = {_norm_free(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}

    def take(path: Any, leaf: jax.Array) -> jax.Array:
        name = _origin(_norm_free(path), old_depth, depth)
        if name is None:
            return jnp.zeros_like(leaf) if "['outer']" in jax.tree_util.keystr(path) else leaf
        return jax.device_put(np.asarray(found[name]), leaf.sharding)

    return jax.tree_util.tree_map_with_path(take, new)


def _origin(name: str, old_depth: int, depth: int) -> str | None:
    """Returns which array of an encoder of `old_depth` layers becomes `name` in one of `depth`
    layers, or None if none does.

    If there are more layers than wanted, the last stays the last, and the surplus before it is
    left out. Layers that are added follow the others. The last product ("outer") of each of their
    branches begins at zero, so they pass their input on. The input is normalised already, if the
    old last layer leaves its LayerNorm's scale and offset to the new.
    """
    found = re.match(r"\['layers'\]\[(\d+)\](.*)", name)
    if found is None:
        return name
    layer = int(found[1])
    rest = found[2]
    if old_depth > depth:
        return f"['layers'][{layer if layer < depth - 1 else old_depth - 1}]{rest}"
    is_block_norm = rest.startswith("['norm']")
    if is_block_norm and layer == depth - 1:
        return f"['layers'][{old_depth - 1}]{rest}"
    num_kept = old_depth - 1 if is_block_norm else old_depth
    return name if layer < num_kept else None


def source_folder(source: str) -> str | pathlib.Path:
    """Returns the folder of a shipped model's name; anything else is one."""
    return shipped_folder(source) if source in shipped_models() else source


def _norm_free(path: Any) -> str:
    """Returns a name that is the same for either kind, and no other array's (the convolution has a
    `norm` of its own before it).
    """
    return (
        jax.tree_util.keystr(path)
        .replace("batch_norm", "either_norm")
        .replace("layer_norm", "either_norm")
    )
