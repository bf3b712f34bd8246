"""The mesh: batch over "data", parameters replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from confp_jax.config import ConfigError

AXIS = "data"


def make_mesh(num_devices: int | None = None) -> jax.sharding.Mesh:
    """One axis, "data", over all devices (or the first `num_devices`), explicit: a hidden collective is a type error."""
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Explicit,), devices=devices)


def replicate(x: jax.Array) -> jax.Array:
    """All shards on every device; outside a mesh, x itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.reshard(x, PartitionSpec(*[None] * x.ndim))


def global_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Every process's rows as one array over the mesh, split by rows.

    Raises:
      ConfigError: the rows do not divide over this process's devices.
    """
    rows = len(next(iter(batch.values())))
    local = len(mesh.local_devices)
    if rows % local:
        raise ConfigError(f"a batch of {rows} pairs does not divide over {local} devices; set data.batch_size to a multiple")
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
