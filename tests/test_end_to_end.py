"""The main job through the shipped model: music in, noisy excerpt in, track and place out."""

import json
import pathlib

import librosa
import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import decode
from confp_jax.cli import main
from confp_jax.fingerprint.embedder import DEFAULT_MODEL, load_encoder, shipped_models
from confp_jax.library.compare import compare_files
from confp_jax.matching.decision import load_decision
from confp_jax.model.shipped import model_card

MUSIC = sorted((pathlib.Path(__file__).parent.parent / "examples" / "music").glob("*.mp3"))
NOISE = sorted(
    (pathlib.Path(__file__).parent.parent / "examples" / "noise" / "test").rglob("*.ogg")
)


@pytest.fixture(scope="module")
def excerpts(tmp_path_factory):
    """A 3 s excerpt of every track at a place off the 300 ms grid, with background noise at 10
    dB.
    """
    folder = tmp_path_factory.mktemp("excerpts")
    rng = np.random.default_rng(0)
    truth = {}
    for number, path in enumerate(MUSIC):
        samples = decode(path, sample_rate_hz=16_000).samples
        start = int(rng.integers(16_000, len(samples) - 64_000))
        excerpt = samples[start : start + 48_000]
        noise = decode(NOISE[number % len(NOISE)], sample_rate_hz=16_000).samples[:48_000]
        noise *= np.sqrt(np.mean(excerpt**2) / np.mean(noise**2)) * 10 ** (-10 / 20)
        name = folder / f"{number:02d}.wav"
        soundfile.write(name, 0.5 * (excerpt + noise), 16_000)
        truth[str(name)] = (path.stem, start / 16_000)
    return truth


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """All of the music, by the shipped model."""
    folder = tmp_path_factory.mktemp("music") / "db"
    assert main(["add", str(folder), str(MUSIC[0].parent)]) == 0
    return str(folder)


def test_noisy_excerpts_are_identified(excerpts, database, capsys):
    capsys.readouterr()
    assert main(["identify", database, *excerpts, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["query"] for answer in answers] == list(excerpts)
    nearest = [
        a for a in answers if a["matches"] and a["matches"][0]["track"] == excerpts[a["query"]][0]
    ]
    assert len(nearest) >= 0.9 * len(answers), f"{len(nearest)} of {len(answers)}"
    right = [
        a for a in nearest if a["verdict"] == "match"
    ]  # at one false alarm in 1,000, which not every excerpt is sure enough for
    assert len(right) >= 0.8 * len(answers), f"{len(right)} of {len(answers)}"
    late = [abs(a["matches"][0]["offset_s"] - excerpts[a["query"]][1]) for a in right]
    assert np.median(late) <= 0.15


def test_copies_at_another_pitch_have_common_sections(tmp_path):
    """Two semitones higher, which the conformer alone hears."""
    music = decode(MUSIC[0], sample_rate_hz=16_000).samples[: 16 * 16_000]
    higher = tmp_path / "higher.wav"
    shifted = librosa.effects.pitch_shift(music[4 * 16_000 :], sr=16_000, n_steps=2)
    soundfile.write(higher, shifted, 16_000)
    section = max(compare_files(higher, MUSIC[0]), key=lambda section: section.length_s)
    assert section.b_s - section.a_s == pytest.approx(4.0, abs=0.5) and section.length_s > 8


def test_slowed_music_is_identified(database, tmp_path, capsys):
    """Played at 70 % at its own pitch, 3 s."""
    rng = np.random.default_rng(0)
    truth = {}
    for path in MUSIC:
        samples = decode(path, sample_rate_hz=16_000).samples
        for number in range(2):
            start = int(rng.integers(0, len(samples) - 40_000))
            slowed = librosa.effects.time_stretch(samples[start : start + 36_000], rate=0.7)[
                :48_000
            ]
            name = tmp_path / f"{path.stem}-{number}.wav"
            soundfile.write(name, slowed, 16_000)
            truth[str(name)] = (path.stem, start / 16_000)
    capsys.readouterr()
    assert main(["identify", database, *truth, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    firsts = [answer["matches"][0] for answer in answers]
    right = [
        first["track"] == truth[answer["query"]][0]
        for first, answer in zip(firsts, answers, strict=True)
    ]
    assert np.mean(right) >= 0.95
    accepted = [
        is_right and answer["verdict"] == "match"
        for is_right, answer in zip(right, answers, strict=True)
    ]
    assert np.mean(accepted) >= 0.75
    late = [
        abs(first["offset_s"] - truth[answer["query"]][1])
        for first, answer in zip(firsts, answers, strict=True)
    ]
    assert np.median(late) <= 0.4  # its tempo is not told: both parts hear it at their own


def test_music_that_was_never_added_is_unknown(excerpts, tmp_path, capsys):
    """Every excerpt is searched among the other half of the tracks."""
    half = [str(path) for path in MUSIC[::2]]
    assert main(["add", str(tmp_path / "db"), *half]) == 0
    unknown_clips = [
        query
        for query, (track, _) in excerpts.items()
        if track not in {pathlib.Path(p).stem for p in half}
    ]
    capsys.readouterr()
    assert main(["identify", str(tmp_path / "db"), *unknown_clips, "--json"]) == 0
    verdicts = [answer["verdict"] for answer in json.loads(capsys.readouterr().out)]
    assert len(verdicts) >= 8
    assert verdicts.count("match") <= 1, verdicts


def test_the_default_model_ships():
    assert load_encoder().name == DEFAULT_MODEL in shipped_models()


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_has_a_card_of_its_own_weights_and_a_calibration(name):
    encoder = load_encoder(name)
    card = model_card(name)
    assert {
        "summary",
        "parameters",
        "size_mb",
        "times_real_time",
        "licence",
        "training_data",
        "top1_track",
    } <= card.keys()
    assert card["identity"] == encoder.weights_hash
    assert load_decision(encoder.folder, encoder.weights_hash).calibrated
    assert (encoder.folder / "README.md").is_file()
    assert sum(p.stat().st_size for p in encoder.folder.rglob("*") if p.is_file()) < 24_000_000
