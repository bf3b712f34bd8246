"""FMA's metadata: the real table, and tables that are broken in every way a download can break."""

import collections
import csv
import pathlib

import pytest

from confp_jax.data.records import SUBSETS
from data_prep import fma
from data_prep.tracks import SourceError

_HEADER = [
    ["", "artist", "set", "set", "track", "album", "track"],
    ["", "name", "split", "subset", "bit_rate", "id", "title"],
    ["track_id", "", "", "", "", "", ""],
]


def _write(
    path: pathlib.Path, rows: list[list[object]], *, header: list[list[str]] = _HEADER
) -> pathlib.Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*header, *rows])
    return path


def _row(
    track_id: int,
    split: str = "training",
    subset: str = "small",
    name: str = "Ann",
    title: str = "Öde",
    album: str = "9",
) -> list[object]:
    return [track_id, name, split, subset, 40_000, album, title]


def test_the_real_table(shared: pathlib.Path) -> None:
    music = shared / "data" / "music"
    found = {
        s: fma.read_tracks(music / "tracks.csv", music, subset=s)
        for s in ("small", "medium", "large", "full")
    }
    assert [len(found[s]) for s in ("small", "medium", "large", "full")] == [221, 441, 881, 881]
    assert collections.Counter(track.split for track in found["large"]) == {
        "training": 705,
        "validation": 88,
        "test": 88,
    }
    ids = [{track.track_id for track in found[s]} for s in ("small", "medium", "large")]
    assert ids[0] < ids[1] < ids[2]
    assert [track.track_id for track in found["large"]] == sorted(ids[2])
    assert all(track.path.is_file() for track in found["large"])
    assert (found["large"][0].name, found["large"][0].album) == ("Cubulo - foxrun", "105")


def test_path_and_name(tmp_path: pathlib.Path) -> None:
    path = _write(
        tmp_path / "tracks.csv", [_row(123_456), _row(7, name=""), _row(8, title='a, "b"\nc')]
    )
    tracks = fma.read_tracks(path, "music", subset="small")
    assert [track.path.as_posix() for track in tracks] == [
        "music/000/000007.mp3",
        "music/000/000008.mp3",
        "music/123/123456.mp3",
    ]
    assert [track.name for track in tracks] == ["Öde", 'Ann - a, "b"\nc', "Ann - Öde"]


def test_albums(tmp_path: pathlib.Path) -> None:
    path = _write(
        tmp_path / "tracks.csv",
        [_row(2), _row(3, album="-1"), _row(4, album=""), _row(5, album="10")],
    )
    assert [track.album for track in fma.read_tracks(path, "m", subset="small")] == [
        "9",
        "",
        "",
        "10",
    ]


def test_subsets_are_nested(tmp_path: pathlib.Path) -> None:
    rows = [_row(i, subset=subset) for i, subset in enumerate(SUBSETS, 1)]
    path = _write(tmp_path / "tracks.csv", rows)
    assert [len(fma.read_tracks(path, "m", subset=subset)) for subset in SUBSETS] == [
        1,
        2,
        3,
        4,
    ]


def test_known_bad_tracks_are_left_out(tmp_path: pathlib.Path) -> None:
    """The ids of docs/research/data.md, one by one."""
    bad = [
        99134,
        108925,
        133297,
        1486,
        2624,
        5574,
        65753,
        80391,
        98558,
        98559,
        98560,
        98565,
        98566,
        98567,
        98568,
        98569,
    ]
    bad += [98571, 105247, 108924, 126981, 127336, 143992]
    path = _write(tmp_path / "tracks.csv", [_row(i) for i in [*bad, 98561, 98564, 98570, 2]])
    assert [track.track_id for track in fma.read_tracks(path, "m", subset="small")] == [
        2,
        98561,
        98564,
        98570,
    ]
    left_out = {failure.track_id: failure for failure in fma.known_bad(path, "m", subset="small")}
    assert left_out.keys() == set(bad)
    assert left_out[1486].path == "m/001/001486.mp3"
    assert "Ann - Öde: FMA's file is short or broken" in left_out[1486].why
    assert "no audio" in left_out[99134].why


def test_no_such_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SourceError, match=r"no such file.*fma_metadata\.zip"):
        fma.read_tracks(tmp_path / "tracks.csv", "m", subset="small")


def test_unknown_subset(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        SourceError, match="subset 'huge': expected one of small, medium, large, full"
    ):
        fma.read_tracks(tmp_path / "tracks.csv", "m", subset="huge")


@pytest.mark.parametrize(
    "header", [[], [["a", "b"]], [_HEADER[0][:-1], _HEADER[1][:-1], _HEADER[2][:-1]]]
)
def test_missing_column(tmp_path: pathlib.Path, header: list[list[str]]) -> None:
    path = _write(tmp_path / "tracks.csv", [], header=header)
    with pytest.raises(SourceError, match=r"columns .*'track', 'title'.* are missing"):
        fma.read_tracks(path, "m", subset="small")


def test_truncated_row(tmp_path: pathlib.Path) -> None:
    """A download that broke off: the last line ends in the middle."""
    path = _write(tmp_path / "tracks.csv", [_row(1), _row(2), _row(3)])
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(SourceError, match=r"line 6: \d cells instead of 7; download it again"):
        fma.read_tracks(path, "m", subset="small")


def test_binary_rubbish(tmp_path: pathlib.Path) -> None:
    """fma_metadata.zip itself, passed instead of the table inside it."""
    path = tmp_path / "tracks.csv"
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 20)
    with pytest.raises(SourceError, match=r"tracks\.csv"):
        fma.read_tracks(path, "m", subset="small")


def test_unknown_split(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "tracks.csv", [_row(1), _row(2, split="train")])
    with pytest.raises(
        SourceError, match="line 5: split 'train', expected one of training, validation, test"
    ):
        fma.read_tracks(path, "m", subset="small")


def test_a_track_in_two_splits(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "tracks.csv", [_row(1), _row(1)])
    assert len(fma.read_tracks(path, "m", subset="small")) == 1
    path = _write(tmp_path / "tracks.csv", [_row(1), _row(1, split="test")])
    with pytest.raises(SourceError, match="line 5: track 1 is in training and in test"):
        fma.read_tracks(path, "m", subset="small")


@pytest.mark.parametrize("cell", ["9" * 5_000, "x" * 200_000])
def test_a_cell_that_is_no_number_or_too_long(tmp_path: pathlib.Path, cell: str) -> None:
    path = _write(tmp_path / "tracks.csv", [_row(1)])
    with open(path, "a") as file:
        file.write(cell + "," * path.read_text().splitlines()[-1].count(",") + "\n")
    with pytest.raises(SourceError, match="download it again"):
        fma.read_tracks(path, "m", subset="small")
