"""Where the set lies in device memory: every sample in its place, whole tracks on a device, and a
refusal in numbers.
"""

import numpy as np
import pytest

from confp_jax.data.clips import ClipSource
from confp_jax.data.device_layout import (
    check_fits,
    first_noise_rows,
    plan_layout,
    read_noise,
    read_part,
)
from confp_jax.data.records import Clip, DatasetError

_ROW = 1000


@pytest.fixture(scope="module")
def source(make_dataset) -> ClipSource:
    """Five tracks of unlike lengths, each clean and in one replica."""
    rng = np.random.default_rng(0)
    clips = []
    for track, length in enumerate((50_000, 60_100, 50_999, 90_000, 48_000)):
        clips += [
            Clip(track, r, 1.0, 0.0, rng.integers(-9000, 9000, length + 7 * r).astype("<i2"))
            for r in (0, 1)
        ]
    return ClipSource(make_dataset({"training": clips}), "training")


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_every_crop_lies_where_its_place_says(source: ClipSource, num_devices: int) -> None:
    layout = plan_layout(source, row_samples=_ROW, num_devices=num_devices)
    assert layout.num_devices == num_devices
    part = read_part(source, layout, range(num_devices))
    assert part.nbytes == layout.bytes_per_device * num_devices
    for clip in range(len(source)):
        length = source.row(clip).num_samples
        for start in (0, 1, _ROW - 1, _ROW, 12_345, length - _ROW):
            device, row, sample = layout.place(clip, start)
            two = part[device, row : row + 2].reshape(-1)
            np.testing.assert_array_equal(
                two[sample : sample + _ROW], source.crop(clip, start, start + _ROW)
            )


def test_tracks_stay_whole_and_shares_even(source: ClipSource) -> None:
    layout = plan_layout(source, row_samples=_ROW, num_devices=2)
    np.testing.assert_array_equal(layout.device_of[::2], layout.device_of[1::2])
    rows = [
        sum(-(-source.row(c).num_samples // _ROW) for c in np.flatnonzero(layout.device_of == d))
        for d in range(2)
    ]
    assert max(rows) < 1.5 * min(rows)


def test_a_device_holds_shards_of_its_host(make_dataset) -> None:
    """Two hosts with every second shard each; host 1 has the middle one of three devices."""
    clips = [
        Clip(track, r, 1.0, 0.0, np.full(3 * _ROW, track, "<i2"))
        for track in range(8)
        for r in (0, 1)
    ]
    source = ClipSource(make_dataset({"training": clips}, num_shards=8), "training")
    layout = plan_layout(source, row_samples=_ROW, num_devices=3, part_of=(0, 1, 0))
    assert layout.device_of[::2].tolist() == [0, 1, 0, 1, 2, 1, 2, 1]
    part = read_part(source, layout, range(3))
    for clip in range(16):
        device, row, _ = layout.place(clip, 0)
        np.testing.assert_array_equal(part[device, row : row + 3], clip // 2)


def test_too_large_is_refused_with_the_sizes(source: ClipSource) -> None:
    layout = plan_layout(source, row_samples=_ROW, num_devices=1)
    check_fits(layout, 2 * layout.bytes_per_device)
    with pytest.raises(
        DatasetError,
        match=r"0\.0 GB of audio a device do not fit .*train on 4 devices.*data\.residency=host",
    ):
        check_fits(layout, layout.bytes_per_device // 2)
    with pytest.raises(DatasetError, match="5 tracks for 6 devices"):
        plan_layout(source, row_samples=_ROW, num_devices=6)


def test_every_noise_lies_where_its_row_says(make_dataset) -> None:
    """Also the short ones, from any of their samples on, for a whole row."""
    rng = np.random.default_rng(1)
    lengths = (2500, 300, 1000, 999, 1)
    sounds = [rng.integers(-9000, 9000, length).astype("<i2") for length in lengths]
    clips = [Clip(i, 0, 1.0, 0.0, samples) for i, samples in enumerate(sounds)]
    noise = ClipSource(make_dataset({"noise": clips}, num_replicas=0), "noise")
    rows = read_noise(noise, _ROW)
    first_rows = first_noise_rows(noise, _ROW)
    assert first_rows[-1] == len(rows)
    for number, length in enumerate(lengths):
        for start in range(0, length - _ROW + 1 if length >= _ROW else length, 7):
            row, sample = divmod(start, _ROW)
            two = rows[first_rows[number] + row :][:2].reshape(-1)
            expected = np.take(sounds[number], np.arange(start, start + _ROW), mode="wrap")
            np.testing.assert_array_equal(two[sample : sample + _ROW], expected)


def test_the_noise_takes_room_as_well(source: ClipSource) -> None:
    layout = plan_layout(source, row_samples=_ROW, num_devices=1)
    with pytest.raises(DatasetError, match="do not fit"):
        check_fits(layout, 2 * layout.bytes_per_device, sounds_bytes=layout.bytes_per_device)
