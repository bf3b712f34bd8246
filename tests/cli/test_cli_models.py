"""`confp models`, `list`, `embed` and --model: which weights a database belongs to, and what they
make of a file.
"""

import math
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from user_files import CONFP, RATE, write_bad_files, write_clip


class TestModels:
    @pytest.mark.parametrize("command", ["identify", "add"])
    def test_another_model_is_refused_with_the_remedy(
        self, confp, made, model, other, tmp_path, clip, command
    ):
        path = write_clip(tmp_path, "clip.wav", clip)
        status, out, err = confp(command, made, path, "--model", other)
        assert (status, out) == (1, "")
        assert (
            err.startswith(f"error: {made} was made with model {str(model)!r}")
            and str(other) in err
        )
        assert (
            f"leave --model out, or make the database one of {other} with `confp reindex {made} "
            f"--model {other}`" in err
        )
        assert err.count("\n") == 1

    def test_the_models_weights_have_changed(self, confp, model, other, tmp_path, clip):
        """As after an update of this package: what the message says to do makes the database one of
        the new weights.
        """
        path = write_clip(tmp_path, "clip.wav", clip)
        named = tmp_path / "model"
        database = tmp_path / "music.db"
        shutil.copytree(model, named)
        assert confp("add", database, path, "--model", named)[0] == 0
        shutil.rmtree(named)
        shutil.copytree(other, named)
        for command in (
            ("identify", database, path),
            ("add", database, path),
            ("identify", database, path, "--model", named),
        ):
            status, _, err = confp(*command)
            assert status == 1 and "has other weights now" in err
            assert f"`confp reindex {database} --model {named}`" in err and err.count("\n") == 1
        assert confp("reindex", database, "--model", named)[0] == 0
        status, answers, _ = confp("identify", database, path, "--json")
        assert (status, answers[0]["verdict"]) == (0, "match")

    def test_the_same_model_elsewhere_will_do(self, confp, made, model, tmp_path, clip):
        shutil.copytree(model, tmp_path / "copy")
        path = write_clip(tmp_path, "clip.wav", clip)
        status, answers, _ = confp("identify", made, path, "--model", tmp_path / "copy", "--json")
        assert (status, answers[0]["verdict"]) == (0, "match")

    def test_the_databases_model_is_gone(self, confp, other, tmp_path, clip):
        """The message must name the database's model and offer --model: the user gave no name that
        could be wrong.
        """
        shutil.copytree(other, tmp_path / "model")
        path = write_clip(tmp_path, "clip.wav", clip)
        confp("add", tmp_path / "db", path, "--model", tmp_path / "model")
        (tmp_path / "model").rename(tmp_path / "moved")
        status, _, err = confp("identify", tmp_path / "db", path)
        assert status == 1
        assert str(tmp_path / "model") in err and "--model" in err
        assert confp("identify", tmp_path / "db", path, "--model", tmp_path / "moved")[0] == 0
        assert confp("list", tmp_path / "db")[0] == 0  # needs no model

    @pytest.mark.parametrize("name", ["egde", "nonsense", "/no/such/folder"])
    def test_no_such_model(self, confp, tmp_path, music, name):
        status, _, err = confp("add", tmp_path / "db", music, "--model", name)
        assert status == 1
        assert err.startswith(f"error: {name!r} is neither a shipped model nor a checkpoint folder")
        assert not err.rstrip().endswith("known:")  # a list of nothing helps nobody
        assert not (tmp_path / "db").exists()

    def test_a_folder_that_is_no_checkpoint(self, confp, tmp_path, music):
        pytest.importorskip("orbax.checkpoint")
        status, _, err = confp("add", tmp_path / "db", music, "--model", music)
        assert status == 1
        assert err.startswith(f"error: {music}: no confp_jax encoder")
        assert not (tmp_path / "db").exists()

    def test_the_list_of_models(self, confp):
        from confp_jax.fingerprint.embedder import DEFAULT_MODEL, shipped_models

        status, cards, _ = confp("models", "--json")
        assert status == 0
        assert [card["name"] for card in cards] == shipped_models()
        assert [card["name"] for card in cards if card["default"]] == [DEFAULT_MODEL] * (
            DEFAULT_MODEL in shipped_models()
        )
        status, out, err = confp("models")
        assert status == 0
        assert (out + err).strip()  # also where no model ships, something is said
        assert all(name in out for name in shipped_models())


class TestList:
    def test_json(self, confp, made, music):
        status, tracks, _ = confp("list", made, "--json")
        assert status == 0
        assert {t["path"]: t["name"] for t in tracks} == {
            str(p.resolve()): p.stem for p in music.iterdir()
        }
        for track in tracks:
            assert 29.9 < track["duration_s"] < 30.3
            assert track["num_rows"] == 1 + math.floor((track["duration_s"] - 3) / 0.3 + 1e-6)
            assert len(track["sha256"]) == 64

    def test_text(self, confp, made, music, model):
        status, out, _ = confp("list", made)
        assert status == 0
        lines = [line.rstrip() for line in out.splitlines()]
        assert len(lines) == 1 + 7 + 1
        for path in sorted(music.iterdir()):
            assert any(
                f" {path.stem} " in line and line.endswith(str(path)) and " 0:30" in line
                for line in lines
            )
        assert lines[-1] == f"7 tracks, 0.06 h, model {model}"

    def test_a_pipe_that_closes_early(self, made, tmp_path):
        """`confp list DB | head -1`: no traceback,
        also where the output is far bigger than the pipe holds."""
        from confp_jax.database import Database, ModelId, NewTrack

        big = Database.create(tmp_path / "big", ModelId("m", "0", 0.3))
        zero = np.zeros((1, 2), np.float32)
        with big.writing():
            big.add(
                [NewTrack(f"track {i}" * 9, f"/music/{i}", str(i), 1.0, zero) for i in range(3_000)]
            )
        for extra in ([], ["--json"]):
            with subprocess.Popen(
                [*CONFP, "list", tmp_path / "big", *extra], stdout=-1, stderr=-1, text=True
            ) as process:
                first = process.stdout.readline()
                process.stdout.close()
                assert process.wait(600) == 0
                assert process.stderr.read() == ""
            assert first.split() in (["["], ["id", "track", "artist", "title", "length", "path"])


class TestEmbed:
    def test_arrays_are_those_of_the_python_call(self, confp, model, tmp_path, clip):
        import confp_jax

        long = write_clip(tmp_path, "long.wav", clip)
        short = write_clip(tmp_path, "short.wav", clip[: 2 * RATE])
        status, summary, _ = confp(
            "embed", long, short, "--out", tmp_path / "x.npz", "--model", model, "--json"
        )
        assert status == 0
        assert summary["out"] == str(tmp_path / "x.npz") and summary["hop_s"] == 0.3
        assert summary["files"] == [
            {"file": str(long), "num_fingerprints": 7, "segment_s": 3.0},
            {"file": str(short), "num_fingerprints": 4, "segment_s": 2.0},
        ]
        encoder = confp_jax.load_encoder(model)
        with np.load(tmp_path / "x.npz") as arrays:
            assert set(arrays) == {str(long), str(short)}
            for path in (long, short):
                samples, rate_hz = soundfile.read(path)
                np.testing.assert_allclose(
                    arrays[str(path)], encoder.embed(samples, sample_rate_hz=rate_hz), atol=1e-4
                )

    def test_the_suffix_is_added_and_said(self, confp, model, tmp_path, clip):
        path = write_clip(tmp_path, "clip.wav", clip)
        status, out, _ = confp("embed", path, "--out", tmp_path / "x.y", "--model", model)
        assert (status, out) == (0, f"7 fingerprints of 1 files in {tmp_path / 'x.y.npz'}\n")
        assert (tmp_path / "x.y.npz").is_file()

    def test_bad_files_among_good_ones(self, confp, model, tmp_path, clip):
        bad = write_bad_files(tmp_path / "bad", clip)
        good = write_clip(tmp_path, "good.wav", clip)
        del bad["silent.wav"]  # zero vectors, as in Python
        paths = [tmp_path / "bad" / name for name in bad]
        status, summary, err = confp(
            "embed", *paths, good, "--out", tmp_path / "x.npz", "--model", model, "--json"
        )
        assert status == 3
        for path, entry, says in zip(paths, summary["files"], bad.values(), strict=False):
            assert entry["error"].startswith(f"{path}: ") and says in entry["error"]
            assert f"failed {path}: " in err
        assert summary["files"][-1]["num_fingerprints"] == 7
        status, out, _ = confp("embed", *paths, "--out", tmp_path / "none.npz", "--model", model)
        assert status == 1
        assert not (tmp_path / "none.npz").exists()
        assert "none.npz" not in out  # what was not written is not announced

    def test_short_clips_are_said(self, confp, model, tmp_path, clip):
        path = write_clip(tmp_path, "short.wav", clip[: 2 * RATE])
        _, out, err = confp("embed", path, "--out", tmp_path / "x.npz", "--model", model)
        assert "2.00 s" in out + err

    def test_the_folder_of_the_output_is_missing(self, confp, model, tmp_path, clip):
        path = write_clip(tmp_path, "clip.wav", clip)
        status, _, err = confp("embed", path, "--out", tmp_path / "no" / "x.npz", "--model", model)
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith("error: ") and "x.npz" in err

    @pytest.mark.parametrize("name", ["file", "allow_pickle", "args"])
    def test_names_that_numpy_uses_itself(self, confp, model, tmp_path, clip, monkeypatch, name):
        write_clip(tmp_path, "clip.wav", clip).rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        assert confp("embed", name, "--out", "x.npz", "--model", model)[0] == 0
        with np.load("x.npz") as arrays:
            assert list(arrays) == [name]
