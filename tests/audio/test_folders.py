"""Which files of folders are audio."""

import pathlib

import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import DecodeError, decode
from confp_jax.audio.folders import find_audio


def below(folder: pathlib.Path, paths: list[pathlib.Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_folders_are_sorted_and_files_are_left_as_given(tmp_path):
    names = ("b/2.MP3", "b/1.flac", "a.wav", "b/.hidden.wav", "b/cover.jpg", "notes.txt", "c.ogg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    notes = tmp_path / "notes.txt"  # given by name: decoding will say what is wrong with it
    found = find_audio([notes, tmp_path, tmp_path / "a.wav"])
    assert below(tmp_path, found.files) == ["notes.txt", "a.wav", "b/1.flac", "b/2.MP3", "c.ogg"]
    assert sorted(below(tmp_path, found.passed_over)) == ["b/cover.jpg", "notes.txt"]
    given = [tmp_path / "b" / "2.MP3", tmp_path / "a.wav"]
    assert find_audio(given).files == given


def test_what_has_an_unknown_suffix_is_tried(tmp_path):
    for name in ("x.wave", "no suffix", "song.flac.bak"):
        soundfile.write(tmp_path / name, np.zeros(8_000), 16_000, format="WAV")
    (tmp_path / "code.ts").write_text("export const x = 1;\n")
    (tmp_path / "LICENSE").write_text("This is no music.\n" * 100)
    found = find_audio([tmp_path])
    assert below(tmp_path, found.files) == ["no suffix", "song.flac.bak", "x.wave"]
    assert sorted(below(tmp_path, found.passed_over)) == ["LICENSE", "code.ts"]


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    music = tmp_path / "music"
    disk = tmp_path / "disk"
    for path in (music / "a.wav", disk / "b.wav", disk / "sub" / "c.wav"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (music / "more").symlink_to(disk)
    (music / "again").symlink_to(disk / "sub")
    (disk / "back").symlink_to(music)
    (music / "loop.wav").symlink_to("loop.wav")
    (music / "gone.wav").symlink_to("nowhere.wav")
    found = find_audio([music])
    assert sorted(path.resolve().name for path in found.files) == ["a.wav", "b.wav", "c.wav"]
    assert sorted(below(music, found.passed_over)) == ["gone.wav", "loop.wav"]


def test_hidden_folders_and_databases_are_left_out(tmp_path):
    for name in (".git/x.wav", "music.db/vectors/x.wav", "music.db/catalogue.sqlite", "a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert below(tmp_path, find_audio([tmp_path]).files) == ["a.wav"]


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    for name in ("closed/x.wav", "open/y.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    original = pathlib.Path.stat

    def refuse(path: pathlib.Path, **options):
        if path.name == "closed" or "closed" in path.parts[:-1]:
            raise PermissionError(13, "Permission denied")
        return original(path, **options)

    monkeypatch.setattr(pathlib.Path, "stat", refuse)
    found = find_audio([tmp_path / "open", tmp_path / "closed" / "x.wav", tmp_path / ("a" * 300)])
    assert below(tmp_path, found.files) == ["open/y.wav", "closed/x.wav", "a" * 300]
    monkeypatch.setattr(pathlib.Path, "is_dir", lambda path: path.suffix == "")
    (failed,) = find_audio([tmp_path]).failed
    assert failed == (
        tmp_path / "closed",
        f"{tmp_path / 'closed'}: cannot be read (Permission denied)",
    )


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "loop.wav", "nothing.wav"])
def test_names_that_lead_nowhere_are_errors_of_their_file(tmp_path, name):
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    with pytest.raises(DecodeError, match=f"{name}: (no such file|cannot be read)"):
        decode(tmp_path / name, sample_rate_hz=16_000)
