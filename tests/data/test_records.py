"""The record format: what goes in comes out, a shard is there only when it is complete, TensorFlow
stays out.
"""

import dataclasses
import json
import pathlib
import pickle
import sys

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.records import (
    PIECE_S,
    Clip,
    DatasetError,
    read_manifest,
    read_summary,
    shard_path,
    to_int16,
    write_shard,
)

_CLIPS = st.builds(
    Clip,
    track_id=st.integers(0, 2**62 - 1),  # folder.read_tracks: 62 bits of a hash
    replica=st.integers(0, 2**31 - 1),
    tempo=st.floats(0.5, 2.0, width=32),
    start_s=st.floats(0.0, 1e5, width=32),
    samples=hnp.arrays(np.dtype("<i2"), st.integers(0, 400)),
    draws=st.text(),
)


def _clip(number: int, *, replica: int = 0, num_samples: int = 100) -> Clip:
    samples = (
        np.random.default_rng((number, replica)).integers(-32768, 32768, num_samples).astype("<i2")
    )
    return Clip(
        number, replica, 1.0, 0.0, samples, json.dumps([{"transform": "Ü", "replica": replica}])
    )


def _assert_same(found: Clip, expected: Clip) -> None:
    assert found.samples.dtype == np.dtype("<i2")
    assert found.samples.tobytes() == expected.samples.tobytes()
    others = [field.name for field in dataclasses.fields(Clip) if field.name != "samples"]
    assert [getattr(found, name) for name in others] == [getattr(expected, name) for name in others]


@settings(max_examples=15)
@given(clips=st.lists(_CLIPS, min_size=1, max_size=5), num_shards=st.integers(1, 3))
def test_round_trip(make_dataset, clips: list[Clip], num_shards: int) -> None:
    folder = make_dataset({"training": clips}, num_replicas=0, num_shards=num_shards)
    source = ClipSource(folder, "training")
    assert len(source) == len(clips)
    for found, expected in zip(source, clips, strict=True):
        _assert_same(found, expected)


def test_anybodys_tfds_opens_it(make_dataset) -> None:
    clips = [_clip(i) for i in range(5)]
    folder = make_dataset({"training": clips[:3], "noise_10db": clips[3:]}, num_replicas=0)
    builder = tfds.builder_from_directory(str(folder))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "training": 3,
        "noise_10db": 2,
    }
    rows = builder.as_data_source(split="noise_10db")
    assert [row["samples"] for row in rows] == [clip.samples.tobytes() for clip in clips[3:]]
    assert [int(row["track_id"]) for row in rows] == [3, 4]
    assert "tensorflow" not in sys.modules


def test_source_survives_pickling(make_dataset) -> None:
    """Grain sends it to its workers."""
    clips = [_clip(i, replica=r) for i in range(2) for r in range(3)]
    source = ClipSource(make_dataset({"training": clips}, num_replicas=2), "training")
    again = pickle.loads(pickle.dumps(source))
    assert (len(again), again.num_tracks) == (6, 2)
    _assert_same(again[4], clips[4])
    assert again.summary.track_names == {"0": "track 0", "1": "track 1"}


def test_no_dataset_says_how_to_make_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DatasetError, match=r"no prepared dataset here.*data_prep\.make_train"):
        ClipSource(tmp_path, "training")
    with pytest.raises(DatasetError, match="no folder given"):
        read_summary("")


def test_no_such_split_names_those_there_are(make_dataset) -> None:
    folder = make_dataset({"training": [_clip(0)], "validation": [_clip(1)]}, num_replicas=0)
    with pytest.raises(DatasetError, match="no split 'trainig'; it has training, validation"):
        ClipSource(folder, "trainig")


def test_read_splits(make_dataset) -> None:
    folder = make_dataset(
        {"training": [_clip(0)], "validation": [], "noise_10db": [_clip(1), _clip(2)]},
        num_replicas=0,
    )
    assert list(read_splits(folder)) == ["training", "noise_10db"]


def test_a_missing_shard_is_a_dataset_error(make_dataset) -> None:
    folder = make_dataset({"training": [_clip(0), _clip(1)]}, num_replicas=0, num_shards=2)
    lost = shard_path(folder, "made", "training", 1, 2)
    lost.unlink()
    with pytest.raises(DatasetError, match=lost.name):
        list(ClipSource(folder, "training"))


@pytest.mark.parametrize("how", ["cut short", "overwritten"])
def test_a_damaged_shard_is_named(make_dataset, how: str) -> None:
    rng = np.random.default_rng(0)
    clips = [
        Clip(i, 0, 1.0, 0.0, rng.integers(-9000, 9000, 48_000).astype("<i2")) for i in range(6)
    ]
    folder = make_dataset({"training": clips}, num_replicas=0, num_shards=2)
    path = shard_path(folder, "made", "training", 1, 2)
    whole = path.read_bytes()
    path.write_bytes(
        whole[: len(whole) // 2] if how == "cut short" else whole[:1000] + bytes(len(whole) - 1000)
    )
    source = ClipSource(folder, "training")
    with pytest.raises(
        DatasetError,
        match=rf"{path.name} is damaged .*; copy it again, or delete it and start the preparation",
    ):
        [source[i] for i in range(6)]


def test_damaged_metadata_is_a_dataset_error(make_dataset) -> None:
    folder = make_dataset({"training": [_clip(0)]}, num_replicas=0)
    whole = (folder / "confp.json").read_text()
    rate = '"sample_rate_hz": 16000'
    assert rate in whole
    odd = [whole.replace(rate, f'"sample_rate_hz": {text}') for text in ('"x"', "null", "0", "1.5")]
    for text in ('{"name": "cut off', "[]", "7", "[" * 100_000, *odd):
        (folder / "confp.json").write_text(text)
        with pytest.raises(DatasetError, match=r"confp\.json is damaged"):
            ClipSource(folder, "training")
    (folder / "confp.json").write_text(whole)
    np.save(folder / "clips-training.npy", np.arange(3))
    with pytest.raises(DatasetError, match=r"clips-training\.npy is missing or damaged"):
        ClipSource(folder, "training")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"shards": 7}', '{"shards": [{"file": "a"}]}', "[" * 100_000]
)
def test_a_damaged_manifest_is_a_dataset_error(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match=r"manifest\.json is missing or damaged.*start the"):
        read_manifest(tmp_path)


@given(samples=hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(-4, 4, width=32)))
def test_int16_is_never_clipped(samples: np.ndarray) -> None:
    pcm = to_int16(samples)
    scale = 32767.0 / max(1.0, float(np.abs(samples).max(initial=0.0)))
    assert pcm.dtype == np.dtype("<i2")
    # Half a step of rounding, and one float32 rounding of a value up to 32767.
    np.testing.assert_allclose(
        pcm.astype(np.float64), samples.astype(np.float64) * scale, rtol=0, atol=0.5 + 0.004
    )


def test_int16_scale() -> None:
    np.testing.assert_array_equal(
        to_int16(np.array([0.5, -1.0, 1.0, 0.0], np.float32)), [16384, -32767, 32767, 0]
    )
    np.testing.assert_array_equal(
        to_int16(np.array([2.0, -4.0, 1.0], np.float32)), [16384, -32767, 8192]
    )


def test_a_shard_that_failed_is_not_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "made-training.array_record-00000-of-00001"

    def broken():
        yield _clip(0)
        yield _clip(1)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_shard(path, broken(), sample_rate_hz=16_000)
    assert not path.exists()
    written = write_shard(path, [_clip(0), _clip(1)], sample_rate_hz=16_000)
    assert (len(written.clips), written.num_records, written.num_bytes) == (
        2,
        2,
        path.stat().st_size,
    )
    whole = tmp_path / "whole"
    write_shard(whole, [_clip(0), _clip(1)], sample_rate_hz=16_000)
    assert path.read_bytes() == whole.read_bytes(), (
        "the same clips are the same bytes, whatever lay there before"
    )
    assert not list(tmp_path.glob("*.part"))


@pytest.fixture(scope="module")
def in_pieces(make_dataset) -> tuple[ClipSource, list[Clip]]:
    """Clips around one, two and three pieces of 3 s at 16 kHz, and a long one."""
    piece = round(PIECE_S * 16_000)
    lengths = [0, 1, piece - 1, piece, piece + 1, 2 * piece, 3 * piece - 7, 20 * piece + 5]
    clips = [_clip(i, num_samples=num) for i, num in enumerate(lengths)]
    return ClipSource(
        make_dataset({"training": clips}, num_replicas=0, num_shards=2), "training"
    ), clips


@given(data=st.data())
def test_a_crop_is_a_slice_of_the_whole(
    in_pieces: tuple[ClipSource, list[Clip]], data: st.DataObject
) -> None:
    source, clips = in_pieces
    index = data.draw(st.integers(0, len(clips) - 1))
    num = len(clips[index].samples)
    start = data.draw(st.integers(0, num))
    stop = data.draw(st.integers(start, num))
    np.testing.assert_array_equal(source.crop(index, start, stop), clips[index].samples[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 48_002), (48_002, 48_002)])
def test_a_crop_outside_the_clip_is_refused(
    in_pieces: tuple[ClipSource, list[Clip]], start: int, stop: int
) -> None:
    with pytest.raises(DatasetError, match=f"samples {start} to {stop} of a clip of 48001"):
        in_pieces[0].crop(4, start, stop)


def test_a_training_crop_reads_at_most_twice_its_bytes(
    in_pieces: tuple[ClipSource, list[Clip]],
) -> None:
    """By what the kernel has handed over to this process, not by our own counting; at the worst
    starts, too.
    """

    def bytes_read() -> int:
        return int(pathlib.Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    source = in_pieces[0]
    num = 48_000
    source.crop(7, 0, num)  # opens the shard
    starts = [*np.random.default_rng(0).integers(0, 19 * num, 97), 0, 1, num - 1]
    before = bytes_read()
    for start in starts:
        source.crop(7, start, start + num)
    read = (bytes_read() - before) / len(starts)
    assert 2 * num * 0.99 < read <= 2 * (2 * num) * 1.01 + 500  # a record's own header and fields


def test_an_empty_split_is_empty(make_dataset) -> None:
    source = ClipSource(
        make_dataset({"training": [_clip(0)], "validation": []}, num_replicas=0), "validation"
    )
    assert (len(source), source.num_tracks, list(source)) == (0, 0, [])
