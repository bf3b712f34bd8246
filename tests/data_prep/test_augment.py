"""Distortions: their bytes follow from the seed, and their physics is what was drawn."""

import json
import pathlib
import random

import numpy as np
import pytest
import scipy.signal
import soundfile

from confp_jax.audio.decode import decode
from data_prep.augment import Chain
from data_prep.config import ChainConfig, Draw
from data_prep.sounds import Sounds, prepare_sounds
from data_prep.tracks import SourceError

_RATE_HZ = 16_000
_EVERYTHING = ChainConfig(
    stretch=Draw(0.5, 0.7, 1.3),
    pitch=Draw(0.5, -2, 2),
    reverb_p=0.5,
    background=Draw(0.5, -3, 20),
    coloured=Draw(0.5, -3, 20),
    tanh=Draw(0.5, 0.01, 0.7),
    polarity_p=0.5,
)


@pytest.fixture(scope="module")
def music(root: pathlib.Path) -> np.ndarray:
    """Four seconds: shorter than every noise, so that a noise need not be repeated."""
    return decode(
        root / "examples/music/karissa-hobbs_lets-go-fishin.mp3", sample_rate_hz=_RATE_HZ
    ).samples[: 4 * _RATE_HZ]


@pytest.fixture(scope="module")
def sounds(root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sounds]:
    examples = root / "examples"
    cache = tmp_path_factory.mktemp("sounds")
    return {
        part: prepare_sounds(
            str(examples / "noise"),
            str(examples / "ir"),
            part,
            cache=cache,
            sample_rate_hz=_RATE_HZ,
        )
        for part in ("train", "test")
    }


def _apply(
    config: ChainConfig, samples: np.ndarray, sounds: Sounds | None = None, seed: int = 0
) -> np.ndarray:
    return Chain(config, sounds or Sounds()).apply(samples, sample_rate_hz=_RATE_HZ, seed=(seed,))


def _clicks(at_s: np.ndarray, length_s: float) -> np.ndarray:
    """Decaying noise bursts of 50 ms."""
    rng = np.random.default_rng(0)
    samples = np.zeros(round(length_s * _RATE_HZ), np.float32)
    for t in at_s:
        burst = 0.3 * rng.normal(size=800) * np.exp(-np.arange(800) / 120)
        samples[round(t * _RATE_HZ) :][:800] = burst
    return samples


def _burst_places_s(samples: np.ndarray, near_s: np.ndarray) -> np.ndarray:
    """The loudest 4 ms within 150 ms of each expected place."""
    energy = np.convolve(samples.astype(float) ** 2, np.ones(64), "same")
    places = []
    for t in near_s:
        first = round((t - 0.15) * _RATE_HZ)
        places.append((first + np.argmax(energy[first : first + round(0.3 * _RATE_HZ)])) / _RATE_HZ)
    return np.array(places)


def test_same_seed_same_bytes(
    music: np.ndarray, sounds: dict[str, Sounds], root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Also in another order, with other global generators, and with the sounds cached in another
    place.
    """
    untouched = music.copy()
    seeds = [(0, 17, replica) for replica in range(1, 7)]
    chain = Chain(_EVERYTHING, sounds["train"])
    first = [chain.apply(music, sample_rate_hz=_RATE_HZ, seed=seed) for seed in seeds]
    examples = root / "examples"
    elsewhere = prepare_sounds(
        str(examples / "noise"),
        str(examples / "ir"),
        "train",
        cache=tmp_path,
        sample_rate_hz=_RATE_HZ,
    )
    random.seed(5)
    np.random.seed(5)
    chain = Chain(_EVERYTHING, elsewhere)
    again = [chain.apply(music, sample_rate_hz=_RATE_HZ, seed=seed) for seed in reversed(seeds)][
        ::-1
    ]
    for one, other in zip(first, again, strict=True):
        assert one.samples.tobytes() == other.samples.tobytes()
        assert (one.tempo, one.draws) == (other.tempo, other.draws)
    assert len({distorted.samples.tobytes() for distorted in first}) == len(seeds), (
        "replicas differ"
    )
    np.testing.assert_array_equal(music, untouched)


def test_nothing_drawn_changes_nothing(music: np.ndarray) -> None:
    distorted = _apply(ChainConfig(), music)
    np.testing.assert_array_equal(distorted.samples, music)
    assert (distorted.tempo, distorted.draws) == (1.0, "[]")


def _snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    noise = noisy.astype(float) - clean
    return 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean(noise**2))


def test_background_noise_has_the_drawn_snr(music: np.ndarray, sounds: dict[str, Sounds]) -> None:
    drawn_db = []
    for seed in range(12):
        distorted = _apply(ChainConfig(background=Draw(1, -3, 20)), music, sounds["train"], seed)
        (draw,) = json.loads(distorted.draws)
        assert draw["transform"] == "AddBackgroundNoise"
        assert _snr_db(music, distorted.samples) == pytest.approx(draw["snr_db"], abs=0.1)
        drawn_db.append(draw["snr_db"])
    assert -3 <= min(drawn_db) < 5 < 12 < max(drawn_db) <= 20


def test_repeated_noise_has_the_drawn_snr(root: pathlib.Path, sounds: dict[str, Sounds]) -> None:
    """Noises last 5 to 10 s, clips up to 30 s: the noise is repeated, and its last round is cut
    off.
    """
    clip = decode(
        root / "examples/music/karissa-hobbs_lets-go-fishin.mp3", sample_rate_hz=_RATE_HZ
    ).samples[: 12 * _RATE_HZ]
    for seed in range(6):
        distorted = _apply(ChainConfig(background=Draw(1, 0, 20)), clip, sounds["train"], seed)
        (draw,) = json.loads(distorted.draws)
        # The level is set from the noise as it lies in the file; the part of it that is heard twice
        # may be louder.
        assert _snr_db(clip, distorted.samples) == pytest.approx(draw["snr_db"], abs=0.5)


@pytest.mark.parametrize(("snr_db", "decay_db"), [(0.0, -6.0), (7.0, 0.0), (15.0, 5.0)])
def test_coloured_noise_has_the_drawn_snr_and_slope(
    music: np.ndarray, snr_db: float, decay_db: float
) -> None:
    config = ChainConfig(coloured=Draw(1, snr_db, snr_db), coloured_decay_db=(decay_db, decay_db))
    noisy = _apply(config, music).samples
    assert _snr_db(music, noisy) == pytest.approx(snr_db, abs=0.1)
    hz, power = scipy.signal.welch(noisy - music, _RATE_HZ, nperseg=1024)
    band = (hz > 500) & (hz < 6000)
    slope_db = np.polyfit(np.log2(hz[band]), 10 * np.log10(power[band]), 1)[0]
    assert slope_db == pytest.approx(
        decay_db, abs=0.8
    )  # audiomentations' comes to 5.4 dB an octave for 6


def test_reverberation_is_not_late(sounds: dict[str, Sounds]) -> None:
    """The direct sound of a click stays within 2 ms, in every room."""
    click = np.zeros(3 * _RATE_HZ, np.float32)
    click[_RATE_HZ] = 0.5
    for part in ("train", "test"):
        assert sounds[part].impulse_responses
        for room in sounds[part].impulse_responses:
            distorted = _apply(ChainConfig(reverb_p=1.0), click, Sounds(impulse_responses=(room,)))
            size = np.abs(distorted.samples)
            direct = int(np.argmax(size >= 0.5 * size.max()))
            assert abs(direct - _RATE_HZ) <= 0.002 * _RATE_HZ, room
            assert len(distorted.samples) == len(click)
            assert np.sum(size[direct + 160 :] ** 2) > 0.01 * np.sum(size**2), (
                f"{room} leaves no tail"
            )


def test_the_rate_of_resampling_is_drawn_from_its_range() -> None:
    chain = Chain(ChainConfig(resample=Draw(1, 6_000, 9_000)), Sounds())
    noise = np.random.default_rng(0).normal(size=_RATE_HZ).astype(np.float32) * 0.1
    drawn = [
        json.loads(chain.apply(noise, sample_rate_hz=_RATE_HZ, seed=(seed,)).draws)[0]["rate_hz"]
        for seed in range(8)
    ]
    assert len(set(drawn)) == 8 and min(drawn) >= 6_000 and max(drawn) <= 9_000


@pytest.mark.parametrize("tempo", [0.7, 0.9, 1.0, 1.3])
def test_stretch(tempo: float) -> None:
    """The moment t is heard at t / tempo, over the whole clip; the pitch stays."""
    moments_s = np.array([0.5, 1.7, 3.1, 4.9, 6.4, 7.5])
    clicks = _clicks(moments_s, 8.0)
    distorted = _apply(ChainConfig(stretch=Draw(1, tempo, tempo)), clicks)
    assert distorted.tempo == pytest.approx(tempo)
    assert json.loads(distorted.draws) == [
        {"transform": "TimeStretch", "rate": pytest.approx(tempo)}
    ]
    assert abs(len(distorted.samples) * tempo - len(clicks)) <= 2
    original_s = _burst_places_s(clicks, moments_s)
    np.testing.assert_allclose(
        _burst_places_s(distorted.samples, moments_s / tempo), original_s / tempo, atol=0.005
    )
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(4 * _RATE_HZ) / _RATE_HZ).astype(np.float32)
    assert _loudest_hz(
        _apply(ChainConfig(stretch=Draw(1, tempo, tempo)), tone).samples
    ) == pytest.approx(1000, rel=0.005)


@pytest.mark.parametrize("semitones", [-2.0, 1.0])
def test_pitch_shift_keeps_time(semitones: float) -> None:
    config = ChainConfig(pitch=Draw(1, semitones, semitones))
    moments_s = np.array([0.5, 2.2, 3.4])
    clicks = _clicks(moments_s, 4.0)
    distorted = _apply(config, clicks)
    assert (len(distorted.samples), distorted.tempo) == (len(clicks), 1.0)
    expected_s = _burst_places_s(clicks, moments_s)
    np.testing.assert_allclose(
        _burst_places_s(distorted.samples, moments_s), expected_s, atol=0.005
    )
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(4 * _RATE_HZ) / _RATE_HZ).astype(np.float32)
    assert _loudest_hz(_apply(config, tone).samples) == pytest.approx(
        1000 * 2 ** (semitones / 12), rel=0.005
    )


def _loudest_hz(samples: np.ndarray) -> float:
    hz, power = scipy.signal.periodogram(
        samples[_RATE_HZ : 3 * _RATE_HZ], _RATE_HZ, window="hann", nfft=1 << 17
    )
    return float(hz[np.argmax(power)])


def test_polarity_and_tanh(music: np.ndarray) -> None:
    np.testing.assert_array_equal(_apply(ChainConfig(polarity_p=1.0), music).samples, -music)
    distorted = _apply(ChainConfig(tanh=Draw(1, 0.5, 0.5)), music)
    assert json.loads(distorted.draws) == [
        {"transform": "TanhDistortion", "distortion_amount": 0.5}
    ]
    order = np.argsort(music)
    assert (np.diff(distorted.samples[order]) >= -1e-6).all(), "a waveshaper is monotonic"
    assert not np.allclose(distorted.samples, music, atol=0.01)


def test_noise_is_needed_where_it_is_asked_for() -> None:
    with pytest.raises(SourceError, match=r"asks for background noise.*--config\.noise_dir"):
        Chain(ChainConfig(background=Draw(0.6, 0, 20)), Sounds())
    with pytest.raises(SourceError, match=r"asks for impulse responses.*--config\.ir_dir"):
        Chain(ChainConfig(reverb_p=0.4), Sounds())


def _noise_folder(root: pathlib.Path, **files: np.ndarray) -> str:
    for name, samples in files.items():
        path = root / "train" / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, _RATE_HZ)
    return str(root)


def test_silent_noise_is_left_out(tmp_path: pathlib.Path) -> None:
    loud = np.random.default_rng(0).normal(size=_RATE_HZ) * 0.1
    silent = np.zeros(_RATE_HZ)
    folder = _noise_folder(tmp_path / "noise", loud__wav=loud, silent__wav=silent)
    found = prepare_sounds(folder, "", "train", cache=tmp_path / "cache", sample_rate_hz=_RATE_HZ)
    assert [pathlib.Path(name).name.split(".")[0] for name in found.noise] == ["loud"]
    assert found.impulse_responses == ()
    (tmp_path / "noise" / "train" / "loud.wav").unlink()
    with pytest.raises(SourceError, match="its train part holds no sound that is not silent"):
        prepare_sounds(folder, "", "train", cache=tmp_path / "other", sample_rate_hz=_RATE_HZ)


def test_sounds_with_one_name_and_two_formats_are_two(tmp_path: pathlib.Path) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, _RATE_HZ)) * 0.1
    folder = _noise_folder(tmp_path / "noise", rain__wav=a, rain__flac=b)
    found = prepare_sounds(folder, "", "train", cache=tmp_path / "cache", sample_rate_hz=_RATE_HZ)
    heard = {soundfile.read(name)[0].tobytes() for name in found.noise}
    assert len(heard) == 2


def test_noise_folders_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SourceError, match=r"test: no such folder; .* must hold train/ and test/"):
        prepare_sounds(
            _noise_folder(tmp_path / "a", x__wav=np.ones(9)),
            "",
            "test",
            cache=tmp_path,
            sample_rate_hz=_RATE_HZ,
        )
    (tmp_path / "b" / "train").mkdir(parents=True)
    (tmp_path / "b" / "train" / "broken.wav").write_bytes(b"RIFF and nothing more")
    with pytest.raises(SourceError, match=r"broken\.wav.*remove it"):
        prepare_sounds(
            str(tmp_path / "b"), "", "train", cache=tmp_path / "c", sample_rate_hz=_RATE_HZ
        )


def test_train_and_test_sounds_never_mix(sounds: dict[str, Sounds], root: pathlib.Path) -> None:
    for part in ("train", "test"):
        for kind, names in (("noise", sounds[part].noise), ("ir", sounds[part].impulse_responses)):
            files = (root / "examples" / kind / part).rglob("*.*")
            assert sorted(pathlib.Path(name).name.split(".")[0] for name in names) == sorted(
                path.stem for path in files
            )


def test_other_music_is_laid_over_at_its_level(root, music):
    path = root / "examples/music/jordan-trudgett_battle2.mp3"
    chain = Chain(ChainConfig(overlay=Draw(1.0, 3.0, 3.0)), Sounds(music=(str(path),)))
    heard = chain.apply(music, sample_rate_hz=_RATE_HZ, seed=(0,))
    added = heard.samples - music
    assert 10 * np.log10(np.mean(music**2) / np.mean(added**2)) == pytest.approx(3.0, abs=0.01)
    assert json.loads(heard.draws) == [
        {"transform": "Overlay", "snr_db": 3.0, "music_file_path": "examples/music/" + path.name}
    ]
    other = decode(path, sample_rate_hz=_RATE_HZ).samples
    piece = added[:4_000] / np.linalg.norm(added[:4_000])
    products = scipy.signal.correlate(np.concatenate([other, other[:4_000]]), piece, mode="valid")
    energy = np.convolve(np.concatenate([other, other[:4_000]]) ** 2, np.ones(4_000), mode="valid")
    assert np.max(products / np.sqrt(np.maximum(energy, 1e-9))) == pytest.approx(1.0, abs=1e-3), (
        "it is a stretch of the other"
    )
    with pytest.raises(SourceError, match="overlay"):
        Chain(ChainConfig(overlay=Draw(1.0, 3.0, 3.0)), Sounds())


def test_speech_is_laid_over_at_its_level(root, music):
    path = str(root / "examples/music/jordan-trudgett_battle2.mp3")
    chain = Chain(ChainConfig(speech=Draw(1.0, 0.0, 0.0)), Sounds(speech=(path,)))
    added = chain.apply(music, sample_rate_hz=_RATE_HZ, seed=(0,)).samples - music
    assert np.mean(added**2) == pytest.approx(np.mean(music**2), rel=0.01)
    with pytest.raises(SourceError, match="speech_dir"):
        Chain(ChainConfig(speech=Draw(1.0, 0.0, 0.0)), Sounds())


def test_music_from_a_loudspeaker_needs_noise_and_rooms(sounds, music):
    chain = Chain(ChainConfig(replay_p=1.0), sounds["train"])
    heard = chain.apply(music, sample_rate_hz=_RATE_HZ, seed=(0,))
    (draw,) = json.loads(heard.draws)
    assert draw["transform"] == "Replay" and draw["room_file_path"].startswith("ir/train/")
    assert len(heard.samples) == len(music) and np.isfinite(heard.samples).all()
    with pytest.raises(SourceError, match="replay_p=0"):
        Chain(ChainConfig(replay_p=1.0), Sounds())
