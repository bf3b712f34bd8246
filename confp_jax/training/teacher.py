"""A trained encoder whose fingerprints another one learns."""

from collections.abc import Callable

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from confp_jax.config import TrainConfig
from confp_jax.model.inference import embed
from confp_jax.model.weights import load_encoder_state
from confp_jax.training.fine_tune import refuse_projection, source_folder, what_to_set
from confp_jax.typed_config import ConfigError, flat_fields

Batch = dict[str, Array]


def load_teacher(config: TrainConfig, mesh: jax.sharding.Mesh) -> Callable[[Batch], Batch]:
    """Returns what adds "target", the teacher's fingerprints of the clean anchors [B, E], to a
    batch over the mesh; without one, nothing.

    Raises:
      ConfigError: the teacher hears other features or has longer or shorter fingerprints; the
        message lists what to set.
      CheckpointError: there is none.
    """
    if not config.teacher:
        return lambda batch: batch
    source, encoder = load_encoder_state(source_folder(config.teacher))
    refuse_projection("teacher", config.teacher, source)
    shared = [name for name in flat_fields(config) if name.startswith(("mel.", "audio."))]
    if misfits := what_to_set(source, config.model, [*shared, "encoder.embedding_dim"]):
        raise ConfigError(
            f"teacher={config.teacher} is of other settings than this run: {'; '.join(misfits)}"
        )
    params, statistics = jax.device_put(tuple(encoder), NamedSharding(mesh, PartitionSpec()))
    return lambda batch: (
        batch | {"target": embed(params, statistics, batch["anchor"], config=source)}
    )
