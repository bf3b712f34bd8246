"""The whole set in device memory: which device holds which track, where a crop lies in it, and the
audio of one device's part.

Numpy only. The input pipeline draws crops as it always does, but hands on their places instead of
their samples; the devices cut them (training/device_dataset.py).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16, Int32

from confp_jax.data.clips import ClipSource
from confp_jax.data.mixing import repeated_crop
from confp_jax.data.records import DatasetError

_MAX_ROWS = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Layout:
    """A split's clips as rows of `row_samples` in the memory of `num_devices`; an anchor is as
    long as a row, so it meets two.

    Each device holds consecutive tracks of those that its host has, as evenly as whole tracks
    divide.
    """

    row_samples: int
    rows_per_device: int
    device_of: Int32[np.ndarray, " clips"]
    first_row: Int32[np.ndarray, " clips"]  # on that device

    @property
    def num_devices(self) -> int:
        """Devices that share the set."""
        return int(self.device_of.max()) + 1

    @property
    def bytes_per_device(self) -> int:
        """Returns the bytes of int16 audio."""
        return 2 * self.rows_per_device * self.row_samples

    def place(self, clip: int, start: int) -> Int32[np.ndarray, "3"]:
        """Device, row and sample in it of a crop that begins at sample `start` of a clip."""
        row, sample = divmod(start, self.row_samples)
        return np.array([self.device_of[clip], self.first_row[clip] + row, sample], np.int32)


def plan_layout(
    source: ClipSource,
    *,
    row_samples: int,
    num_devices: int,
    longest_crop: int = 0,
    part_of: Sequence[int] = (),
) -> Layout:
    """Deals the tracks of a split out to devices.

    Args:
      longest_crop: samples of the longest crop, if that is more than a row.
      part_of: where hosts have only their part of the shards (shards k, k + n, ...), the part k of
        every device's host.

    Raises:
      DatasetError: more devices than tracks.
    """
    group = 1 + source.summary.num_replicas
    if source.num_tracks < num_devices:
        raise DatasetError(
            f"{source.folder} has {source.num_tracks} tracks for {num_devices} devices; set "
            "data.residency=host"
        )
    lengths = np.array([source.row(clip).num_samples for clip in range(len(source))])
    rows = -(-lengths // row_samples)
    of_track = rows.reshape(source.num_tracks, group).sum(axis=1)
    part_of_device = np.array(part_of or [0] * num_devices)
    part_of_track, device = (
        source.track_shards() % (1 + part_of_device.max()),
        np.zeros(source.num_tracks, int),
    )
    for part in np.unique(part_of_track):
        tracks, devices = (
            np.flatnonzero(part_of_track == part),
            np.flatnonzero(part_of_device == part),
        )
        middle = np.cumsum(of_track[tracks]) - of_track[tracks] / 2
        place = (middle * len(devices) / of_track[tracks].sum()).astype(int)
        device[tracks] = devices[np.minimum(place, len(devices) - 1)]
    first_row = np.zeros(len(rows), np.int64)
    device_of, most = np.repeat(device, group), 0
    for number in range(num_devices):
        mine = device_of == number
        first_row[mine] = np.cumsum(rows[mine]) - rows[mine]
        most = max(most, int(rows[mine].sum()))
    if most >= _MAX_ROWS:
        raise DatasetError(
            f"{source.folder}: {most} rows a device are too many; set data.residency=host"
        )
    # The rows behind the first one of a crop that begins in the last.
    rows_behind = -(-max(longest_crop, row_samples) // row_samples)
    return Layout(
        row_samples, most + rows_behind, device_of.astype(np.int32), first_row.astype(np.int32)
    )


def check_fits(layout: Layout, memory_bytes: int, *, sounds_bytes: int = 0) -> None:
    """Raises DatasetError where the audio would take more than six tenths of a device's memory:
    the step needs the rest.

    Args:
      sounds_bytes: of what is mixed in, all of which is on every device.
    """
    room = 0.6 * memory_bytes - sounds_bytes
    if layout.bytes_per_device > room:
        needed = int(np.ceil(layout.bytes_per_device * layout.num_devices / max(room, 1.0)))
        size_gb = (layout.bytes_per_device + sounds_bytes) / 1e9
        raise DatasetError(
            f"data.residency=device: {size_gb:.1f} GB of audio a device do not fit beside the step "
            f"in {memory_bytes / 1e9:.1f} GB; train on {needed} devices or more, prepare fewer "
            "replicas (--config.num_replicas) or shorter clips (--config.max_clip_s), or set "
            "data.residency=host"
        )


def first_noise_rows(noise: ClipSource, row_samples: int) -> Int32[np.ndarray, " noises+1"]:
    """Returns the first row of every noise where all lie one behind the other; last, how many rows
    there are.

    A noise that is shorter than a row is repeated from its beginning until a row that begins
    anywhere in it is whole.
    """
    lengths = np.array([noise.row(number).num_samples for number in range(len(noise))])
    rows = -(-np.where(lengths < row_samples, lengths + row_samples, lengths) // row_samples)
    # One more: the last crop's second row.
    return np.concatenate([[0], np.cumsum(rows)[:-1], [rows.sum() + 1]]).astype(np.int32)


def read_noise(noise: ClipSource, row_samples: int) -> Int16[np.ndarray, "rows samples"]:
    """Returns all noises in the rows of `first_noise_rows`, zero-padded behind every one."""
    first_rows = first_noise_rows(noise, row_samples)
    out = np.zeros((int(first_rows[-1]), row_samples), np.int16)
    for number in range(len(noise)):
        length = noise.row(number).num_samples
        num = length if length >= row_samples else length + row_samples
        out[first_rows[number] :].reshape(-1)[:num] = repeated_crop(noise, number, 0, num)
    return out


def read_part(
    source: ClipSource, layout: Layout, devices: Sequence[int]
) -> Int16[np.ndarray, "devices rows samples"]:
    """Returns the rows of some devices, zero-padded behind every clip."""
    part = np.zeros((len(devices), layout.rows_per_device, layout.row_samples), np.int16)
    for number, device in enumerate(devices):
        for clip in np.flatnonzero(layout.device_of == device):
            length = source.row(int(clip)).num_samples
            first = layout.first_row[clip]
            part[number, first:].reshape(-1)[:length] = source.crop(int(clip), 0, length)
    return part
