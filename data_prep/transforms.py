"""Distortions that audiomentations lacks, or that would move time there: none of these moves a
moment by more than 1 ms.

Each draws its values from an explicit Generator and returns them beside the samples, to be written
into the record.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
from jaxtyping import Float32

from confp_jax.audio.decode import from_samples
from confp_jax.audio.encode import CodecName, through_codec
from confp_jax.data.replay import ReplayConfig, draw_replay, replay
from confp_jax.data.telephone import TelephoneConfig, draw_telephone, telephone
from data_prep.config import Band, Draw
from data_prep.parts import read_around
from data_prep.sounds import Sounds

_FILTER_S = 0.032  # of linear phase about its middle: no frequency is late
_SLOPE_OCTAVES = 0.5  # from the passband to -48 dB
_PIECE_S = (0.4, 2.0)  # of one noise, before the next one takes over
_FADE_S = 0.05
_PIECE_LEVEL_DB = 9.0  # either way: a passing car, a door, a pause


@dataclasses.dataclass(frozen=True)
class Heard:
    """What a transform made of a clip, and the values that it drew."""

    samples: Float32[np.ndarray, " n"]
    draws: dict[str, Any]


def pass_codec(
    samples: Float32[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    sample_rate_hz: int,
    codec: CodecName,
    kbps: Draw,
) -> Heard:
    """Through a lossy codec at a drawn bit rate; its delay is taken out."""
    bitrate_kbps = round(rng.uniform(kbps.low, kbps.high))
    peak = max(
        float(np.abs(samples).max(initial=0.0)), 1.0
    )  # a codec's PCM ends at 1; the record is scaled in the same way
    heard = through_codec(
        samples / np.float32(peak),
        sample_rate_hz=sample_rate_hz,
        codec=codec,
        bitrate_kbps=bitrate_kbps,
    )
    return Heard(heard * np.float32(peak), {"codec": codec, "bitrate_kbps": bitrate_kbps})


def limit_band(
    samples: Float32[np.ndarray, " n"], rng: np.random.Generator, *, sample_rate_hz: int, band: Band
) -> Heard:
    """Returns the band that a telephone or a small loudspeaker leaves: steep slopes outside the
    drawn limits, no delay.
    """
    low_hz = float(rng.uniform(*band.low_hz))
    high_hz = float(rng.uniform(*band.high_hz))
    nyquist_hz = sample_rate_hz / 2
    width = 2.0**_SLOPE_OCTAVES
    hz = [0.0, low_hz / width, low_hz]
    gain = [0.004, 0.004, 1.0]
    if high_hz * width < nyquist_hz:
        hz = [*hz, high_hz, high_hz * width, nyquist_hz]
        gain = [*gain, 1.0, 0.004, 0.004]
    else:
        hz = [*hz, nyquist_hz]
        gain = [*gain, 1.0]
    taps = scipy.signal.firwin2(
        round(_FILTER_S * sample_rate_hz) // 2 * 2 + 1, hz, gain, fs=sample_rate_hz
    )
    heard = scipy.signal.oaconvolve(samples, taps.astype(np.float32), mode="same")
    return Heard(heard.astype(np.float32), {"low_hz": low_hz, "high_hz": high_hz})


def telephone_call(
    samples: Float32[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    sample_rate_hz: int,
    config: TelephoneConfig,
) -> Heard:
    """Over a telephone network: its band, its codecs, and what else is on the line."""
    drawn = draw_telephone(rng, config)
    heard = telephone(samples, drawn, sample_rate_hz=sample_rate_hz)
    values = {
        name: value
        for name, value in drawn._asdict().items()
        if not isinstance(value, float) or math.isfinite(value)
    }
    return Heard(heard, values)


def resample_there_and_back(
    samples: Float32[np.ndarray, " n"], rng: np.random.Generator, *, sample_rate_hz: int, rate: Draw
) -> Heard:
    """Resamples to a drawn sample rate and back; what lay above its half is gone."""
    rate_hz = round(rng.uniform(rate.low, rate.high))
    heard = from_samples(
        from_samples(samples, from_hz=sample_rate_hz, to_hz=rate_hz),
        from_hz=rate_hz,
        to_hz=sample_rate_hz,
    )
    heard = np.pad(heard, (0, max(0, len(samples) - len(heard))))[: len(samples)]
    return Heard(heard, {"rate_hz": rate_hz})


def replay_aloud(
    samples: Float32[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    sample_rate_hz: int,
    config: ReplayConfig,
    sounds: Sounds,
    read: Callable[[str], Float32[np.ndarray, " n"]],
) -> Heard:
    """Returns what a microphone hears of a loudspeaker that plays the samples in a noisy room.

    Args:
      samples: the music.
      rng: the generator that everything is drawn from.
      sample_rate_hz: of `samples`.
      config: the ranges to draw from.
      sounds: the rooms and noises.
      read: gives the samples of a room or noise by its name.
    """
    drawn = draw_replay(rng, config)
    room_path = sounds.impulse_responses[int(rng.integers(len(sounds.impulse_responses)))]
    noise_path = sounds.noise[int(rng.integers(len(sounds.noise)))]
    recorded = read(noise_path)
    recorded = np.roll(recorded, -int(rng.integers(len(recorded))))
    heard = replay(
        samples,
        drawn,
        sample_rate_hz=sample_rate_hz,
        room=read(room_path),
        noise=lambda num: np.resize(recorded, num),
    )
    values = {name: value for name, value in drawn._asdict().items() if math.isfinite(value)}
    return Heard(
        heard.astype(np.float32),
        values | {"room_file_path": room_path, "noise_file_path": noise_path},
    )


def add_varying_noise(
    samples: Float32[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    sample_rate_hz: int,
    snr: Draw,
    noises: tuple[str, ...],
    read: Callable[[str], Float32[np.ndarray, " n"]],
) -> Heard:
    """Adds noise that changes: pieces of recordings at other levels, faded into each other; the
    SNR is the whole's.

    Args:
      samples: the music.
      rng: the generator that everything is drawn from.
      sample_rate_hz: of `samples`.
      snr: the range of the signal-to-noise ratio, in dB.
      noises: the names of the recordings to draw from.
      read: gives the samples of one by its name.
    """
    snr_db = float(rng.uniform(snr.low, snr.high))
    fade = round(_FADE_S * sample_rate_hz)
    noise = np.zeros(len(samples) + fade, np.float32)
    place = 0
    names = []
    while place < len(samples):
        num = min(round(rng.uniform(*_PIECE_S) * sample_rate_hz), len(samples) - place) + fade
        name = noises[int(rng.integers(len(noises)))]
        sound = read(name)
        part = np.resize(np.roll(sound, -int(rng.integers(len(sound)))), num).astype(np.float32)
        level_db = rng.uniform(-_PIECE_LEVEL_DB, _PIECE_LEVEL_DB)
        part *= np.float32(
            10 ** (level_db / 20) / max(float(np.sqrt(np.mean(np.square(part)))), 1e-9)
        )
        ramp = np.sin(np.linspace(0, math.pi / 2, fade, dtype=np.float32))
        part[:fade] *= ramp
        part[-fade:] *= ramp[::-1]
        noise[place : place + num] += part
        names.append(name)
        place += num - fade
    return Heard(
        _mix(samples, noise[: len(samples)], snr_db), {"snr_db": snr_db, "noise_file_paths": names}
    )


def add_music(
    samples: Float32[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    sample_rate_hz: int,
    snr: Draw,
    music: tuple[str, ...],
) -> Heard:
    """Adds another track, or someone who speaks, from any place in it; where it ends, it begins
    again.

    Args:
      samples: the music.
      rng: the generator that everything is drawn from.
      sample_rate_hz: of `samples`.
      snr: the range of the signal-to-noise ratio, in dB.
      music: the files to draw from.
    """
    snr_db = float(rng.uniform(snr.low, snr.high))
    path = music[int(rng.integers(len(music)))]
    other = read_around(pathlib.Path(path), rng, len(samples), sample_rate_hz=sample_rate_hz)
    return Heard(_mix(samples, other, snr_db), {"snr_db": snr_db, "music_file_path": path})


def _mix(
    samples: Float32[np.ndarray, " n"], noise: Float32[np.ndarray, " n"], snr_db: float
) -> Float32[np.ndarray, " n"]:
    power, noise_power = (float(np.mean(np.square(x))) for x in (samples, noise))
    gain = math.sqrt(power / max(noise_power, 1e-20)) * 10 ** (-snr_db / 20)
    return samples + noise * np.float32(gain)
