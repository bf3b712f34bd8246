"""Any folder as a data set: the split hangs on the content alone."""

import collections
import pathlib
import random

import pytest

from data_prep import folder
from data_prep.tracks import SourceError


def _fill(root: pathlib.Path, numbers: range) -> None:
    for number in numbers:
        path = root / f"{number % 7}" / f"{number}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(50))  # not decoded here


def test_adding_files_moves_none(tmp_path: pathlib.Path) -> None:
    _fill(tmp_path, range(300))
    before = {track.track_id: track.split for track in folder.read_tracks(tmp_path)}
    _fill(tmp_path, range(300, 500))
    after = {track.track_id: track.split for track in folder.read_tracks(tmp_path)}
    assert (len(before), len(after)) == (300, 500)
    assert before.items() <= after.items()
    shares = collections.Counter(after.values())
    assert 0.74 < shares["training"] / 500 < 0.86  # 0.8, and 3 standard deviations of 500 draws
    assert 0.06 < shares["validation"] / 500 < 0.14
    assert 0.06 < shares["test"] / 500 < 0.14


def test_a_file_keeps_its_split_under_another_name(tmp_path: pathlib.Path) -> None:
    _fill(tmp_path / "a", range(50))
    before = {track.track_id: track.split for track in folder.read_tracks(tmp_path / "a")}
    (tmp_path / "b").mkdir()
    for number, path in enumerate(sorted((tmp_path / "a").rglob("*.mp3"))):
        path.rename(tmp_path / "b" / f"renamed {number}.wav")
    tracks = folder.read_tracks(tmp_path / "b")
    assert {track.track_id: track.split for track in tracks} == before
    assert [track.track_id for track in tracks] == sorted(before)


def test_a_copy_is_the_same_track(tmp_path: pathlib.Path) -> None:
    _fill(tmp_path, range(3))
    (tmp_path / "0" / "copy.mp3").write_bytes((tmp_path / "0" / "0.mp3").read_bytes())
    tracks = folder.read_tracks(tmp_path)
    assert len(tracks) == 3
    assert sorted(track.name for track in tracks) == [
        "0/0.mp3",
        "1/1.mp3",
        "2/2.mp3",
    ]  # the first by name
    assert all(track.path == tmp_path / track.name for track in tracks)


def test_folders_are_albums(tmp_path: pathlib.Path) -> None:
    _fill(tmp_path, range(8))
    (tmp_path / "single.mp3").write_bytes(b"x")
    albums = {track.name: track.album for track in folder.read_tracks(tmp_path)}
    assert albums == {f"{i % 7}/{i}.mp3": f"{i % 7}" for i in range(8)} | {"single.mp3": ""}


def test_only_audio_counts(tmp_path: pathlib.Path) -> None:
    _fill(tmp_path, range(2))
    (tmp_path / "cover.jpg").write_bytes(b"x")
    (tmp_path / "._0.mp3").write_bytes(b"resource fork")
    assert len(folder.read_tracks(tmp_path)) == 2


def test_empty_and_missing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SourceError, match="holds no audio file"):
        folder.read_tracks(tmp_path)
    with pytest.raises(SourceError, match=r"no such folder; pass --config\.music_dir=FOLDER"):
        folder.read_tracks(tmp_path / "nowhere")


def test_ids_fit_the_record(tmp_path: pathlib.Path) -> None:
    _fill(tmp_path, range(100))
    ids = [track.track_id for track in folder.read_tracks(tmp_path)]
    assert min(ids) >= 0
    assert 2**60 < max(ids) < 2**62
