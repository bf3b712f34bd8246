"""Arguments, help, the installed command, and commands that only ask."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from user_files import CONFP, FOUND_KEYS, RATE, SOURCE, write_clip

from confp_jax.cli import main
from confp_jax.cli.output import clock
from confp_jax.matching.decision import Decision


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00.0"),
        (7.35, "0:07.3"),
        (59.96, "1:00.0"),
        (83.44, "1:23.4"),
        (3600, "60:00.0"),
        (-1.8, "-0:01.8"),
    ],
)
def test_clock(seconds, text):
    """An offset below 0 means that the track begins within the clip."""
    assert clock(seconds) == text


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["add"],
            ["add", "db"],
            ["identify", "db"],
            ["frobnicate"],
            ["list", "db", "--no"],
            ["embed", "a"],
        ],
    )
    def test_wrong_usage_is_status_2(self, arguments, capsys):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
        assert "usage: confp" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["--help"], ["add", "--help"], ["--version"]])
    def test_help(self, arguments, capsys):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        assert "confp" in capsys.readouterr().out

    def test_the_installed_command_end_to_end(self, made, tmp_path, clip):
        """One real process: pure JSON on stdout, nothing on stderr."""
        path = write_clip(tmp_path, "clip.wav", clip)
        command = pathlib.Path(sys.executable).with_name("confp")
        done = subprocess.run(
            [command, "identify", made, path, "--json"], capture_output=True, text=True, timeout=600
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)[0]["matches"][0]["track"] == SOURCE

    @pytest.mark.slow
    def test_two_that_start_together_make_one_database(self, model, tmp_path, clip):
        """`confp add DB a & confp add DB b` on a new DB: both succeed, or one is told of the other;
        no half database.
        """
        paths = [write_clip(tmp_path, f"{i}.wav", clip[: (4 + i) * RATE]) for i in (0, 1)]
        arguments = [[*CONFP, "add", tmp_path / "db", path, "--model", model] for path in paths]
        processes = [subprocess.Popen(a, stdout=-1, stderr=-1, text=True) for a in arguments]
        results = [(*process.communicate(timeout=600), process.returncode) for process in processes]
        from confp_jax.database import Database

        assert (
            len(Database(tmp_path / "db").tracks())
            == sum(status == 0 for *_, status in results)
            > 0
        )
        for _, err, status in results:
            assert status == 0 or "another process" in err


class TestQueries:
    """Commands that ask: over the untrained model's database only what is printed and refused; what
    is found: test_library.py.
    """

    @pytest.fixture
    def recording(self, source, tmp_path) -> pathlib.Path:
        return write_clip(tmp_path, "recording.wav", source[5 * RATE : 25 * RATE])

    def test_identify_reads_standard_input(self, answering, tmp_path, clip):
        path = write_clip(tmp_path, "clip.wav", clip)
        done = subprocess.run(
            [*CONFP, "identify", answering, "-", "--json"],
            input=path.read_bytes(),
            capture_output=True,
            timeout=600,
        )
        (answer,) = json.loads(done.stdout)
        assert (done.returncode, answer["query"], answer["error"]) == (0, "-", "")
        assert answer["matches"][0]["track"] == SOURCE
        assert answer["matches"][0]["offset_s"] == pytest.approx(7.35, abs=0.2)

    def test_the_rate_of_false_alarms(self, confp, made, model, clip, tmp_path, capsys):
        """A decision in which every match reaches the logit 6, as 1 of 2,000 unknown ones does."""
        path = write_clip(tmp_path, "clip.wav", clip[: 3 * RATE])
        sure = shutil.copytree(model, tmp_path / "tiny")
        weights_hash = json.loads((sure / "decision.json").read_text())["identity"]
        weights = np.tile([6.0, 0.0, 0.0, 0.0], (2, 1, 1, 1))
        tails = np.tile([3.0 - np.log(5), 1.0], (2, 1, 1, 1))
        (sure / "decision.json").write_text(
            Decision((3.0,), (1,), weights, tails, weights_hash=weights_hash).to_json()
        )
        for rate, verdict in (("0.001", "match"), ("0.0001", "unknown"), ("1e-9", "unknown")):
            options = ("--model", sure, "--json", "--false-alarms", rate)
            answer = confp("identify", made, path, *options)[1][0]
            assert answer["verdict"] == verdict and answer["matches"][0]["track"] == SOURCE
        for share in ("0", "0.5", "nan", "x"):
            with pytest.raises(SystemExit) as left:
                main(["identify", str(made), str(path), "--false-alarms", share])
            assert left.value.code == 2

    def test_monitor_writes_lines_a_cue_sheet_and_a_table(self, made, recording, tmp_path, capsys):
        cue = tmp_path / "out.cue"
        table = tmp_path / "out.csv"
        assert (
            main(
                [
                    "monitor",
                    str(made),
                    str(recording),
                    "--json",
                    "--cue",
                    str(cue),
                    "--csv",
                    str(table),
                ]
            )
            == 0
        )
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        matches = [event for event in events if event["event"] == "match"]
        assert matches and set(matches[0]) == FOUND_KEYS | {"event", "heard_s"}
        assert cue.read_text().startswith(
            f'FILE "{recording}" WAVE\n  TRACK 01 AUDIO\n    TITLE "{matches[0]["track"]}"'
        )
        assert (
            cue.read_text().count("INDEX 01")
            == len(matches)
            == len(table.read_text().splitlines()) - 1
        )

    def test_monitor_of_what_is_no_audio(self, confp, made, tmp_path):
        status, out, err = confp("monitor", made, tmp_path / "missing.wav")
        assert (status, out, err) == (1, "", f"error: {tmp_path}/missing.wav: no such file\n")

    def test_compare_and_dedupe(self, confp, model, made, recording):
        status, sections, _ = confp("compare", recording, recording, "--model", model, "--json")
        assert (
            status == 0
            and sections[0]["a_s"] == 0.0
            and sections[0]["b_s"] == pytest.approx(0.0, abs=0.01)
        )
        status, out, _ = confp("compare", recording, recording, "--model", model)
        assert status == 0 and "common sections" in out
        status, pairs, _ = confp("dedupe", made, "--json")
        assert status == 0 and all(pair["track"] != pair["other"] for pair in pairs)
        assert "share 10 s or more" in confp("dedupe", made)[1]

    def test_calibrate_says_what_it_needs(self, confp, made):
        status, out, err = confp("calibrate", made)
        assert (status, out) == (1, "")
        assert err.strip() == f"error: {made} holds 7 tracks; calibration needs at least 20"

    @pytest.mark.parametrize(
        "command", ["identify", "monitor", "listen", "compare", "dedupe", "calibrate"]
    )
    def test_help_shows_examples(self, command, capsys):
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
        assert f"confp {command} " in capsys.readouterr().out.split("examples:")[1]

    def test_a_tracklist_and_chapters(self, tmp_path):
        import types

        from confp_jax.cli.cue_sheet import write_chapters, write_tracklist
        from confp_jax.database import TrackTags

        names = {"track": "x", "title": "One = two", "artist": "Ann", "tags": TrackTags(label="L")}
        places = ((0.0, 100.0), (40.0, 20.0), (70.0, 20.0), (95.5, 60.0), (95.5, 0.0))
        played = [
            (types.SimpleNamespace(**names, query_offset_s=begin, length_s=length), "")
            for begin, length in places
        ]
        write_tracklist(tmp_path / "x.txt", "mix.mp3", played)
        assert (tmp_path / "x.txt").read_text().splitlines()[2:] == [
            "[0:00:00] Ann - One = two [L]",
            "[w/] Ann - One = two [L]",
            "[w/] Ann - One = two [L]",
            "[0:01:35] Ann - One = two [L]",
            "[w/] Ann - One = two [L]",
        ]
        write_chapters(tmp_path / "x.ffmeta", "mix.mp3", played)
        text = (tmp_path / "x.ffmeta").read_text()
        assert text.startswith(";FFMETADATA1\ntitle=mix.mp3\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\n")
        assert "END=40000\ntitle=Ann - One \\= two\n" in text
        assert text.count("START=95500\nEND=95501\n") == 2, "a chapter has a length"

    def test_cue_times(self, tmp_path):
        import types

        from confp_jax.cli.cue_sheet import write_cue
        from confp_jax.database import TrackTags

        match = types.SimpleNamespace(
            id=7,
            track='say "hi"',
            title="",
            artist="Ann",
            confidence=0.5,
            query_offset_s=125.49,
            tags=TrackTags(isrc="DEABC9400001"),
        )
        write_cue(tmp_path / "x.cue", "a.wav", [(match, "")] * 100)
        assert "TITLE \"say 'hi'\"" in (tmp_path / "x.cue").read_text()
        assert "INDEX 01 02:05:37" in (tmp_path / "x.cue").read_text()
        assert "    ISRC DEABC9400001\n" in (tmp_path / "x.cue").read_text()
        assert "TRACK 99" in (tmp_path / "x.cue").read_text()
        assert "TRACK 01" in (tmp_path / "x.2.cue").read_text()  # 99 tracks a sheet


def test_a_user_without_a_home(confp, monkeypatch):
    """As in a container whose user is in no list: only the cache of compiled programs needs it."""

    def nowhere() -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", nowhere)
    assert confp("models")[0] == 0
