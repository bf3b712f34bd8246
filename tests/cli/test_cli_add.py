"""`confp add` as a user meets it: real files, a real (untrained) model, exit codes, JSON, and
whatever is wrong with files.
"""

import pathlib

import numpy as np
import pytest
import soundfile
from user_files import RATE, SOURCE, write_bad_files, write_clip


class TestAdd:
    def test_a_folder_then_the_same_again(self, confp, model, music, tmp_path):
        status, out, err = confp("add", tmp_path / "a" / "music.db", music, "--model", model)
        assert status == 0
        assert out.startswith("7 added (0.06 h, ") and ", 0 already there, 0 failed; " in out
        assert out.rstrip().endswith("music.db now holds 7 tracks")
        assert "failed" not in err
        status, again, _ = confp(
            "add", tmp_path / "a" / "music.db", music
        )  # the model is remembered
        assert status == 0
        assert again.startswith("0 added (0.00 h, 0 fingerprints), 7 already there, 0 failed")

    def test_json(self, confp, database, music, tmp_path, clip):
        new = write_clip(tmp_path, "new.wav", clip)
        missing = tmp_path / "missing.wav"
        status, added, _ = confp("add", database, music / f"{SOURCE}.mp3", new, missing, "--json")
        assert status == 3
        assert [(a["path"], a["status"]) for a in added] == [
            (str(music / f"{SOURCE}.mp3"), "unchanged"), (str(new), "added"),
            (str(missing), "failed")
        ]  # fmt: skip
        assert added[1]["num_fingerprints"] == 7 and added[1]["duration_s"] == pytest.approx(
            5.0, abs=0.01
        )
        assert added[2]["error"] == f"{missing}: no such file"

    def test_the_same_content_under_two_names_is_one_track(self, confp, database, tmp_path, clip):
        for name in ("one.wav", "two.wav"):
            write_clip(tmp_path / "new", name, clip)
        _, added, _ = confp("add", database, tmp_path / "new", "--json")
        assert [a["status"] for a in added] == ["added", "unchanged"]

    def test_bad_files_among_good_ones(self, confp, database, tmp_path, clip):
        bad = write_bad_files(tmp_path / "new", clip)
        for name in ("a good one.wav", "sub/folder/z.flac"):
            write_clip(
                (tmp_path / "new" / name).parent,
                pathlib.Path(name).name,
                clip[: 4 * RATE + len(name)],
            )
        (tmp_path / "new" / "cover.jpg").write_bytes(b"\xff\xd8")
        (tmp_path / "new" / "._resource.wav").write_bytes(b"\0")  # macOS leaves these
        status, out, err = confp("add", database, tmp_path / "new")
        assert status == 3
        assert (
            out.startswith("2 added")
            and f" {len(bad)} failed" in out
            and out.rstrip().endswith("now holds 9 tracks")
        )
        lines = [line for line in err.splitlines() if line.strip()]
        for name, says in bad.items():
            line = [
                line for line in lines if line.startswith(f"failed {tmp_path / 'new' / name}: ")
            ]
            assert len(line) == 1, f"{name} is not named on a line of its own in {err}"
            assert says in line[0]
            assert len(line[0]) < 400
        assert len(lines) == len(bad)  # and nothing else, such as a decoder's own messages

    def test_only_bad_files(self, confp, database, tmp_path, clip):
        write_bad_files(tmp_path / "new", clip)
        status, out, _ = confp("add", database, tmp_path / "new")
        assert status == 1
        assert out.startswith("0 added") and out.rstrip().endswith("now holds 7 tracks")

    def test_too_short_to_index_says_so(self, confp, database, tmp_path, clip):
        path = write_clip(tmp_path, "short.wav", clip[: RATE // 2])
        status, added, _ = confp("add", database, path, "--json")
        assert (status, added[0]["status"]) == (1, "failed")
        assert added[0]["error"] == (
            f"{path}: 0.50 s is too short to distinguish from other recordings; add recordings "
            "of 1 s and more"
        )

    def test_fewer_dimensions(self, confp, music, tmp_path):
        """A short model is stored as its signs, finds its tracks, and is the database's own."""
        song = music / f"{SOURCE}.mp3"
        status, added, _ = confp("add", tmp_path / "db", song, "--dims", "64", "--json")
        assert (status, added[0]["status"]) == (0, "added")
        status, info, _ = confp("info", tmp_path / "db", "--json")
        assert (info["model"], info["precision"]) == ("edge2-64", "binary")
        status, answers, _ = confp("identify", tmp_path / "db", song, "--json")
        assert (status, answers[0]["matches"][0]["track"]) == (0, SOURCE)
        status, _, err = confp("add", tmp_path / "other", song, "--dims", "7")
        assert (status, err) == (
            1,
            "error: --dims 7: edge2 is not that short; there are 64 and 96\n",
        )
        assert not (tmp_path / "other").exists()

    def test_a_reference_shorter_than_a_segment(self, confp, database, tmp_path, clip):
        path = write_clip(tmp_path, "prompt.wav", clip[: round(1.4 * RATE)])
        status, added, _ = confp("add", database, path, "--json")
        assert (status, added[0]["status"]) == (0, "added")
        status, answers, _ = confp("identify", database, path, "--json")
        best = answers[0]["matches"][0]
        assert best["track"] == "prompt"
        assert best["offset_s"] == pytest.approx(0, abs=0.005)
        assert best["length_s"] == 1.4

    def test_a_folder_without_audio(self, confp, model, database, tmp_path):
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "readme.txt").write_text("no music")
        status, _, err = confp("add", database, tmp_path / "texts")
        assert status == 1
        assert "no audio files found" in err

    @pytest.mark.parametrize("there", ["file", "folder"])
    def test_what_is_no_database_stays_as_it_is(self, confp, model, music, tmp_path, there):
        target = tmp_path / "precious"
        if there == "file":
            target.write_text("thesis")
        else:
            write_clip(target, "take.wav", np.zeros(9))
        status, _, err = confp("add", target, music, "--model", model)
        assert status == 1
        assert (
            err == f"error: {target} exists and is no fingerprint database; choose another name\n"
        )
        assert target.is_file() or [p.name for p in target.iterdir()] == ["take.wav"]

    def test_extremely_loud_samples_do_no_harm(self, confp, database, tmp_path, clip):
        """Float files may hold anything: the fingerprints are sound or the file is refused, and
        later searches work.
        """
        for name, gain in {"loud": 1e4, "louder": 1e20}.items():
            soundfile.write(tmp_path / f"{name}.wav", clip * gain, RATE, subtype="FLOAT")
        confp("add", database, tmp_path / "loud.wav", tmp_path / "louder.wav")
        status, answers, _ = confp(
            "identify", database, write_clip(tmp_path, "clip.wav", clip), "--json"
        )
        assert (status, answers[0]["error"]) == (0, "")
