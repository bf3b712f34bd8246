"""`confp` as a user meets it: real files, a real (untrained) model, exit codes, JSON, and all that can be wrong with a file."""

import fractions
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
import soxr

from confp_jax.audio.decode import decode
from confp_jax.cli import main
from confp_jax.cli.output import clock
from confp_jax.retrieval.decision import Decision

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples" / "music"
CONFP = [sys.executable, "-m", "confp_jax.cli"]
RATE = 44_100
SOURCE = "jordan-trudgett_battle2"
OTHERS = ("alexandr-zhelanov_low-fi", "askyel_sirius-remix", "claude-werner_win-theme", "david-reeves_david03")
OTHERS += ("karissa-hobbs_lets-go-fishin", "manuel-marino_van-mission4")
NEW = "tim-beek_the-protagonist"  # in no database
FOUND_KEYS = {"track", "path", "offset_s", "score", "confidence", "query_offset_s", "length_s", "tempo"}


def save_untrained(folder: pathlib.Path, seed: int) -> str:
    """Saves a `tiny` encoder with its initial weights; returns its identity."""
    from flax import nnx

    from configs.fma import get_config
    from confp_jax.config import TrainConfig, from_mapping
    from confp_jax.model.encoder import Encoder
    from confp_jax.training.checkpoint import EncoderState, encoder_identity, save_encoder

    config = from_mapping(TrainConfig, get_config("tiny"))
    encoder = Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(seed))
    _, params, statistics = nnx.split(encoder, nnx.Param, ...)
    save_encoder(folder, config, EncoderState(params, statistics))
    return encoder_identity(config, EncoderState(params, statistics))


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> pathlib.Path:
    """An untrained `tiny` model with a decision: clean copies exceed it, white noise does not."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    identity = save_untrained(folder / "checkpoint", seed=7)
    weights, tails = np.array([[[-12.0, 0.0, 160.0, 0.0]]]), np.array([[[-6.0, 0.5]]])  # a margin of 0.075 is even odds
    (folder / "decision.json").write_text(Decision((3.0,), (1,), weights, tails, identity=identity).to_json())
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> pathlib.Path:
    """Other weights: fingerprints that cannot be compared."""
    folder = tmp_path_factory.mktemp("other") / "tiny"
    save_untrained(folder, seed=8)
    return folder


@pytest.fixture(scope="session")
def music(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("music")
    for name in (SOURCE, *OTHERS):
        shutil.copy(EXAMPLES / f"{name}.mp3", folder)
    return folder


@pytest.fixture(scope="session")
def made(model, music) -> pathlib.Path:
    """A database of 7 tracks; tests that write take a copy (`database`)."""
    folder = music.parent / "made.db"
    assert main(["add", str(folder), str(music), "--model", str(model), "--json"]) == 0
    return folder


@pytest.fixture(scope="session")
def answering(music) -> pathlib.Path:
    """The same tracks in a database of the model that ships, for what is said of places: an untrained one knows them roughly."""
    folder = music.parent / "answering.db"
    assert main(["add", str(folder), str(music), "--model", "edge", "--json"]) == 0
    return folder


@pytest.fixture
def database(made, tmp_path) -> pathlib.Path:
    return shutil.copytree(made, tmp_path / "music.db")


@pytest.fixture(scope="session")
def source() -> np.ndarray:
    return decode(EXAMPLES / f"{SOURCE}.mp3", sample_rate_hz=RATE).samples


@pytest.fixture(scope="session")
def clip(source) -> np.ndarray:
    """5 s from 7.35 s on: between two fingerprints."""
    return source[round(7.35 * RATE) : round(12.35 * RATE)]


@pytest.fixture
def confp(capsys):
    """Runs a command; returns (status, stdout, stderr), stdout parsed where --json was asked for."""

    def run(*arguments: str | pathlib.Path):
        status = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return status, json.loads(out, parse_constant=pytest.fail) if "--json" in arguments else out, err

    return run


def write_m4a(path: pathlib.Path, samples: np.ndarray, rate_hz: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate_hz)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate_hz, fractions.Fraction(1, rate_hz), 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def write_clip(folder: pathlib.Path, name: str, samples: np.ndarray) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, samples, RATE)
    return folder / name


def write_bad_files(folder: pathlib.Path, clip: np.ndarray) -> dict[str, str]:
    """One of each kind; returns {name: a word of the message}."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "corrupt.wav").write_bytes(rng.bytes(50_000))
    (folder / "corrupt.mp3").write_bytes(rng.bytes(50_000))
    (folder / "text.mp3").write_text("This is no music.\n" * 1000)
    (folder / "text.flac").write_text("This is no music.\n" * 1000)
    soundfile.write(folder / "zero.wav", np.zeros(0), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(5 * RATE), RATE)
    soundfile.write(folder / "half.wav", clip[: RATE // 2], RATE)
    soundfile.write(folder / "slow.wav", clip[:15_000], 3_000)
    broken = clip.copy()
    broken[70_000] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    write_m4a(folder / "whole.m4a", clip, RATE)
    content = (folder / "whole.m4a").read_bytes()
    (folder / "whole.m4a").unlink()
    (folder / "cut.m4a").write_bytes(content[: len(content) // 2])
    said = {"corrupt.wav": "decoded", "corrupt.mp3": "decoded", "text.mp3": "decoded", "cut.m4a": "decoded"}
    return said | {"empty.wav": "empty", "zero.wav": "no audio samples", "text.flac": "no audio",
                   "silent.wav": "silent", "nan.wav": "NaN", "slow.wav": "3000 Hz", "half.wav": "0.50 s"}  # fmt: skip


class TestAdd:
    def test_a_folder_then_the_same_again(self, confp, model, music, tmp_path):
        status, out, err = confp("add", tmp_path / "a" / "music.db", music, "--model", model)
        assert status == 0
        assert out.startswith("7 added (0.06 h, ") and ", 0 already there, 0 failed; " in out
        assert out.rstrip().endswith("music.db now holds 7 tracks")
        assert "failed" not in err
        status, again, _ = confp("add", tmp_path / "a" / "music.db", music)  # the model is remembered
        assert status == 0
        assert again.startswith("0 added (0.00 h, 0 fingerprints), 7 already there, 0 failed")

    def test_json(self, confp, database, music, tmp_path, clip):
        new = write_clip(tmp_path, "new.wav", clip)
        missing = tmp_path / "missing.wav"
        status, added, _ = confp("add", database, music / f"{SOURCE}.mp3", new, missing, "--json")
        assert status == 3
        assert [(a["path"], a["status"]) for a in added] == [
            (str(music / f"{SOURCE}.mp3"), "unchanged"), (str(new), "added"), (str(missing), "failed")
        ]  # fmt: skip
        assert added[1]["num_fingerprints"] == 7 and added[1]["duration_s"] == pytest.approx(5.0, abs=0.01)
        assert added[2]["error"] == f"{missing}: no such file"

    def test_the_same_content_under_two_names_is_one_track(self, confp, database, tmp_path, clip):
        for name in ("one.wav", "two.wav"):
            write_clip(tmp_path / "new", name, clip)
        _, added, _ = confp("add", database, tmp_path / "new", "--json")
        assert [a["status"] for a in added] == ["added", "unchanged"]

    def test_bad_files_among_good_ones(self, confp, database, tmp_path, clip):
        bad = write_bad_files(tmp_path / "new", clip)
        for name in ("a good one.wav", "sub/folder/z.flac"):
            write_clip((tmp_path / "new" / name).parent, pathlib.Path(name).name, clip[: 4 * RATE + len(name)])
        (tmp_path / "new" / "cover.jpg").write_bytes(b"\xff\xd8")
        (tmp_path / "new" / "._resource.wav").write_bytes(b"\0")  # macOS leaves these
        status, out, err = confp("add", database, tmp_path / "new")
        assert status == 3
        assert out.startswith("2 added") and f" {len(bad)} failed" in out and out.rstrip().endswith("now holds 9 tracks")
        lines = [line for line in err.splitlines() if line.strip()]
        for name, says in bad.items():
            line = [line for line in lines if line.startswith(f"failed {tmp_path / 'new' / name}: ")]
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
        path = write_clip(tmp_path, "short.wav", clip[: 2 * RATE])
        status, added, _ = confp("add", database, path, "--json")
        assert (status, added[0]["status"]) == (1, "failed")
        assert added[0]["error"] == f"{path}: 2.00 s is shorter than one segment of 3 s"

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
        assert err == f"error: {target} exists and is no fingerprint database; choose another name\n"
        assert target.is_file() or [p.name for p in target.iterdir()] == ["take.wav"]

    def test_extremely_loud_samples_do_no_harm(self, confp, database, tmp_path, clip):
        """Float files may hold anything: the fingerprints are sound or the file is refused, and later searches work."""
        for name, gain in {"loud": 1e4, "louder": 1e20}.items():
            soundfile.write(tmp_path / f"{name}.wav", clip * gain, RATE, subtype="FLOAT")
        confp("add", database, tmp_path / "loud.wav", tmp_path / "louder.wav")
        status, answers, _ = confp("identify", database, write_clip(tmp_path, "clip.wav", clip), "--json")
        assert (status, answers[0]["error"]) == (0, "")


class TestIdentify:
    def test_json_is_a_list_with_one_entry_per_query(self, confp, answering, music, tmp_path, clip):
        noise = np.random.default_rng(0).normal(size=5 * RATE) * 0.1
        new = decode(EXAMPLES / f"{NEW}.mp3", sample_rate_hz=RATE).samples[: 5 * RATE]
        clips = [write_clip(tmp_path, name, x) for name, x in {"clip.wav": clip, "noise.wav": noise, "new.wav": new}.items()]
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
            assert [m["confidence"] for m in matches] == sorted((m["confidence"] for m in matches), reverse=True)
            for match in matches:
                assert set(match) == FOUND_KEYS
                assert match["path"] == tracks[match["track"]]
                assert -1 <= match["score"] <= 1
                assert 0 <= match["offset_s"] <= 30.5
                assert 0 <= match["query_offset_s"] <= match["query_offset_s"] + match["length_s"] <= 5.01
        assert [a["verdict"] for a in answers] == ["match", "unknown", answers[2]["verdict"], "unknown", "match"]
        assert answers[0]["matches"] == answers[4]["matches"]
        assert answers[3]["error"] == f"{missing}: no such file"
        assert not any(answers[i]["error"] for i in (0, 1, 2, 4))
        best = answers[0]["matches"][0]
        assert best["track"] == SOURCE
        assert best["offset_s"] == pytest.approx(7.35, abs=0.2)
        assert best["score"] > 0.95  # half-way between two fingerprints

    def test_text(self, confp, answering, tmp_path, clip):
        found = write_clip(tmp_path, "clip.wav", clip)
        noise = write_clip(tmp_path, "noise.wav", np.random.default_rng(0).normal(size=5 * RATE) * 0.1)
        status, out, err = confp("identify", answering, found, noise)
        assert (status, err) == (0, "")
        first, second = out.splitlines()
        assert first.startswith(f"{found}: {SOURCE} at 0:07.") and "score 0.9" in first and "confidence 1.000" in first
        assert second.startswith(f"{noise}: unknown (nearest: ")

    def test_a_track_identifies_itself(self, confp, made, music):
        status, answers, _ = confp("identify", made, music / f"{SOURCE}.mp3", "--json")
        best = answers[0]["matches"][0]
        assert (status, answers[0]["verdict"], best["track"], best["offset_s"]) == (0, "match", SOURCE, 0.0)
        assert 0.9999 <= best["score"] <= 1

    def test_every_format(self, confp, answering, tmp_path, clip):
        for suffix in ("wav", "flac", "ogg", "mp3"):
            soundfile.write(tmp_path / f"clip.{suffix}", clip, RATE)
        soundfile.write(tmp_path / "clip.opus", soxr.resample(clip, RATE, 48_000), 48_000, format="OGG", subtype="OPUS")
        write_m4a(tmp_path / "clip.m4a", clip, RATE)
        (tmp_path / "flac named.wav").write_bytes((tmp_path / "clip.flac").read_bytes())
        (tmp_path / "mp3 named.ogg").write_bytes((tmp_path / "clip.mp3").read_bytes())
        (tmp_path / "no suffix").write_bytes((tmp_path / "clip.m4a").read_bytes())
        status, answers, _ = confp("identify", answering, *sorted(tmp_path.iterdir()), "--json")
        assert status == 0 and len(answers) == 9
        for answer in answers:
            best = answer["matches"][0]
            assert (best["track"], answer["verdict"]) == (SOURCE, "match"), answer["query"]
            assert best["offset_s"] == pytest.approx(7.35, abs=0.25), answer["query"]  # mp3 and aac begin with a delay

    def test_every_rate_and_number_of_channels(self, confp, made, tmp_path, clip):
        for rate_hz in (8_000, 16_000, 22_050, 48_000, 96_000, 192_000):
            for channels in (1, 2, 8):
                samples = np.repeat(soxr.resample(clip, RATE, rate_hz, quality="VHQ")[:, None], channels, axis=1)
                soundfile.write(tmp_path / f"{rate_hz:06d}_{channels}.wav", samples, rate_hz)
        status, answers, _ = confp("identify", made, *sorted(tmp_path.iterdir()), "--json")
        assert status == 0 and len(answers) == 18
        for answer in answers:
            if "008000_" not in answer["query"]:  # half the spectrum is missing: more than an untrained encoder can bear
                assert answer["matches"][0]["track"] == SOURCE, answer["query"]
                assert answer["matches"][0]["score"] > 0.98
        scores = np.array([answer["matches"][0]["score"] for answer in answers]).reshape(6, 3)
        np.testing.assert_allclose(scores, scores[:, :1].repeat(3, axis=1), atol=1e-3)  # channels that are copies change nothing

    def test_short_clips_are_encoded_at_their_own_length(self, confp, made, tmp_path, clip):
        lengths = {"1.0": "1.00", "2.0": "2.00", "2.2": "2.00"}
        paths = [write_clip(tmp_path, f"{s}.wav", clip[: round(float(s) * RATE)]) for s in lengths]
        paths.append(write_clip(tmp_path, "3.0.wav", clip[: 3 * RATE]))
        status, out, err = confp("identify", made, *paths)
        assert status == 0
        assert len(out.splitlines()) == 4
        notes = err.splitlines()
        assert len(notes) == 3
        for path, used, note in zip(paths, lengths.values(), notes, strict=False):
            assert note.startswith(f"note: {path}: shorter than 3 s: encoded at its own length ({used} s)")
        _, answers, _ = confp("identify", made, *paths, "--json")
        assert [bool(a["notes"]) for a in answers] == [True] * 3 + [False]
        # Padding with silence would lower this: the score of a 2 s excerpt stays near 1.
        assert answers[1]["matches"][0]["track"] == SOURCE and answers[1]["matches"][0]["score"] > 0.97

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

    def test_the_message_names_the_file_however_short_its_name(self, confp, made, tmp_path, clip, monkeypatch):
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
        from confp_jax.retrieval.database import Database

        if not (tmp_path / "empty.db").exists():  # made otherwise, should `add` ever refuse
            pytest.skip("add makes no database without music")
        assert Database(tmp_path / "empty.db").tracks() == []
        status, answers, _ = confp("identify", tmp_path / "empty.db", write_clip(tmp_path, "c.wav", clip), "--json")
        assert (status, answers[0]["verdict"], answers[0]["matches"]) == (0, "unknown", [])

    def test_what_is_no_database(self, confp, tmp_path, clip):
        path = write_clip(tmp_path, "clip.wav", clip)
        for target in (tmp_path, tmp_path / "nothing", path):
            for command in (("identify", target, path), ("list", target)):
                status, out, err = confp(*command)
                assert (status, out) == (1, "")
                assert err == f"error: {target} is no fingerprint database; `confp add {target} MUSIC...` makes one\n"


class TestModels:
    @pytest.mark.parametrize("command", ["identify", "add"])
    def test_another_model_is_refused_with_the_remedy(self, confp, made, model, other, tmp_path, clip, command):
        path = write_clip(tmp_path, "clip.wav", clip)
        status, out, err = confp(command, made, path, "--model", other)
        assert (status, out) == (1, "")
        assert err.startswith(f"error: {made} was made with model {str(model)!r}") and str(other) in err
        assert "leave --model out, or add the music to a new database" in err
        assert err.count("\n") == 1

    def test_the_same_model_elsewhere_will_do(self, confp, made, model, tmp_path, clip):
        shutil.copytree(model, tmp_path / "copy")
        path = write_clip(tmp_path, "clip.wav", clip)
        status, answers, _ = confp("identify", made, path, "--model", tmp_path / "copy", "--json")
        assert (status, answers[0]["verdict"]) == (0, "match")

    def test_the_databases_model_is_gone(self, confp, other, tmp_path, clip):
        """The message must name the database's model and offer --model: the user gave no name that could be wrong."""
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
        status, _, err = confp("add", tmp_path / "db", music, "--model", music)
        assert status == 1
        assert err.startswith(f"error: {music}: no confp_jax encoder")
        assert not (tmp_path / "db").exists()

    def test_the_list_of_models(self, confp):
        from confp_jax.retrieval.embed import DEFAULT_MODEL, shipped_models

        status, cards, _ = confp("models", "--json")
        assert status == 0
        assert [card["name"] for card in cards] == shipped_models()
        assert [card["name"] for card in cards if card["default"]] == [DEFAULT_MODEL] * (DEFAULT_MODEL in shipped_models())
        status, out, err = confp("models")
        assert status == 0
        assert (out + err).strip()  # also where no model ships, something is said
        assert all(name in out for name in shipped_models())


class TestList:
    def test_json(self, confp, made, music):
        status, tracks, _ = confp("list", made, "--json")
        assert status == 0
        assert {t["path"]: t["name"] for t in tracks} == {str(p.resolve()): p.stem for p in music.iterdir()}
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
            assert any(f" {path.stem} " in line and line.endswith(str(path)) and " 0:30" in line for line in lines)
        assert lines[-1] == f"7 tracks, 0.06 h, model {model}"

    def test_a_pipe_that_closes_early(self, made, tmp_path):
        """`confp list DB | head -1`: no traceback, also where the output is far bigger than the pipe holds."""
        from confp_jax.retrieval.database import Database, ModelStamp, NewTrack

        big = Database.create(tmp_path / "big", ModelStamp("m", "0", 0.3))
        zero = np.zeros((1, 2), np.float32)
        with big.writing():
            big.add([NewTrack(f"track {i}" * 9, f"/music/{i}", str(i), 1.0, zero) for i in range(3_000)])
        for extra in ([], ["--json"]):
            with subprocess.Popen([*CONFP, "list", tmp_path / "big", *extra], stdout=-1, stderr=-1, text=True) as process:
                first = process.stdout.readline()
                process.stdout.close()
                assert process.wait(600) == 0
                assert process.stderr.read() == ""
            assert first.split() in (["["], ["id", "track", "artist", "title", "length", "path"])


class TestEmbed:
    def test_arrays_are_those_of_the_python_call(self, confp, model, tmp_path, clip):
        import confp_jax

        long, short = write_clip(tmp_path, "long.wav", clip), write_clip(tmp_path, "short.wav", clip[: 2 * RATE])
        status, summary, _ = confp("embed", long, short, "--out", tmp_path / "x.npz", "--model", model, "--json")
        assert status == 0
        assert summary["out"] == str(tmp_path / "x.npz") and summary["hop_s"] == 0.3
        assert summary["files"] == [
            {"file": str(long), "num_fingerprints": 7, "segment_s": 3.0},
            {"file": str(short), "num_fingerprints": 1, "segment_s": 2.0},
        ]
        encoder = confp_jax.load_encoder(model)
        with np.load(tmp_path / "x.npz") as arrays:
            assert set(arrays) == {str(long), str(short)}
            for path in (long, short):
                samples, rate_hz = soundfile.read(path)
                np.testing.assert_allclose(arrays[str(path)], encoder.embed(samples, sample_rate_hz=rate_hz), atol=1e-4)

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
        status, summary, err = confp("embed", *paths, good, "--out", tmp_path / "x.npz", "--model", model, "--json")
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
        """A folder that also has a name, with all the names, each its own content; the current one."""
        folder = tmp_path / "[green]my music[ ]"
        folder.mkdir()
        for i, name in enumerate(NAMES):
            kind = "MP3" if name.endswith("mp3") else "WAV"
            soundfile.write(folder / name, clip[: 4 * RATE + 10 * i], RATE, format=kind)
        monkeypatch.chdir(folder)
        return folder

    def test_good_files(self, confp, database, here):
        status, added, _ = confp("add", "--json", database, "--", *NAMES)
        assert [(a["path"], a["status"], a["error"]) for a in added] == [(name, "added", "") for name in NAMES]
        assert status == 0
        _, tracks, _ = confp("list", database, "--json")
        assert {t["path"] for t in tracks} >= {str(here / name) for name in NAMES}
        _, out, _ = confp("list", database)
        assert all(str(here / name) in out for name in NAMES)
        status, answers, _ = confp("identify", "--json", database, "--", *NAMES)
        assert (status, [a["query"] for a in answers]) == (0, NAMES)
        status, out, _ = confp("identify", database, "--", *NAMES)
        assert [line[: len(name) + 2] for line, name in zip(out.splitlines(), NAMES, strict=True)] == [f"{n}: " for n in NAMES]

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
        assert (status, err.strip()) == (1, f"failed {tmp_path}/a[/x].wav: the file is empty (0 bytes); copy it again")

    def test_names_that_are_no_utf8(self, confp, database, tmp_path, clip):
        """Old collections have them. Such a file is added or refused by name; the others go on."""
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
        status, answers, _ = confp("identify", database, tmp_path / "old" / "good.wav", odd, "--json")
        assert answers[0]["matches"] and status in (0, 3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (7.35, "0:07.3"), (59.96, "1:00.0"), (83.44, "1:23.4"), (3600, "60:00.0"), (-1.8, "-0:01.8")],
)
def test_clock(seconds, text):
    """An offset below 0 means that the track begins within the clip."""
    assert clock(seconds) == text


class TestUsage:
    @pytest.mark.parametrize(
        "arguments", [[], ["add"], ["add", "db"], ["identify", "db"], ["frobnicate"], ["list", "db", "--no"], ["embed", "a"]]
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
        done = subprocess.run([command, "identify", made, path, "--json"], capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)[0]["matches"][0]["track"] == SOURCE

    @pytest.mark.slow
    def test_two_that_start_together_make_one_database(self, model, tmp_path, clip):
        """`confp add DB a & confp add DB b` on a new DB: both succeed, or one is told of the other; no half database."""
        paths = [write_clip(tmp_path, f"{i}.wav", clip[: (4 + i) * RATE]) for i in (0, 1)]
        arguments = [[*CONFP, "add", tmp_path / "db", path, "--model", model] for path in paths]
        processes = [subprocess.Popen(a, stdout=-1, stderr=-1, text=True) for a in arguments]
        results = [(*process.communicate(timeout=600), process.returncode) for process in processes]
        from confp_jax.retrieval.database import Database

        assert len(Database(tmp_path / "db").tracks()) == sum(status == 0 for *_, status in results) > 0
        for _, err, status in results:
            assert status == 0 or "another process" in err


class TestQueries:
    """Commands that ask: over the untrained model's database only what is printed and refused; what is found: test_library.py."""

    @pytest.fixture
    def recording(self, source, tmp_path) -> pathlib.Path:
        return write_clip(tmp_path, "recording.wav", source[5 * RATE : 25 * RATE])

    def test_identify_reads_standard_input(self, answering, tmp_path, clip):
        path = write_clip(tmp_path, "clip.wav", clip)
        done = subprocess.run(
            [*CONFP, "identify", answering, "-", "--json"], input=path.read_bytes(), capture_output=True, timeout=600
        )
        (answer,) = json.loads(done.stdout)
        assert (done.returncode, answer["query"], answer["error"]) == (0, "-", "")
        assert answer["matches"][0]["track"] == SOURCE
        assert answer["matches"][0]["offset_s"] == pytest.approx(7.35, abs=0.2)

    def test_the_rate_of_false_alarms(self, confp, made, recording, capsys):
        strict = confp("identify", made, recording, "--json", "--false-alarms", "1e-9")[1][0]
        assert strict["num_accepted"] <= confp("identify", made, recording, "--json")[1][0]["num_accepted"]
        for share in ("0", "0.5", "nan", "x"):
            with pytest.raises(SystemExit) as left:
                main(["identify", str(made), str(recording), "--false-alarms", share])
            assert left.value.code == 2

    def test_monitor_writes_lines_a_cue_sheet_and_a_table(self, made, recording, tmp_path, capsys):
        cue, table = tmp_path / "out.cue", tmp_path / "out.csv"
        assert main(["monitor", str(made), str(recording), "--json", "--cue", str(cue), "--csv", str(table)]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        matches = [event for event in events if event["event"] == "match"]
        assert matches and set(matches[0]) == FOUND_KEYS | {"event", "heard_s"}
        assert cue.read_text().startswith(f'FILE "{recording}" WAVE\n  TRACK 01 AUDIO\n    TITLE "{matches[0]["track"]}"')
        assert cue.read_text().count("INDEX 01") == len(matches) == len(table.read_text().splitlines()) - 1

    def test_monitor_of_what_is_no_audio(self, confp, made, tmp_path):
        status, out, err = confp("monitor", made, tmp_path / "missing.wav")
        assert (status, out, err) == (1, "", f"error: {tmp_path}/missing.wav: no such file\n")

    def test_compare_and_dedupe(self, confp, model, made, recording):
        status, sections, _ = confp("compare", recording, recording, "--model", model, "--json")
        assert status == 0 and sections[0]["a_s"] == 0.0 and sections[0]["b_s"] == pytest.approx(0.0, abs=0.01)
        status, out, _ = confp("compare", recording, recording, "--model", model)
        assert status == 0 and "common sections" in out
        status, pairs, _ = confp("dedupe", made, "--json")
        assert status == 0 and all(pair["track"] != pair["other"] for pair in pairs)
        assert "share 10 s or more" in confp("dedupe", made)[1]

    def test_calibrate_says_what_it_needs(self, confp, made):
        status, out, err = confp("calibrate", made)
        assert (status, out) == (1, "")
        assert err.strip() == f"error: {made} holds 7 tracks; calibration needs at least 20"

    @pytest.mark.parametrize("command", ["identify", "monitor", "listen", "compare", "dedupe", "calibrate"])
    def test_help_shows_examples(self, command, capsys):
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
        assert f"confp {command} " in capsys.readouterr().out.split("examples:")[1]

    def test_cue_times(self, tmp_path):
        import types

        from confp_jax.cli.cue_sheet import write_cue

        match = types.SimpleNamespace(track='say "hi"', confidence=0.5, query_offset_s=125.49)
        write_cue(tmp_path / "x.cue", "a.wav", [match])
        assert "TITLE \"say 'hi'\"" in (tmp_path / "x.cue").read_text()
        assert "INDEX 01 02:05:37" in (tmp_path / "x.cue").read_text()
