"""The corpus from Debian packages, without a network: `unpack` writes a package as a tree."""

import csv
import pathlib
import shutil
import zipfile

import pytest

from confp_jax.files import RUN_LOCK, one_process
from data_prep import fma
from data_prep.fetch_corpus import (
    PROMPTS,
    TABLE,
    Original,
    fetch,
    is_there,
    main,
    read_table,
    write_tracks_csv,
)
from data_prep.tracks import SourceError


def original(track_id: int, package: str, path: str, **values: str) -> Original:
    names = {"split": "training", "subset": "small", "version": "1", "licence": "GPL-2+"}
    names |= {"title": f"title {track_id}", "artist": "Ann", "album": "7"} | values
    return Original(track_id=track_id, package=package, path=path, **names)


def unpack(package: str, folder: pathlib.Path) -> None:
    if package == "gone":
        raise SourceError("apt-get download gone: E: Unable to locate package gone")
    (folder / "usr/music").mkdir(parents=True)
    (folder / "usr/music/one.ogg").write_bytes(b"one")
    with zipfile.ZipFile(folder / "usr/music/all.zip", "w") as archive:
        archive.writestr("inner/two.MP3", "two")


ORIGINALS = [
    original(2, "here", "usr/music/one.ogg"),
    original(1003, "here", "usr/music/all.zip.d/inner/two.MP3", split="test"),
    original(4, "here", "usr/music/three.ogg"),
    original(5, "gone", "usr/music/five.ogg"),
]


def test_files_come_to_their_places_and_failures_are_named(tmp_path: pathlib.Path) -> None:
    failures = fetch(ORIGINALS, tmp_path, unpack=unpack)
    found = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.glob("*/*")}
    assert found == {"000/000002.ogg": b"one", "001/001003.mp3": b"two"}
    assert {failure.track_id for failure in failures} == {4, 5}
    reasons = {failure.track_id: failure.why for failure in failures}
    assert "not in the package" in reasons[4] and "Unable to locate" in reasons[5]


def test_a_second_run_fetches_only_what_is_missing(tmp_path: pathlib.Path) -> None:
    fetch(ORIGINALS, tmp_path, unpack=unpack)
    asked = []
    fetch(ORIGINALS, tmp_path, unpack=lambda package, folder: asked.append(package))
    assert sorted(asked) == ["gone", "here"]
    asked.clear()
    fetch(ORIGINALS[:2], tmp_path, unpack=lambda package, folder: asked.append(package))
    assert asked == []


def test_a_copy_that_was_interrupted_does_not_count(tmp_path: pathlib.Path) -> None:
    (tmp_path / "000").mkdir()
    (tmp_path / "000/000002.part.ogg").write_bytes(b"o")
    assert not is_there(tmp_path, 2)


def test_the_table_of_tracks_is_one_that_the_preparation_reads(tmp_path: pathlib.Path) -> None:
    fetch(ORIGINALS, tmp_path, unpack=unpack)
    write_tracks_csv(tmp_path / "tracks.csv", ORIGINALS[:2])
    tracks = fma.read_tracks(tmp_path / "tracks.csv", tmp_path, subset="large")
    assert [(t.track_id, t.split, t.name, t.album) for t in tracks] == [
        (2, "training", "Ann - title 2", "7"),
        (1003, "test", "Ann - title 1003", "7"),
    ]
    assert all(track.path.is_file() for track in tracks)


def test_the_table_that_ships(shared: pathlib.Path) -> None:
    originals = read_table(TABLE)
    assert len({one.track_id for one in originals}) == len(originals) == 792
    assert all(one.licence and one.package and one.path for one in originals)
    music = shared / "data" / "music"
    known = {t.track_id: t for t in fma.read_tracks(music / "tracks.csv", music, subset="large")}
    assert all(known[one.track_id].split == one.split for one in originals)


def test_the_prompts_that_ship() -> None:
    prompts = read_table(PROMPTS)
    ids = {one.track_id for one in prompts}
    assert len(ids) == len(prompts) == 683
    assert not ids & {one.track_id for one in read_table(TABLE)}
    splits: dict[str, set[str]] = {}
    for one in prompts:
        name = pathlib.PurePosixPath(one.path).relative_to("usr/share/asterisk/sounds").parts[1:]
        splits.setdefault("/".join(name), set()).add(one.split)
        splits.setdefault("".join(filter(str.isalnum, one.title.lower())), set()).add(one.split)
    assert max(map(len, splits.values())) == 1, "a text of two splits was heard in training"


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("path", "../../etc/passwd", "a path inside it"),
        ("path", "/etc/passwd", "a path inside it"),
        ("track_id", "two", "a whole number"),
        ("split", "train", "one of training"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(
    column: str, value: str, reason: str, tmp_path: pathlib.Path
) -> None:
    with open(TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:2]
    rows[1][column] = value
    with open(tmp_path / "table.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    with pytest.raises(SourceError, match=f"line 3.*{reason}"):
        read_table(tmp_path / "table.csv")


def test_the_command(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0 and "--only" in capsys.readouterr().out
    assert main([str(tmp_path / "out"), "--table", str(tmp_path / "none.csv")]) == 2
    assert "none.csv cannot be read" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))  # neither apt-get nor dpkg-deb
    assert main([str(tmp_path / "out"), "--only", "xmoto-data"]) == 1
    printed = capsys.readouterr()
    assert "apt-get is not installed" in printed.err and "0 of" in printed.out
    assert shutil.which("apt-get") is None


def test_a_zip_file_that_is_none_costs_its_tracks_alone(tmp_path: pathlib.Path) -> None:
    def damaged(package: str, folder: pathlib.Path) -> None:
        unpack(package, folder)
        (folder / "usr/music/all.zip").write_bytes(b"PK\3\4 and no more")

    failures = fetch(ORIGINALS[:2], tmp_path, unpack=damaged)
    assert [failure.track_id for failure in failures] == [1003]
    assert "cannot be unpacked" in failures[0].why and is_there(tmp_path, 2)


def test_a_second_run_is_refused_and_what_a_killed_one_unpacked_goes(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus"
    with one_process(out / RUN_LOCK, SourceError):
        assert main([str(out), "--only", "nothing"]) == 2
        assert "is being filled by process" in capsys.readouterr().err
    (out / ".fetching" / "tmpx" / "root").mkdir(parents=True)
    assert main([str(out), "--only", "nothing"]) == 0
    assert [path.name for path in out.iterdir()] == ["tracks.csv"]
