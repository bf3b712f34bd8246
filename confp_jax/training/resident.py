"""The training set in device memory: loaded once, its crops cut by the device that holds the track."""

import os
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int16, Int32

from confp_jax.config import TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.resident import Layout, check_fits, plan_layout, read_part
from confp_jax.training.mesh import AXIS


def load_resident(config: TrainConfig, mesh: jax.sharding.Mesh) -> Int16[Array, "devices rows samples"]:
    """The split's audio over the mesh by track; every process reads only what its own devices hold.

    Raises:
      DatasetError: it does not fit (with the sizes and what to do), or there are fewer tracks than devices.
    """
    source, layout = ClipSource(config.data.dir, config.data.split), resident_layout(config, mesh.devices.size)
    check_fits(layout, device_memory_bytes())
    shape = (mesh.devices.size, layout.rows_per_device, layout.row_samples)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        return read_part(source, layout, range(*index[0].indices(shape[0])))

    return jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(AXIS)), cast(Any, read))


def resident_layout(config: TrainConfig, num_devices: int) -> Layout:
    """Where the split's clips lie on `num_devices`."""
    source = ClipSource(config.data.dir, config.data.split)
    return plan_layout(source, row_samples=config.audio.segment_samples, num_devices=num_devices)


def device_memory_bytes() -> int:
    """Of one device; CPU devices share the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


@jax.jit
def cut_crops(audio: Int16[Array, "devices rows samples"], places: Mapping[str, Int32[Array, "B 3"]]) -> dict[str, Array]:
    """The crops at these places (device, row, sample), split over the devices like any batch: int16 [B, samples].

    Every device cuts what it holds of the whole batch, and their sum gives each its own rows: one exchange of the batch's bytes.
    """

    def cut(part: Int16[Array, "1 rows samples"], place: Int32[Array, "B 3"]) -> Int16[Array, "b samples"]:
        length = part.shape[2]
        place = jax.lax.all_gather(place, AXIS, tiled=True)

        def one(where: Int32[Array, "3"]) -> Int16[Array, " samples"]:
            mine = where[0] == jax.lax.axis_index(AXIS)
            rows = jax.lax.dynamic_slice_in_dim(part[0], jnp.where(mine, where[1], 0), 2).reshape(-1)
            return jnp.where(mine, jax.lax.dynamic_slice_in_dim(rows, where[2], length), 0)

        return jax.lax.psum_scatter(jax.vmap(one)(place), AXIS, scatter_dimension=0, tiled=True)

    return {name: jax.shard_map(cut, out_specs=PartitionSpec(AXIS))(audio, place) for name, place in places.items()}
