"""What is drawn while training: its physics is what was drawn, its bytes follow from the Generator
alone.
"""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal

from confp_jax.audio.mel import mel_power
from confp_jax.config import DataConfig, MelConfig, MixConfig, TrainConfig
from confp_jax.data.augmentation_draws import SEMITONE_STEPS, PitchAndTempo, mel_steps_range
from confp_jax.data.clips import ClipSource
from confp_jax.data.input import PairCutter, train_batches
from confp_jax.data.mixing import SOUNDS_FOLDER, Mixer, colour, coloured_noise, resample
from confp_jax.data.records import Clip, DatasetError

_RATE_HZ = 16_000
_SEGMENT = 48_000
_EVERYTHING = MixConfig(
    tempo_p=0.5,
    pitch_p=0.5,
    room_p=0.5,
    noise_p=0.8,
    second_noise_p=0.5,
    coloured_p=0.5,
    tanh_p=0.5,
    colour_p=0.5,
)


def _noise(seed: int, num: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=num)).astype(np.float32)


def _pcm(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767).astype("<i2")


def _impulse(num: int) -> np.ndarray:
    return np.eye(1, num, dtype=np.float32)[0]


@pytest.fixture(scope="module")
def dataset(with_sounds: Callable) -> pathlib.Path:
    """Two noises, one shorter than a segment, and a room."""
    room = _noise(3, 4000) * np.exp(-np.arange(4000, dtype=np.float32) / 800)
    return with_sounds(noise=[_noise(1, 100_000), _noise(2, 20_000)], ir=[room])


def _distort(
    config: MixConfig, folder: pathlib.Path, samples: np.ndarray, seed: int = 0
) -> np.ndarray:
    mixer = Mixer(config, folder, sample_rate_hz=_RATE_HZ)
    rng = np.random.default_rng(seed)
    return mixer.distort(
        samples, mixer.draw(rng, PitchAndTempo(), len(samples) - mixer.lead_samples)
    )


def _mel_pitch(played: PitchAndTempo) -> float:
    return 2 ** (played.mel_steps / (12 * SEMITONE_STEPS))


def _snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    return float(
        10
        * np.log10(
            np.mean(np.square(clean, dtype=float)) / np.mean(np.square(noisy.astype(float) - clean))
        )
    )


@pytest.mark.parametrize("snr_db", [-4.0, 0.0, 12.5])
def test_noise_has_the_drawn_snr_in_the_window(dataset: pathlib.Path, snr_db: float) -> None:
    music = _noise(9, _SEGMENT)
    for seed in range(6):  # the short noise is repeated
        noisy = _distort(
            MixConfig(noise_p=1.0, noise_snr_db=(snr_db, snr_db)), dataset, music, seed
        )
        assert _snr_db(music, noisy) == pytest.approx(snr_db, abs=0.01)
    noisy = _distort(MixConfig(coloured_p=1.0, coloured_snr_db=(snr_db, snr_db)), dataset, music)
    assert _snr_db(music, noisy) == pytest.approx(snr_db, abs=0.01)


def test_two_noises_are_3_db_louder_than_one(dataset: pathlib.Path) -> None:
    music = _noise(9, _SEGMENT)
    both = MixConfig(noise_p=1.0, second_noise_p=1.0, noise_snr_db=(5.0, 5.0))
    found = [_snr_db(music, _distort(both, dataset, music, seed)) for seed in range(8)]
    assert np.median(found) == pytest.approx(5.0 - 3.01, abs=0.3)


@pytest.mark.parametrize("decay_db", [-6.0, -3.0, 0.0, 5.0])
def test_coloured_noise_falls_by_the_drawn_decay(decay_db: float) -> None:
    noise = coloured_noise(
        8 * _SEGMENT, decay_db, np.random.default_rng(0), sample_rate_hz=_RATE_HZ
    )
    assert len(noise) == 8 * _SEGMENT
    assert float(np.std(noise)) == pytest.approx(1.0, rel=1e-3)
    hz, power = scipy.signal.welch(noise, _RATE_HZ, nperseg=2048)
    band = (hz > 100) & (hz < 7000)
    assert np.polyfit(np.log2(hz[band]), 10 * np.log10(power[band]), 1)[0] == pytest.approx(
        decay_db, abs=0.2
    )
    assert power[hz < 40].sum() < 0.7 * power.sum(), "an SNR must be that of what can be heard"


@pytest.mark.parametrize("semitones", [-2.0, -0.5, 1.0, 2.0])
def test_a_warped_mel_filterbank_is_a_pitch_shift(semitones: float) -> None:
    """Of a sum of tones: reading it through the warped filters equals reading the tones played
    higher.
    """
    mel = MelConfig()
    ratio = _mel_pitch(PitchAndTempo(pitch=2 ** (semitones / 12)))
    assert ratio == pytest.approx(2 ** (semitones / 12))
    seconds = np.arange(_SEGMENT) / _RATE_HZ

    def played(factor: float) -> np.ndarray:
        return sum(
            0.1 * np.sin(2 * np.pi * hz * factor * seconds) for hz in (440, 1300, 2500, 4100)
        ).astype(np.float32)

    warped = mel_power(played(1.0), mel, sample_rate_hz=_RATE_HZ, pitch=ratio).mean(axis=0)
    real = mel_power(played(ratio), mel, sample_rate_hz=_RATE_HZ).mean(axis=0)
    unshifted = mel_power(played(1.0), mel, sample_rate_hz=_RATE_HZ).mean(axis=0)
    loud = real > 0.1 * real.max()
    difference_db = np.abs(10 * np.log10(warped[loud] / real[loud]))
    assert difference_db.mean() < 1.0
    assert difference_db.max() < 3.0  # a tone's width in Hz stays, that of the filters is shifted
    assert (unshifted[loud] < 0.25 * real[loud]).any(), "the oracle can tell"


def test_pitch_is_rounded_to_an_eighth_of_a_semitone_and_makes_up_for_the_tempo() -> None:
    for pitch in np.geomspace(0.85, 1.2, 40):
        error = 12 * math.log2(_mel_pitch(PitchAndTempo(pitch=pitch)) / pitch)
        assert abs(error) <= 1 / 16 + 1e-9
    assert _mel_pitch(PitchAndTempo(tempo=1.2)) == pytest.approx(1 / 1.2, rel=0.004)
    assert _mel_pitch(PitchAndTempo(tempo=1.2, pitch=1.2)) == 1.0


@pytest.mark.parametrize("tempo", [0.7, 1.0, 1.3])
def test_resampling_moves_the_moment_t_to_t_over_tempo(tempo: float) -> None:
    """Correlated with scipy's resampling of the same stretch, at both ends and in the middle."""
    low = scipy.signal.firwin(101, 1500, fs=_RATE_HZ)
    samples = np.convolve(_noise(0, 4 * _RATE_HZ), low, "same").astype(np.float32)
    num = int((len(samples) - 2) / tempo)
    heard = resample(samples, tempo, num)
    assert len(heard) == num
    expected = scipy.signal.resample(samples, round(len(samples) / tempo))
    for start in (400, num // 2, num - 4400):
        lags = scipy.signal.correlate(
            heard[start : start + 4000], expected[start : start + 4000], "full"
        )
        assert abs(int(np.argmax(lags)) - 3999) <= 1


def test_overload_bends_and_never_folds(dataset: pathlib.Path) -> None:
    music = _noise(0, _SEGMENT)
    bent = _distort(MixConfig(tanh_p=1.0, tanh_drive=(2.0, 2.0)), dataset, music)
    expected = np.tanh(2.0 * music / np.sqrt(np.mean(music.astype(float) ** 2)))
    np.testing.assert_allclose(bent, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("tilt_db", "low_hz", "high_hz"), [(-4.0, 50.0, 8000.0), (3.0, 300.0, 3400.0)]
)
def test_colour_is_the_drawn_frequency_response(
    dataset: pathlib.Path, tilt_db: float, low_hz: float, high_hz: float
) -> None:
    config = MixConfig(
        colour_p=1.0,
        tilt_db=(tilt_db, tilt_db),
        low_cut_hz=(low_hz, low_hz),
        high_cut_hz=(high_hz, high_hz),
    )
    mel = MelConfig()
    limited = 0
    mixer = Mixer(config, dataset, sample_rate_hz=_RATE_HZ)
    centres_hz = np.array([_loudest_mel_hz(mel, number) for number in range(4, mel.num_mels, 5)])
    for seed in range(12):
        drawn = mixer.draw(np.random.default_rng(seed), PitchAndTempo(), _SEGMENT)
        gain_db = 10 * np.log10(colour(np.ones((3, mel.num_mels), np.float32), drawn, mel))
        assert np.ptp(gain_db, axis=0).max() == 0, "the same in every frame"
        gain_db = gain_db[0, 4::5]
        inside = (centres_hz > 1.2 * low_hz) & (centres_hz < 0.8 * high_hz)
        assert np.polyfit(np.log2(centres_hz[inside]), gain_db[inside], 1)[0] == pytest.approx(
            tilt_db, abs=0.3
        )
        beyond = np.log2(centres_hz / high_hz)
        loss_db = tilt_db * np.log2(centres_hz / 1000) - gain_db
        if (loss_db[beyond > 0.3] > 5).any():
            np.testing.assert_allclose(loss_db[beyond > 0.3], 24 * beyond[beyond > 0.3], atol=1.0)
            limited += 1
    assert (2 <= limited <= 10) if high_hz < 8000 else limited == 0  # half the time


def _loudest_mel_hz(mel: MelConfig, number: int) -> float:
    """The centre of a mel filter by Slaney's formula, as librosa's `mel_frequencies` gives it."""
    import librosa

    return float(
        librosa.mel_frequencies(mel.num_mels + 2, fmin=mel.fmin_hz, fmax=mel.fmax_hz)[number + 1]
    )


def test_draws_lie_in_their_ranges(dataset: pathlib.Path) -> None:
    config = MixConfig(
        tempo_p=0.5, tempo=(0.7, 1.35), turntable=0.3, pitch_p=0.5, pitch_semitones=(-2.0, 2.0)
    )
    mixer = Mixer(config, dataset, sample_rate_hz=_RATE_HZ)
    rng = np.random.default_rng(0)
    drawn = [mixer.draw_pitch_and_tempo(rng) for _ in range(2000)]
    tempos = np.array([d.tempo for d in drawn if d.tempo != 1.0])
    assert len(tempos) == pytest.approx(1000, abs=100)
    assert 0.7 <= tempos.min() < 0.72 < 1.33 < tempos.max() <= 1.35
    turntable = [d for d in drawn if d.tempo != 1.0 and d.pitch == d.tempo]
    assert len(turntable) == pytest.approx(300, abs=60)
    lowest, highest = mel_steps_range(config)
    assert lowest <= min(d.mel_steps for d in drawn) < max(d.mel_steps for d in drawn) <= highest
    semitones = np.array([12 * math.log2(d.pitch) for d in drawn if d.pitch not in (1.0, d.tempo)])
    assert -2 <= semitones.min() < -1.9 < 1.9 < semitones.max() <= 2


def test_silence_stays_silent(dataset: pathlib.Path) -> None:
    config = dataclasses.replace(_EVERYTHING, noise_p=1.0, coloured_p=1.0, tanh_p=1.0, room_p=1.0)
    silent = _distort(config, dataset, np.zeros(_SEGMENT + _RATE_HZ, np.float32))
    np.testing.assert_array_equal(silent, np.zeros(_SEGMENT, np.float32))


def test_the_same_generator_gives_the_same_bytes(dataset: pathlib.Path) -> None:
    samples = _noise(0, _SEGMENT + _RATE_HZ)
    first = [_distort(_EVERYTHING, dataset, samples, seed) for seed in range(8)]
    again = [_distort(_EVERYTHING, dataset, samples, seed) for seed in reversed(range(8))][::-1]
    assert [one.tobytes() for one in first] == [other.tobytes() for other in again]
    assert len({one.tobytes() for one in first}) == 8
    assert {(one.dtype, one.shape) for one in first} == {(np.dtype(np.float32), (_SEGMENT,))}


def test_a_replay_keeps_the_power_and_leaves_the_other_draws_alone(dataset: pathlib.Path) -> None:
    config = dataclasses.replace(_EVERYTHING, replay_p=0.5)
    mixer = Mixer(config, dataset, sample_rate_hz=_RATE_HZ)
    music = _noise(5, mixer.lead_samples + _SEGMENT)
    power = np.mean(np.square(music[mixer.lead_samples :]))
    kinds = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drawn = mixer.draw(rng, PitchAndTempo(), _SEGMENT)
        if not drawn.is_replayed:
            continue
        kinds.add((drawn.has_room, drawn.noise >= 0, drawn.drive > 0))
        assert not drawn.tanh_drive and math.isinf(drawn.coloured_snr_db)
        found = mixer.distort(music, drawn)
        assert found.shape == (_SEGMENT,) and found.dtype == np.float32
        assert np.mean(np.square(found)) == pytest.approx(power, rel=1e-3)
    assert len(kinds) > 4
    none = dataclasses.replace(config, replay_p=0.0)
    draws = [
        Mixer(one, dataset, sample_rate_hz=_RATE_HZ).draw(
            np.random.default_rng(1), PitchAndTempo(), _SEGMENT
        )
        for one in (none, _EVERYTHING)
    ]
    assert draws[0] == draws[1], "a run without replays draws what it drew before"


def _clicks(at_s: np.ndarray) -> np.ndarray:
    samples = np.zeros(round((at_s[-1] + 1) * _RATE_HZ), np.float32)
    samples[np.round(at_s * _RATE_HZ).astype(int)] = 0.9
    return samples


@pytest.mark.parametrize("tempo", [0.75, 1.0, 1.25])
def test_a_mixed_replica_lies_at_its_place(with_sounds: Callable, tempo: float) -> None:
    """Tempo about the window's centre, a room that is a mere direct sound, and the second of lead
    cut off again.
    """
    moments_s = np.cumsum(np.random.default_rng(0).uniform(0.2, 0.6, 40))
    folder = with_sounds([Clip(0, 0, 1.0, 0.0, _pcm(_clicks(moments_s)))], ir=[_impulse(100)])
    mix = MixConfig(tempo_p=1.0, tempo=(tempo, tempo), room_p=1.0, synthetic_rooms=0.0)
    config = TrainConfig(data=DataConfig(dir=str(folder), mel_on="host", mix=mix))
    cutter = PairCutter(ClipSource(folder, "training"), config)
    heard = 0
    for seed, start_s in enumerate((0.5, 3.0, 5.21, 9.0)):  # 0.5 s has less before it than the lead
        loudness = cutter.cut_replica(0, start_s, np.random.default_rng(seed)).sum(axis=1)
        frame_s = (np.arange(len(loudness)) * 128 + 512) / _RATE_HZ
        expected_s = 1.5 + (moments_s - (start_s + 1.5)) / tempo
        for moment_s in expected_s[(expected_s > 0.1) & (expected_s < 2.9)]:
            near = np.abs(frame_s - moment_s) < 0.06
            # A click is heard by 8 frames; the centre of their power is the click to a fraction of
            # a hop.
            found_s = np.sum(frame_s[near] * loudness[near]) / np.sum(loudness[near])
            assert found_s == pytest.approx(moment_s, abs=0.003)
            heard += 1
    assert heard >= 20


def test_mixed_batches_resume_exactly(prepared: pathlib.Path) -> None:
    """On the sounds that the real preparation has put beside the clips."""
    config = TrainConfig(
        data=DataConfig(
            dir=str(prepared), batch_size=4, crops_per_track=2, mel_on="host", mix=_EVERYTHING
        )
    )
    batches = train_batches(config)
    next(batches)
    state = batches.get_state()
    expected = next(batches)
    resumed = train_batches(config)
    resumed.set_state(state)
    found = next(resumed)
    for name in ("anchor", "replica"):
        assert found[name].shape == (4, 368, 80)
        np.testing.assert_array_equal(found[name], expected[name])
        assert np.isfinite(found[name]).all()


def test_the_sounds_of_a_prepared_data_set_are_the_training_part_s(
    prepared: pathlib.Path, root: pathlib.Path
) -> None:
    for kind in ("noise", "ir"):
        source = ClipSource(prepared / SOUNDS_FOLDER, kind)
        names = {source.summary.track_names[str(clip.track_id)] for clip in source}
        files = {path.name for path in (root / "examples" / kind / "train").rglob("*.*")}
        assert {pathlib.PurePath(name).name.removesuffix(".wav") for name in names} == files
        assert len(source) == len(files)


@pytest.mark.parametrize(("kind", "field"), [("noise", "noise_p"), ("ir", "room_p")])
def test_sounds_that_are_not_there(with_sounds: Callable, kind: str, field: str) -> None:
    config = MixConfig(**{field: 0.5})
    for folder in (with_sounds(), with_sounds(**{kind: []})):
        with pytest.raises(DatasetError, match=f"no {kind} to mix in"):
            Mixer(config, folder, sample_rate_hz=_RATE_HZ)
    Mixer(
        MixConfig(room_p=0.5, synthetic_rooms=1.0), with_sounds(), sample_rate_hz=_RATE_HZ
    )  # needs none


def test_sounds_at_another_rate(make_dataset: Callable, with_sounds: Callable) -> None:
    folder = with_sounds()
    sounds = make_dataset(
        {"noise": [Clip(0, 0, 1.0, 0.0, _pcm(_noise(0, 9000)))]},
        num_replicas=0,
        sample_rate_hz=8000,
    )
    shutil.move(sounds, folder / SOUNDS_FOLDER)
    assert json.loads((folder / SOUNDS_FOLDER / "confp.json").read_text())["sample_rate_hz"] == 8000
    with pytest.raises(DatasetError, match="8000 Hz"):
        Mixer(MixConfig(noise_p=0.5), folder, sample_rate_hz=_RATE_HZ)
