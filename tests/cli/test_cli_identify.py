"""`confp identify` as a user meets it: answers in words and JSON, exit codes, and all that can be
wrong with a query.
"""

import pathlib

import numpy as np
import pytest
import soundfile
import soxr
from user_files import (
    EXAMPLES,
    FOUND_KEYS,
    NEW,
    RATE,
    SOURCE,
    write_bad_files,
    write_clip,
    write_m4a,
)

from confp_jax.audio.decode import decode
from confp_jax.cli import main


class TestIdentify:
    def test_json_is_a_list_with_one_entry_per_query(self, confp, answering, music, tmp_path, clip):
        noise = np.random.default_rng(0).normal(size=5 * RATE) * 0.1
        new = decode(EXAMPLES / f"{NEW}.mp3", sample_rate_hz=RATE).samples[: 5 * RATE]
        clips = [
            write_clip(tmp_path, name, x)
            for name, x in {"clip.wav": clip, "noise.wav": noise, "new.wav": new}.items()
        ]
        missing = tmp_path / "missing.wav"
        status, answers, err = confp("identify", answering, *clips, missing, clips[0], "--json")
        assert (status, err) == (3, "")
        assert [a["query"] for a in answers] == list(map(str, [*clips, missing, clips[0]]))
        tracks = {path.stem: str(path.resolve()) for path in music.iterdir()}
        for answer in answers:
            assert set(answer) >= {"query", "verdict", "matches", "elapsed_s"}
            assert answer["verdict"] in ("match", "unknown")
            assert isinstance(answer["elapsed_s"], float) and answer["elapsed_s"] > 0
            matches = answer["matches"]
            assert len(matches) == (0 if answer["query"] == str(missing) else 5)  # of 7 tracks
            assert len({m["path"] for m in matches}) == len(matches)
            assert [m["confidence"] for m in matches] == sorted(
                (m["confidence"] for m in matches), reverse=True
            )
            for match in matches:
                assert set(match) == FOUND_KEYS
                assert match["path"] == tracks[match["track"]]
                assert -1 <= match["score"] <= 1
                assert 0 <= match["offset_s"] <= 30.5
                assert (
                    0
                    <= match["query_offset_s"]
                    <= match["query_offset_s"] + match["length_s"]
                    <= 5.01
                )
        assert [a["verdict"] for a in answers] == [
            "match",
            "unknown",
            answers[2]["verdict"],
            "unknown",
            "match",
        ]
        assert answers[0]["matches"] == answers[4]["matches"]
        assert answers[3]["error"] == f"{missing}: no such file"
        assert not any(answers[i]["error"] for i in (0, 1, 2, 4))
        best = answers[0]["matches"][0]
        assert best["track"] == SOURCE
        assert best["offset_s"] == pytest.approx(7.35, abs=0.2)
        assert best["score"] > 0.95  # half-way between two fingerprints

    def test_text(self, confp, answering, tmp_path, clip):
        found = write_clip(tmp_path, "clip.wav", clip)
        noise = write_clip(
            tmp_path, "noise.wav", np.random.default_rng(0).normal(size=5 * RATE) * 0.1
        )
        status, out, err = confp("identify", answering, found, noise)
        assert (status, err) == (0, "")
        first, second = out.splitlines()
        assert (
            first.startswith(f"{found}: {SOURCE} at 0:07.")
            and "score 0.9" in first
            and "confidence 1.000" in first
        )
        assert second.startswith(f"{noise}: unknown (nearest: ")

    def test_a_track_identifies_itself(self, confp, made, music):
        status, answers, _ = confp("identify", made, music / f"{SOURCE}.mp3", "--json")
        best = answers[0]["matches"][0]
        assert (status, answers[0]["verdict"], best["track"]) == (0, "match", SOURCE)
        assert best["offset_s"] == pytest.approx(0, abs=0.005)
        assert 0.9999 <= best["score"] <= 1

    def test_every_format(self, confp, answering, tmp_path, clip):
        for suffix in ("wav", "flac", "ogg", "mp3"):
            soundfile.write(tmp_path / f"clip.{suffix}", clip, RATE)
        soundfile.write(
            tmp_path / "clip.opus",
            soxr.resample(clip, RATE, 48_000),
            48_000,
            format="OGG",
            subtype="OPUS",
        )
        write_m4a(tmp_path / "clip.m4a", clip, RATE)
        (tmp_path / "flac named.wav").write_bytes((tmp_path / "clip.flac").read_bytes())
        (tmp_path / "mp3 named.ogg").write_bytes((tmp_path / "clip.mp3").read_bytes())
        (tmp_path / "no suffix").write_bytes((tmp_path / "clip.m4a").read_bytes())
        status, answers, _ = confp("identify", answering, *sorted(tmp_path.iterdir()), "--json")
        assert status == 0 and len(answers) == 9
        for answer in answers:
            best = answer["matches"][0]
            assert (best["track"], answer["verdict"]) == (SOURCE, "match"), answer["query"]
            assert best["offset_s"] == pytest.approx(7.35, abs=0.25), answer[
                "query"
            ]  # mp3 and aac begin with a delay

    def test_every_rate_and_number_of_channels(self, confp, made, tmp_path, clip):
        for rate_hz in (8_000, 16_000, 22_050, 48_000, 96_000, 192_000):
            for channels in (1, 2, 8):
                samples = np.repeat(
                    soxr.resample(clip, RATE, rate_hz, quality="VHQ")[:, None], channels, axis=1
                )
                soundfile.write(tmp_path / f"{rate_hz:06d}_{channels}.wav", samples, rate_hz)
        status, answers, _ = confp("identify", made, *sorted(tmp_path.iterdir()), "--json")
        assert status == 0 and len(answers) == 18
        for answer in answers:
            if (
                "008000_" not in answer["query"]
            ):  # half the spectrum is missing: more than an untrained encoder can bear
                assert answer["matches"][0]["track"] == SOURCE, answer["query"]
                assert answer["matches"][0]["score"] > 0.98
        scores = np.array([answer["matches"][0]["score"] for answer in answers]).reshape(6, 3)
        np.testing.assert_allclose(
            scores, scores[:, :1].repeat(3, axis=1), atol=1e-3
        )  # channels that are copies change nothing

    def test_short_clips(self, confp, made, tmp_path, clip):
        lengths = {"1.0": "1.00", "2.0": "2.00", "2.2": "2.20"}
        paths = [write_clip(tmp_path, f"{s}.wav", clip[: round(float(s) * RATE)]) for s in lengths]
        paths.append(write_clip(tmp_path, "3.0.wav", clip[: 3 * RATE]))
        status, out, err = confp("identify", made, *paths)
        assert status == 0
        assert len(out.splitlines()) == 4
        notes = err.splitlines()
        assert len(notes) == 3
        for path, used, note in zip(paths, lengths.values(), notes, strict=False):
            assert note.startswith(f"note: {path}: shorter than 3 s ({used} s)")
        _, answers, _ = confp("identify", made, *paths, "--json")
        assert [bool(a["notes"]) for a in answers] == [True] * 3 + [False]
        assert [a["matches"][0]["track"] for a in answers[1:]] == [SOURCE] * 3
        assert [
            (a["matches"][0]["query_offset_s"], a["matches"][0]["length_s"]) for a in answers[1:]
        ] == [
            (0, 2),
            (0, 2.2),
            (0, 3),
        ]

    def test_bad_files_among_good_ones(self, confp, made, tmp_path, clip):
        bad = write_bad_files(tmp_path / "bad", clip)
        good = write_clip(tmp_path, "good.wav", clip)
        paths = [tmp_path / "bad" / name for name in bad]
        status, answers, _ = confp("identify", made, *paths, good, "--json")
        assert status == 3
        for path, answer, says in zip(paths, answers, bad.values(), strict=False):
            assert answer["query"] == str(path)
            assert answer["error"].startswith(f"{path}: ") and says in answer["error"]
            assert (answer["verdict"], answer["matches"]) == ("unknown", [])
        assert answers[-1]["matches"][0]["track"] == SOURCE
        status, out, err = confp("identify", made, *paths)
        assert (status, out) == (1, "")
        assert [line for line in err.splitlines() if not line.startswith("failed ")] == []
        assert len(err.splitlines()) == len(bad)

    def test_no_decoder_writes_to_the_terminal(self, made, tmp_path, clip, capfd):
        """Some C libraries write to stderr by themselves; a bad file is one line of ours."""
        bad = write_bad_files(tmp_path / "bad", clip)
        main(["identify", str(made), *(str(tmp_path / "bad" / name) for name in bad)])
        lines = capfd.readouterr().err.splitlines()
        assert [line for line in lines if not line.startswith("failed ")] == []

    def test_the_message_names_the_file_however_short_its_name(
        self, confp, made, tmp_path, clip, monkeypatch
    ):
        write_bad_files(tmp_path, clip)
        monkeypatch.chdir(tmp_path)
        for name, short in (("silent.wav", "is"), ("half.wav", "s")):
            pathlib.Path(name).rename(short)
            _, _, err = confp("identify", made, short)
            assert err.startswith(f"failed {short}: ")

    def test_a_partly_damaged_recording_is_still_identified(self, confp, made, tmp_path):
        content = bytearray((EXAMPLES / f"{SOURCE}.mp3").read_bytes())
        for place in np.random.default_rng(1).integers(5_000, len(content), 40):
            content[place] ^= 0xFF
        (tmp_path / "scratched.mp3").write_bytes(bytes(content))
        status, answers, _ = confp("identify", made, tmp_path / "scratched.mp3", "--json")
        assert (status, answers[0]["matches"][0]["track"]) == (0, SOURCE)

    def test_a_folder_of_clips(self, confp, made, tmp_path, clip):
        """Like `add`: its audio files, each a query; not 'no such file'."""
        write_clip(tmp_path / "clips", "b.wav", clip)
        write_clip(tmp_path / "clips", "a.wav", clip)
        status, answers, _ = confp("identify", made, tmp_path / "clips", "--json")
        assert [pathlib.Path(a["query"]).name for a in answers] == ["a.wav", "b.wav"]
        assert status == 0
        (tmp_path / "texts").mkdir()
        status, answers, _ = confp("identify", made, tmp_path / "texts", "--json")
        assert status == 1
        assert "folder" in answers[0]["error"]

    def test_an_empty_database(self, confp, model, tmp_path, clip):
        (tmp_path / "none").mkdir()
        confp("add", tmp_path / "empty.db", tmp_path / "none", "--model", model)
        from confp_jax.database import Database

        if not (tmp_path / "empty.db").exists():  # made otherwise, should `add` ever refuse
            pytest.skip("add makes no database without music")
        assert Database(tmp_path / "empty.db").tracks() == []
        status, answers, _ = confp(
            "identify", tmp_path / "empty.db", write_clip(tmp_path, "c.wav", clip), "--json"
        )
        assert (status, answers[0]["verdict"], answers[0]["matches"]) == (0, "unknown", [])

    def test_what_is_no_database(self, confp, tmp_path, clip):
        path = write_clip(tmp_path, "clip.wav", clip)
        for target in (tmp_path, tmp_path / "nothing", path):
            for command in (("identify", target, path), ("list", target)):
                status, out, err = confp(*command)
                assert (status, out) == (1, "")
                assert (
                    err == f"error: {target} is no fingerprint database; `confp add {target} "
                    "MUSIC...` makes one\n"
                )
