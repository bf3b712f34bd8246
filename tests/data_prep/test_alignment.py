"""Whatever moves time is compensated: clean and distorted clip line up within 2 ms at every moment,
on real music.
"""

import pathlib

import numpy as np
import pytest
import scipy.signal

from confp_jax.audio.decode import decode
from confp_jax.data.telephone import TelephoneConfig
from data_prep.augment import Chain, Distorted
from data_prep.config import Band, ChainConfig, Draw
from data_prep.sounds import Sounds, prepare_sounds

_RATE_HZ = 16_000
_EDGES_HZ = np.geomspace(150, 6500, 9)
_WINDOW_S = 4.0
_STEP_S = 2.0
_FARTHEST_S = 0.08
_ENVELOPE_HZ = 4_000
_MUSIC = ("karissa-hobbs_lets-go-fishin", "jordan-trudgett_battle2")


def _envelopes(samples: np.ndarray, pitch: float) -> np.ndarray:
    """[bands, n / 4]: what is heard in each band, smoothed below 30 Hz, without delay."""
    smooth = scipy.signal.butter(2, 30, fs=_RATE_HZ, output="sos")
    found = []
    for low, high in zip(_EDGES_HZ * pitch, np.minimum(_EDGES_HZ[1:] * pitch, 7_900), strict=False):
        band = scipy.signal.butter(2, (low, high), btype="band", fs=_RATE_HZ, output="sos")
        power = scipy.signal.sosfiltfilt(band, samples.astype(float)) ** 2
        found.append(np.sqrt(np.maximum(scipy.signal.sosfiltfilt(smooth, power)[::4], 0)))
    return np.stack(found)


def lags_s(
    clean: np.ndarray, heard: np.ndarray, *, tempo: float = 1.0, pitch: float = 1.0
) -> np.ndarray:
    """Seconds by which `heard` comes late (its own time), for every 4 s of it: by the loudness in
    bands, which survives any change of phase. The clean moment t belongs at t / tempo.
    """
    whole = _envelopes(clean, 1.0)
    other = _envelopes(heard, pitch)
    at = np.arange(other.shape[1]) * tempo
    whole = np.stack([np.interp(at, np.arange(len(band)), band) for band in whole])
    window = round(_WINDOW_S * _ENVELOPE_HZ)
    farthest = round(_FARTHEST_S * _ENVELOPE_HZ)
    lags = []
    for start in range(farthest, len(at) - window - farthest + 1, round(_STEP_S * _ENVELOPE_HZ)):
        total = np.zeros(2 * farthest + 1)
        for a, b in zip(whole, other, strict=True):
            a = a[start : start + window] - a[start : start + window].mean()
            b = b[start - farthest : start + window + farthest] - b[start : start + window].mean()
            total += scipy.signal.correlate(b, a, "valid", method="fft") / (
                np.linalg.norm(a) * np.linalg.norm(b) + 1e-12
            )
        best = int(np.argmax(total[1:-1])) + 1
        left, middle, right = total[best - 1 : best + 2]
        lags.append(
            (best - farthest + 0.5 * (left - right) / (left - 2 * middle + right)) / _ENVELOPE_HZ
        )
    return np.array(lags)


@pytest.fixture(scope="module")
def music(root: pathlib.Path) -> dict[str, np.ndarray]:
    return {
        n: decode(root / f"examples/music/{n}.mp3", sample_rate_hz=_RATE_HZ).samples[
            : 12 * _RATE_HZ
        ]
        for n in _MUSIC
    }


@pytest.fixture(scope="module")
def sounds(root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Sounds:
    examples = root / "examples"
    cache = tmp_path_factory.mktemp("sounds")
    return prepare_sounds(
        str(examples / "noise"), str(examples / "ir"), "train", cache=cache, sample_rate_hz=_RATE_HZ
    )


def _always(value: float) -> Draw:
    return Draw(1.0, value, value)


_CHAINS = {
    **{
        f"stretch {tempo}": ChainConfig(stretch=_always(tempo)) for tempo in (0.85, 0.93, 1.15, 1.3)
    },
    **{
        f"pitch {semitones}": ChainConfig(pitch=_always(semitones))
        for semitones in (-2.0, 1.0, 2.0)
    },
    **{
        f"{codec} {kbps}": ChainConfig(**{codec: _always(kbps)})
        for codec in ("mp3", "opus", "aac")
        for kbps in (16, 48)
    },
    **{f"resample {hz}": ChainConfig(resample=_always(hz)) for hz in (8_000, 11_025, 15_111)},
    "telephone": ChainConfig(telephone=Band(1.0)),
    "call": ChainConfig(call_p=1.0, call=TelephoneConfig(codecs=("gsm",), loss_p=0.0, noise_p=0.0)),
    "speaker": ChainConfig(speaker=Band(1.0, (200, 500), (4_000, 7_000))),
    "tanh": ChainConfig(tanh=_always(0.5)),
    "clipping": ChainConfig(clipping=_always(8)),
    "gain": ChainConfig(gain=_always(-12)),
    "polarity": ChainConfig(polarity_p=1.0),
    "background": ChainConfig(background=_always(10)),
    "varying": ChainConfig(varying=_always(10)),
    "coloured": ChainConfig(coloured=_always(10)),
}


def _lags_s(clean: np.ndarray, distorted: Distorted, semitones: float) -> np.ndarray:
    return lags_s(clean, distorted.samples, tempo=distorted.tempo, pitch=2 ** (semitones / 12))


@pytest.mark.parametrize("name", _CHAINS)
def test_every_moment_lies_within_2_ms(
    music: dict[str, np.ndarray], sounds: Sounds, name: str
) -> None:
    config = _CHAINS[name]
    for clean in music.values():
        distorted = Chain(config, sounds).apply(clean, sample_rate_hz=_RATE_HZ, seed=(0,))
        assert abs(len(distorted.samples) * distorted.tempo - len(clean)) <= 1
        lags = _lags_s(clean, distorted, config.pitch.low)
        assert len(lags) >= 3
        assert np.abs(lags).max() <= 0.002, lags


@pytest.mark.parametrize("tempo", [0.7, 0.8])
def test_a_strong_stretch(music: dict[str, np.ndarray], tempo: float) -> None:
    """Onsets are smeared over 10 ms and more there: the middle of the measurements is held to 2 ms,
    the scatter to 3.
    """
    for clean in music.values():
        chain = Chain(ChainConfig(stretch=_always(tempo)), Sounds())
        lags = _lags_s(clean, chain.apply(clean, sample_rate_hz=_RATE_HZ, seed=(0,)), 0.0)
        assert abs(np.median(lags)) <= 0.002
        assert np.abs(lags).max() <= 0.003, lags


def test_rooms_keep_the_place_of_the_direct_sound(
    music: dict[str, np.ndarray], sounds: Sounds
) -> None:
    """By the waveform: the strongest correlation within 50 ms is the direct sound, for nearly
    every room at nearly every moment.

    A tail moves the loudness itself, so the bands' loudness tells nothing here.
    """
    clean = music[_MUSIC[0]]
    assert len(sounds.impulse_responses) > 1
    for room in sounds.impulse_responses:
        heard = Chain(ChainConfig(reverb_p=1.0), Sounds(impulse_responses=(room,))).apply(
            clean, sample_rate_hz=16_000, seed=(0,)
        )
        spectrum = np.fft.rfft(heard.samples, 2 * len(clean)) * np.conj(
            np.fft.rfft(clean, 2 * len(clean))
        )
        whitened = np.fft.irfft(
            spectrum / (np.abs(np.fft.rfft(clean, 2 * len(clean))) ** 2 + 1e-3)
        )  # the room itself
        near = np.concatenate([whitened[-800:], whitened[:800]])
        first = np.argmax(np.abs(near) >= 0.5 * np.abs(near).max()) - 800
        assert abs(first) <= 0.002 * _RATE_HZ, room


def test_the_measure_sees_a_delay(music: dict[str, np.ndarray]) -> None:
    clean = music[_MUSIC[0]]
    for delay in (-80, 0, 47, 320):
        np.testing.assert_allclose(
            lags_s(clean, np.roll(clean, delay)), delay / _RATE_HZ, atol=3e-4
        )
    late = (
        Chain(ChainConfig(mp3=_always(32)), Sounds())
        .apply(clean, sample_rate_hz=_RATE_HZ, seed=(0,))
        .samples
    )
    late = lags_s(
        clean, np.roll(late, 1105)
    )  # LAME's delay and the decoder's, had they been left in
    np.testing.assert_allclose(late, 1105 / _RATE_HZ, atol=5e-4)
