"""File names with everything in them that a name can have."""

import os
import pathlib
import shutil

import pytest
import soundfile
from user_files import RATE, write_clip

NAMES = [
    "with  two spaces.wav",
    "quotes ' and \".wav",
    "Ünïcödé 音楽 🎵.wav",
    "[red]alarm.wav",
    "[bold]never closed.wav",
    "per%cent 100%d.wav",
    "semi;colon & $HOME `id`.wav",
    "Re:Zero.mp3",
    "http:x.mp3",
    "-dash.wav",
    "--model",
    "back\\slash.wav",
    "x" * 200 + ".wav",
]


class TestNames:
    @pytest.fixture
    def here(self, tmp_path, clip, monkeypatch) -> pathlib.Path:
        """A folder that also has a name, with all the names, each its own content; the current
        one.
        """
        folder = tmp_path / "[green]my music[ ]"
        folder.mkdir()
        for i, name in enumerate(NAMES):
            kind = "MP3" if name.endswith("mp3") else "WAV"
            soundfile.write(folder / name, clip[: 4 * RATE + 10 * i], RATE, format=kind)
        monkeypatch.chdir(folder)
        return folder

    def test_good_files(self, confp, database, here):
        status, added, _ = confp("add", "--json", database, "--", *NAMES)
        assert [(a["path"], a["status"], a["error"]) for a in added] == [
            (name, "added", "") for name in NAMES
        ]
        assert status == 0
        _, tracks, _ = confp("list", database, "--json")
        assert {t["path"] for t in tracks} >= {str(here / name) for name in NAMES}
        _, out, _ = confp("list", database)
        assert all(str(here / name) in out for name in NAMES)
        status, answers, _ = confp("identify", "--json", database, "--", *NAMES)
        assert (status, [a["query"] for a in answers]) == (0, NAMES)
        status, out, _ = confp("identify", database, "--", *NAMES)
        assert [
            line[: len(name) + 2] for line, name in zip(out.splitlines(), NAMES, strict=True)
        ] == [f"{n}: " for n in NAMES]

    def test_bad_files_are_named_as_they_are(self, confp, database, here):
        for name in NAMES:
            pathlib.Path(name).write_bytes(b"")
        for command in ("add", "identify"):
            status, _, err = confp(command, database, "--", *NAMES)
            assert status == 1
            assert [line for line in err.splitlines() if line.strip()] == [
                f"failed {name}: the file is empty (0 bytes); copy it again" for name in NAMES
            ]
        status, _, err = confp("add", database, here)
        assert f"failed {here / NAMES[0]}: " in err

    def test_brackets_over_a_path_are_no_markup(self, confp, database, tmp_path):
        (tmp_path / "a[").mkdir()
        (tmp_path / "a[" / "x].wav").write_bytes(b"")  # "[/x]" closes a tag that was never opened
        status, _, err = confp("add", database, tmp_path / "a[")
        assert (status, err.strip()) == (
            1,
            f"failed {tmp_path}/a[/x].wav: the file is empty (0 bytes); copy it again",
        )

    def test_names_that_are_no_utf8(self, confp, database, tmp_path, clip):
        """Old collections have them. Such a file is added or refused by name, others are added."""
        good = write_clip(tmp_path / "old", "good.wav", clip)
        odd = os.fsdecode(os.fsencode(tmp_path / "old") + b"/caf\xe9.wav")
        try:
            shutil.copy(write_clip(tmp_path, "other.wav", clip[: 4 * RATE]), odd)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        status, added, _ = confp("add", database, tmp_path / "old", "--json")
        assert {a["path"]: a["status"] for a in added}[str(good)] == "added"
        assert len(added) == 2 and status in (0, 3)
        assert confp("list", database)[0] == 0
        status, answers, _ = confp(
            "identify", database, tmp_path / "old" / "good.wav", odd, "--json"
        )
        assert answers[0]["matches"] and status in (0, 3)
