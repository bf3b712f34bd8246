"""Copies are found, whatever they were encoded as and wherever they begin; different music is not;
both users heed it.
"""

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
from confp_jax.database import StoredTrack
from confp_jax.matching.shared_sections import SharedSection
from data_prep import duplicates
from data_prep.augment import Chain
from data_prep.config import ChainConfig, Draw
from data_prep.sounds import Sounds
from data_prep.tracks import Track

_RATE_HZ = 16_000
_QUIET = Console(quiet=True)


def test_copies_are_found_and_other_music_is_not(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Bits, another encoding begun later, a quiet one at another rate, and a faster one; a part
    with other music is no copy.
    """
    paths = sorted((root / "examples/music").glob("*.mp3"))[:10]
    tracks = [Track(100 + i, path, "training", path.name) for i, path in enumerate(paths)]
    shutil.copy(paths[3], tmp_path / "bits.mp3")
    samples = decode(paths[5], sample_rate_hz=_RATE_HZ).samples
    low = through_codec(samples, sample_rate_hz=_RATE_HZ, codec="mp3", bitrate_kbps=24)
    soundfile.write(tmp_path / "low.wav", low[5 * _RATE_HZ : 22 * _RATE_HZ], _RATE_HZ)
    soundfile.write(
        tmp_path / "quiet.flac", 0.2 * decode(paths[7], sample_rate_hz=22_050).samples, 22_050
    )
    faster = Chain(ChainConfig(stretch=Draw(1.0, 1.1, 1.1)), Sounds()).apply(
        decode(paths[8], sample_rate_hz=_RATE_HZ).samples, sample_rate_hz=_RATE_HZ, seed=(0,)
    )
    soundfile.write(tmp_path / "faster.flac", faster.samples, _RATE_HZ)
    first, second = (decode(path, sample_rate_hz=_RATE_HZ).samples for path in (paths[9], paths[1]))
    soundfile.write(
        tmp_path / "jingle.flac",
        np.concatenate([first[: 12 * _RATE_HZ], second[-12 * _RATE_HZ :]]),
        _RATE_HZ,
    )
    (tmp_path / "broken.mp3").write_text("nothing")
    names = (
        "bits.mp3",
        "low.wav",
        "quiet.flac",
        "faster.flac",
        "jingle.flac",
        "broken.mp3",
        "missing.mp3",
    )
    tracks += [Track(i, tmp_path / name, "test", "") for i, name in enumerate(names, start=1)]
    found = duplicates.find_duplicates(tracks, tmp_path / "prints", _QUIET)
    assert found == [[1, 103], [2, 105], [3, 107], [4, 108]]
    (
        tmp_path / "bits.mp3"
    ).unlink()  # the fingerprints are kept; what is no track any more is in no group
    assert duplicates.find_duplicates(tracks, tmp_path / "prints", _QUIET) == found[1:]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (SharedSection(0, 1, 0.0, 0.0, 28.5, 1.0, 0.95, 1.0), True),
        (SharedSection(0, 1, 0.0, 0.0, 28.5, 1.0, 0.79, 1.0), False),  # another arrangement
        (
            SharedSection(0, 1, 3.0, 1.0, 12.0, 1.0, 0.95, 1.0),
            False,
        ),  # 28 s sound beside each other, 12 are equal
        (
            SharedSection(0, 1, 18.0, 0.0, 11.5, 1.0, 0.95, 1.0),
            True,
        ),  # the end of one is the beginning of the other
        (SharedSection(0, 2, 6.0, 0.0, 9.0, 1.0, 0.95, 1.0), True),  # a short one within a long one
        (
            SharedSection(0, 1, 0.0, 0.0, 20.0, 1.4, 0.95, 1.0),
            True,
        ),  # at 1.4 times the speed the other one ends after 21.4 s
    ],
)
def test_a_copy_sounds_alike_all_along(found: SharedSection, expected: bool) -> None:
    tracks = [
        StoredTrack(name="", path="", sha256="", duration_s=length_s, first_row=0, num_rows=0)
        for length_s in (30.0, 30.0, 10.0)
    ]
    assert duplicates.is_copy(found, tracks) is expected


def test_groups() -> None:
    assert duplicates.groups_of([[5, 3], [1], [4, 5], [9, 8], []]) == [[3, 4, 5], [8, 9]]


def test_one_of_each_group_and_none_that_is_held_out() -> None:
    group_of = {1: 1, 2: 1, 3: 1, 7: 7, 8: 7}
    assert places_without_duplicates([1, 2, 3, 4, 7], [8, 9], group_of) == [0, 3]
    assert places_without_duplicates([5, 6], [9], {}) == [0, 1]


def test_training_heeds_them(make_dataset: Callable) -> None:
    clips = {
        i: [Clip(i, r, 1.0, 0.0, np.full(4 * _RATE_HZ, i, "<i2")) for r in (0, 1)] for i in range(8)
    }
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
    odd = ('{"groups": [["a"]]}', '{"groups": [[Infinity]]}', '{"groups": [[[1]]]}', "[" * 100_000)
    for text in ("{", "[]", *odd):
        (tmp_path / DUPLICATES_FILE).write_text(text)
        with pytest.raises(DatasetError, match=r"duplicates\.json is damaged"):
            read_duplicates(tmp_path)
