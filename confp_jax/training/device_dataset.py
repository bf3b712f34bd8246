"""The training set in device memory: loaded once, its crops cut by the device that holds the
track.
"""

import functools
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int16, Int32

from confp_jax.config import TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.device_layout import Layout, check_fits, plan_layout, read_part
from confp_jax.data.input import open_split
from confp_jax.training.device_mixing import Sounds, read_sounds, replica_power, replica_samples
from confp_jax.training.mesh import AXIS


class Resident(NamedTuple):
    """The split's audio over the mesh by track, and on every device what is mixed in."""

    audio: Int16[Array, "devices rows samples"]
    sounds: Sounds | None


def load_resident(config: TrainConfig, mesh: jax.sharding.Mesh) -> Resident:
    """Every process reads only what its own devices hold.

    Raises:
      DatasetError: it does not fit (with the sizes and what to do), or there are fewer tracks than
        devices.
    """
    source = _source(config)
    layout = resident_layout(config, mesh)
    sounds = read_sounds(config)
    check_fits(layout, device_memory_bytes(), sounds_bytes=_num_bytes(sounds))
    shape = (mesh.devices.size, layout.rows_per_device, layout.row_samples)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        return read_part(source, layout, range(*index[0].indices(shape[0])))

    audio = jax.make_array_from_callback(
        shape, NamedSharding(mesh, PartitionSpec(AXIS)), cast(Any, read)
    )
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(part: Any) -> jax.Array:
        return jax.make_array_from_callback(part.shape, everywhere, lambda index: part[index])

    return Resident(audio, None if sounds is None else Sounds(*map(place, sounds)))


def resident_layout(config: TrainConfig, mesh: jax.sharding.Mesh) -> Layout:
    """Returns where the split's clips lie on the mesh: each with a host that has its shard, should
    hosts have only their own.
    """
    hosts = [device.process_index for device in mesh.devices.flat]
    every = math.gcd(config.data.num_shares, 1 + max(hosts))
    sizes = {
        "row_samples": config.audio.segment_samples,
        "longest_crop": replica_samples(config),
        "num_devices": len(hosts),
    }
    return plan_layout(_source(config), **sizes, part_of=[host % every for host in hosts])


def _source(config: TrainConfig) -> ClipSource:
    return open_split(config, process=jax.process_index(), num_processes=jax.process_count())


def resident_bytes(config: TrainConfig, mesh: jax.sharding.Mesh) -> int:
    """Returns what the set takes of each device's memory; 0 where it stays on the host.

    Raises:
      DatasetError: no set there, or fewer tracks than devices.
    """
    if config.data.residency == "host":
        return 0
    return resident_layout(config, mesh).bytes_per_device + _num_bytes(read_sounds(config))


def _num_bytes(sounds: Sounds | None) -> int:
    return sum(part.nbytes for part in sounds or ())


def device_memory_bytes() -> int:
    """Returns the memory of one device; CPU devices share the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


@functools.partial(jax.jit, static_argnames=("config",))
def cut_crops(
    resident: Resident, places: Mapping[str, Array], *, config: TrainConfig
) -> dict[str, Array]:
    """Returns the crops at these places, split over the devices like any batch: int16 [B, samples];
    what is mixed is mel power [B, T, F].

    Args:
      places: what the input pipeline draws (`PairCutter`): "anchor" and "replica", [B, 3]; with
        `data.mix` "mix", [B, fields], and "overlay", [B, 3], where tracks are overlaid.
    """
    by_rows = PartitionSpec(AXIS)
    length = resident.audio.shape[2]
    anchors = jax.shard_map(functools.partial(_cut, length=length), out_specs=by_rows)(
        resident.audio, places["anchor"]
    )
    longest = replica_samples(config) if resident.sounds is not None else length
    replicas = jax.shard_map(functools.partial(_cut, length=longest), out_specs=by_rows)(
        resident.audio, places["replica"]
    )
    if resident.sounds is not None:
        overlays = None
        if "overlay" in places:
            overlays = jax.shard_map(functools.partial(_cut, length=length), out_specs=by_rows)(
                resident.audio, places["overlay"]
            )
        mix = jax.shard_map(functools.partial(replica_power, config=config), out_specs=by_rows)
        replicas = mix(replicas, places["mix"], resident.sounds, overlays)
    return {"anchor": anchors, "replica": replicas}


def _cut(
    part: Int16[Array, "1 rows row"], place: Int32[Array, "B 3"], *, length: int
) -> Int16[Array, "b samples"]:
    """Every device asks the holders for its own rows' crops, and cuts what it is asked for: b and
    a little, not the whole batch.

    A round answers so many rows for each pair of devices as even draws seldom exceed; rows that go
    beyond wait for the next round. Tracks are drawn at random, so there is mostly one.
    """
    num = jax.lax.axis_size(AXIS)
    num_rows = -(-length // part.shape[2]) + 1

    def one(where: Int32[Array, "2"]) -> Int16[Array, " samples"]:
        rows = jax.lax.dynamic_slice_in_dim(part[0], where[0], num_rows).reshape(-1)
        return jax.lax.dynamic_slice_in_dim(rows, where[1], length)

    if num == 1:
        return jax.vmap(one)(place[:, 1:])
    even = len(place) / num
    capacity = min(len(place), math.ceil(even + 3 * math.sqrt(even)))
    holder = place[:, 0]
    rank = jnp.sum(
        jnp.tril(holder[:, None] == holder[None, :], -1), axis=1
    )  # among this device's rows of the same holder

    def answer(number: Array, cut: Int16[Array, "b samples"]) -> Int16[Array, "b samples"]:
        turn = rank - number * capacity
        is_due = (turn >= 0) & (turn < capacity)
        slot = jnp.where(
            is_due, holder * capacity + turn, num * capacity
        )  # those that are not due fall off the end
        asked = jnp.zeros((num * capacity, 2), jnp.int32).at[slot].set(place[:, 1:], mode="drop")
        crops = jax.vmap(one)(jax.lax.all_to_all(asked, AXIS, 0, 0, tiled=True))
        crops = jax.lax.all_to_all(crops, AXIS, 0, 0, tiled=True)
        return jnp.where(is_due[:, None], crops.at[slot].get(mode="clip"), cut)

    num_rounds = jax.lax.pmax(jnp.max(rank), AXIS) // capacity + 1
    nothing = jax.lax.pcast(jnp.zeros((len(place), length), jnp.int16), AXIS, to="varying")
    return jax.lax.fori_loop(0, num_rounds, answer, nothing)
