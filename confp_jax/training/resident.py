"""The training set in device memory: loaded once, its crops cut by the device that holds the track."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int16, Int32

from confp_jax.config import TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.input import open_split
from confp_jax.data.mixing import SILENT_POWER, Mixer
from confp_jax.data.resident import Layout, check_fits, first_noise_rows, plan_layout, read_noise, read_part
from confp_jax.training.mesh import AXIS


class Resident(NamedTuple):
    """The split's audio over the mesh by track, and on every device the noise to mix in."""

    audio: Int16[Array, "devices rows samples"]
    noise: Int16[Array, "noise_rows samples"] | None


def load_resident(config: TrainConfig, mesh: jax.sharding.Mesh) -> Resident:
    """Every process reads only what its own devices hold.

    Raises:
      DatasetError: it does not fit (with the sizes and what to do), or there are fewer tracks than devices.
    """
    source, layout = _source(config), resident_layout(config, mesh)
    sounds = _noise(config)
    noise = None if sounds is None else read_noise(sounds, layout.row_samples)
    check_fits(layout, device_memory_bytes(), noise_bytes=0 if noise is None else noise.nbytes)
    shape = (mesh.devices.size, layout.rows_per_device, layout.row_samples)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        return read_part(source, layout, range(*index[0].indices(shape[0])))

    audio = jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(AXIS)), cast(Any, read))
    if noise is None:
        return Resident(audio, None)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return Resident(audio, jax.make_array_from_callback(noise.shape, everywhere, lambda index: noise[index]))


def resident_layout(config: TrainConfig, mesh: jax.sharding.Mesh) -> Layout:
    """Where the split's clips lie on the mesh: each with a host that has its shard, should hosts have only their own."""
    hosts = [device.process_index for device in mesh.devices.flat]
    every = math.gcd(config.data.num_shares, 1 + max(hosts))
    sizes = {"row_samples": config.audio.segment_samples, "num_devices": len(hosts)}
    return plan_layout(_source(config), **sizes, part_of=[host % every for host in hosts])


def _source(config: TrainConfig) -> ClipSource:
    return open_split(config, process=jax.process_index(), num_processes=jax.process_count())


def resident_bytes(config: TrainConfig, mesh: jax.sharding.Mesh) -> int:
    """What the set takes of each device's memory; 0 where it stays on the host.

    Raises:
      DatasetError: no set there, or fewer tracks than devices.
    """
    if config.data.residency == "host":
        return 0
    layout, sounds = resident_layout(config, mesh), _noise(config)
    num_rows = 0 if sounds is None else int(first_noise_rows(sounds, layout.row_samples)[-1])
    return layout.bytes_per_device + 2 * num_rows * layout.row_samples


def _noise(config: TrainConfig) -> ClipSource | None:
    return Mixer(config.data.mix, pathlib.Path(config.data.dir), sample_rate_hz=config.audio.sample_rate_hz).noise


def device_memory_bytes() -> int:
    """Of one device; CPU devices share the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()


@jax.jit
def cut_crops(resident: Resident, places: Mapping[str, Array]) -> dict[str, Array]:
    """The crops at these places, noise mixed in, split over the devices like any batch: int16 [B, samples].

    Args:
      places: what the input pipeline draws (`PairCutter`): "anchor" and "replica", [B, 3]; with noise "noise", "noise_snr_db".
    """
    by_rows = PartitionSpec(AXIS)
    crops = {name: jax.shard_map(_cut, out_specs=by_rows)(resident.audio, places[name]) for name in ("anchor", "replica")}
    if resident.noise is not None:
        mix = jax.shard_map(jax.vmap(_mix, in_axes=(0, None, 0, 0)), out_specs=by_rows)
        crops["replica"] = mix(crops["replica"], resident.noise, places["noise"], places["noise_snr_db"])
    return crops


def _cut(part: Int16[Array, "1 rows samples"], place: Int32[Array, "B 3"]) -> Int16[Array, "b samples"]:
    """Every device asks the holders for its own rows' crops, and cuts what it is asked for: b and a little, not the whole batch.

    A round answers so many rows for each pair of devices as even draws seldom exceed; rows that go beyond wait for the next
    round. Tracks are drawn at random, so there is mostly one.
    """
    num, length = jax.lax.axis_size(AXIS), part.shape[2]

    def one(where: Int32[Array, "2"]) -> Int16[Array, " samples"]:
        rows = jax.lax.dynamic_slice_in_dim(part[0], where[0], 2).reshape(-1)
        return jax.lax.dynamic_slice_in_dim(rows, where[1], length)

    if num == 1:
        return jax.vmap(one)(place[:, 1:])
    even = len(place) / num
    capacity = min(len(place), math.ceil(even + 3 * math.sqrt(even)))
    holder = place[:, 0]
    rank = jnp.sum(jnp.tril(holder[:, None] == holder[None, :], -1), axis=1)  # among this device's rows of the same holder

    def answer(number: Array, cut: Int16[Array, "b samples"]) -> Int16[Array, "b samples"]:
        turn = rank - number * capacity
        is_due = (turn >= 0) & (turn < capacity)
        slot = jnp.where(is_due, holder * capacity + turn, num * capacity)  # those that are not due fall off the end
        asked = jnp.zeros((num * capacity, 2), jnp.int32).at[slot].set(place[:, 1:], mode="drop")
        crops = jax.vmap(one)(jax.lax.all_to_all(asked, AXIS, 0, 0, tiled=True))
        crops = jax.lax.all_to_all(crops, AXIS, 0, 0, tiled=True)
        return jnp.where(is_due[:, None], crops.at[slot].get(mode="clip"), cut)

    num_rounds = jax.lax.pmax(jnp.max(rank), AXIS) // capacity + 1
    nothing = jax.lax.pcast(jnp.zeros((len(place), length), jnp.int16), AXIS, to="varying")
    return jax.lax.fori_loop(0, num_rounds, answer, nothing)


def _mix(
    crop: Int16[Array, " samples"],
    noise: Int16[Array, "noise_rows samples"],
    places: Int32[Array, "2 2"],
    snr_db: Float32[Array, "2"],
) -> Int16[Array, " samples"]:
    """As `Mixer.distort` mixes and `to_int16` rounds."""
    music = crop.astype(jnp.float32) / 32768
    power = jnp.mean(jnp.square(music))
    mixed = music
    for place, at_db in zip(places, snr_db, strict=True):
        rows = jax.lax.dynamic_slice_in_dim(noise, place[0], 2).reshape(-1)
        sound = jax.lax.dynamic_slice_in_dim(rows, place[1], len(crop)).astype(jnp.float32)
        gain = jnp.sqrt(power / jnp.maximum(jnp.mean(jnp.square(sound)), 1e-20)) * 10 ** (-at_db / 20)
        mixed = mixed + jnp.where(power < SILENT_POWER, 0, gain) * sound
    return jnp.round(mixed * (32767 / jnp.maximum(jnp.max(jnp.abs(mixed)), 1))).astype(jnp.int16)
