"""Copies are found, whatever they were encoded as and wherever they begin; different music is not; both users heed it."""

import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from rich.console import Console

from confp_jax.audio.decode import decode
from confp_jax.audio.encode import through_codec
from confp_jax.config import DataConfig, TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.duplicates import DUPLICATES_FILE, places_without_duplicates, read_duplicates
from confp_jax.data.input import steps_per_epoch, tracks_to_train, train_batches
from confp_jax.data.records import Clip, DatasetError
from data_prep import duplicates
from data_prep.tracks import SourceError, Track

_RATE_HZ = 16_000
_QUIET = Console(quiet=True)


@pytest.mark.skipif(shutil.which("fpcalc") is None, reason="needs fpcalc (libchromaprint-tools)")
def test_copies_are_found_and_other_music_is_not(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    paths = sorted((root / "examples/music").glob("*.mp3"))
    tracks = [Track(100 + i, path, "training", path.name) for i, path in enumerate(paths)]
    shutil.copy(paths[3], tmp_path / "bits.mp3")
    tracks.append(Track(1, tmp_path / "bits.mp3", "test", ""))
    samples = decode(paths[5], sample_rate_hz=_RATE_HZ).samples
    low = through_codec(samples, sample_rate_hz=_RATE_HZ, codec="mp3", bitrate_kbps=24)
    soundfile.write(tmp_path / "low.wav", low[5 * _RATE_HZ : 22 * _RATE_HZ], _RATE_HZ)  # another encoding, begun later
    tracks.append(Track(2, tmp_path / "low.wav", "test", ""))
    soundfile.write(tmp_path / "quiet.flac", 0.2 * decode(paths[7], sample_rate_hz=22_050).samples, 22_050)
    tracks.append(Track(3, tmp_path / "quiet.flac", "training", ""))
    (tmp_path / "broken.mp3").write_text("nothing")
    tracks += [Track(4, tmp_path / "broken.mp3", "training", ""), Track(5, tmp_path / "missing.mp3", "training", "")]
    assert duplicates.find_duplicates(tracks, _QUIET) == [[1, 103], [2, 105], [3, 107]]


def test_near_duplicates_of_fingerprints() -> None:
    rng = np.random.default_rng(0)
    prints = {i: rng.integers(2**32, size=240, dtype=np.uint32) for i in range(20)}
    noisy = prints[4][50:200].copy()
    noisy[::3] ^= np.uint32(1 << 7)
    prints[30] = noisy
    prints[31] = np.concatenate([prints[9][:30], rng.integers(2**32, size=200, dtype=np.uint32)])  # a jingle at the beginning
    prints[32] = prints[33] = np.full(240, 7, np.uint32)  # silence is no music
    prints[40] = np.zeros(0, np.uint32)
    assert duplicates.near_duplicates({i: values for i, values in prints.items() if len(values)}) == [(4, 30)]
    assert duplicates.near_duplicates({}) == []


def test_without_fpcalc(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"fpcalc is not installed; .*libchromaprint-tools"):
        duplicates.find_duplicates([], _QUIET)


def test_one_of_each_group_and_none_that_is_held_out() -> None:
    group_of = {1: 1, 2: 1, 3: 1, 7: 7, 8: 7}
    assert places_without_duplicates([1, 2, 3, 4, 7], [8, 9], group_of) == [0, 3]
    assert places_without_duplicates([5, 6], [9], {}) == [0, 1]


def test_training_heeds_them(make_dataset: Callable) -> None:
    clips = {i: [Clip(i, r, 1.0, 0.0, np.full(4 * _RATE_HZ, i, "<i2")) for r in (0, 1)] for i in range(8)}
    training = [clip for i in range(6) for clip in clips[i]]
    folder = make_dataset({"training": training, "validation": clips[6], "test": clips[7]})
    config = TrainConfig(data=DataConfig(dir=str(folder), batch_size=3))
    assert list(tracks_to_train(ClipSource(folder, "training"))) == list(range(6))
    (folder / DUPLICATES_FILE).write_text(json.dumps({"groups": [[0, 3], [5, 7]]}))
    assert list(tracks_to_train(ClipSource(folder, "training"))) == [0, 1, 2, 4]
    batches = train_batches(config)
    heard = {int(value) for _ in range(12) for value in next(batches)["anchor"][:, 0]}
    assert heard == {0, 1, 2, 4}
    assert steps_per_epoch(config) == 1
    with pytest.raises(DatasetError, match="has 4 training tracks, a batch needs 6"):
        train_batches(TrainConfig(data=DataConfig(dir=str(folder), batch_size=6)))


def test_a_damaged_file(tmp_path: pathlib.Path) -> None:
    assert read_duplicates(tmp_path) == {}
    for text in ("{", "[]", '{"groups": [["a"]]}'):
        (tmp_path / DUPLICATES_FILE).write_text(text)
        with pytest.raises(DatasetError, match=r"duplicates\.json is damaged"):
            read_duplicates(tmp_path)
