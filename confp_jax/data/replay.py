"""Music as a microphone hears it that is held to a loudspeaker: overload, loudspeaker, room,
surroundings, microphone, automatic gain, clipping.

What is drawn is a `ReplayDraw` of numbers; `replay` makes the sound of it. Everything that filters
is one product in the frequency domain, so nothing is late by more than a loudspeaker and the
direct sound are.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float32

from confp_jax.data.levels import automatic_gain, swell
from confp_jax.data.responses import ambience_db, gains, microphone_db, speaker_db
from confp_jax.typed_config import ConfigError

ROOM_S = 1.2  # of an impulse response; what follows is far below the ambience
_TINY = 1e-12

Room = Float32[np.ndarray, " k"]
Noise = Callable[[int], Float32[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Music from a loudspeaker, recorded by a microphone in the room (`data/replay.py`); ranges to
    draw from.
    """

    overload_p: float = 0.3  # probability of overload
    overload_drive: tuple[float, float] = (0.5, 3.0)  # amplitude in units of the RMS before tanh
    speaker_low_hz: tuple[float, float] = (
        80.0,
        1100.0,
    )  # below it the loudspeaker fades; log-uniform
    speaker_slope_db: tuple[float, float] = (6.0, 24.0)  # per octave
    speaker_uneven_db: tuple[float, float] = (2.0, 7.0)  # standard deviation of its response
    dull_p: float = 0.3  # share of the loudspeakers without treble
    dull_hz: tuple[float, float] = (2500.0, 7000.0)  # where the treble of such a loudspeaker ends
    room_p: float = 0.9  # probability of a room
    ambience_snr_db: tuple[float, float] = (-18.0, 12.0)  # of what arrives at the microphone
    ambience_tilt_db: tuple[float, float] = (-9.0, -2.0)  # per octave
    noise_p: float = 0.5  # of a recorded noise beside the ambience
    # of what arrives at the microphone, over that noise
    noise_snr_db: tuple[float, float] = (-6.0, 18.0)
    microphone_low_hz: tuple[float, float] = (60.0, 300.0)  # below it the microphone fades
    microphone_slope_db: tuple[float, float] = (0.0, 12.0)  # per octave
    microphone_uneven_db: tuple[float, float] = (1.0, 4.0)  # standard deviation of its response
    hiss_snr_db: tuple[float, float] = (5.0, 40.0)  # over the microphone's own noise
    swell_p: float = 0.5  # of surroundings that come and go
    swell_db: tuple[float, float] = (2.0, 8.0)  # standard deviation of their level
    gain_p: float = 0.5  # of automatic gain
    gain_strength: tuple[float, float] = (0.3, 0.9)  # 1: a level that is nearly constant
    clip_p: float = 0.15  # of a microphone that clips
    clip_level: tuple[float, float] = (1.0, 3.0)  # in units of the RMS
    suppression_p: float = 0.3  # of noise suppression (on mel power: while training alone)
    suppression: tuple[float, float] = (0.5, 2.0)  # how much of the noise floor is subtracted

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, tuple) and not value[0] <= value[1]:
                raise ConfigError(f"replay.{name}={value}: expected (low, high) with low <= high")
            if not isinstance(value, tuple) and not 0 <= value <= 1:
                raise ConfigError(f"replay.{name}={value} must lie in [0, 1]")


class ReplayDraw(NamedTuple):
    """What is drawn for one recording.

    Levels in dB are signal to noise, of what arrives at the microphone.
    """

    seed: int  # of the responses' unevenness and of the noises
    drive: float  # of the overload; 0: none
    speaker_low_hz: float
    speaker_slope_db: float
    speaker_uneven_db: float
    dull_hz: float  # where the treble ends; 0: it does not
    dull_slope_db: float
    has_room: bool
    ambience_snr_db: float
    ambience_tilt_db: float
    noise_snr_db: float  # infinite: no recorded noise
    microphone_low_hz: float
    microphone_slope_db: float
    microphone_uneven_db: float
    hiss_snr_db: float
    swell_db: float = 0.0
    gain_strength: float = 0.0
    clip_level: float = 0.0  # 0: it does not clip
    suppression: float = 0.0


# What `draw_replay` draws last, each with a probability of its own.
_AT_THE_END = ("swell_db", "gain_strength", "clip_level", "suppression")


def draw_replay(rng: np.random.Generator, config: ReplayConfig) -> ReplayDraw:
    """Draws how one recording is made."""
    low_hz = math.exp(rng.uniform(*np.log(config.speaker_low_hz)))
    is_dull = rng.random() < config.dull_p
    drawn = ReplayDraw(
        seed=int(rng.integers(1 << 31)),
        drive=rng.uniform(*config.overload_drive) if rng.random() < config.overload_p else 0.0,
        speaker_low_hz=low_hz,
        speaker_slope_db=rng.uniform(*config.speaker_slope_db),
        speaker_uneven_db=rng.uniform(*config.speaker_uneven_db),
        dull_hz=rng.uniform(*config.dull_hz) if is_dull else 0.0,
        dull_slope_db=rng.uniform(6.0, 24.0) if is_dull else 0.0,
        has_room=rng.random() < config.room_p,
        ambience_snr_db=rng.uniform(*config.ambience_snr_db),
        ambience_tilt_db=rng.uniform(*config.ambience_tilt_db),
        noise_snr_db=rng.uniform(*config.noise_snr_db)
        if rng.random() < config.noise_p
        else math.inf,
        microphone_low_hz=rng.uniform(*config.microphone_low_hz),
        microphone_slope_db=rng.uniform(*config.microphone_slope_db),
        microphone_uneven_db=rng.uniform(*config.microphone_uneven_db),
        hiss_snr_db=rng.uniform(*config.hiss_snr_db),
    )
    for name in _AT_THE_END:
        if rng.random() < getattr(config, f"{name.split('_')[0]}_p"):
            drawn = drawn._replace(**{name: rng.uniform(*getattr(config, name))})
    return drawn


def replay(
    samples: Float32[np.ndarray, " n"],
    drawn: Any,
    *,
    sample_rate_hz: int,
    room: Room,
    noise: Noise,
    lead: int = 0,
) -> Float32[np.ndarray, " n"]:
    """Returns what the microphone records, as long as the music.

    Args:
      samples: the music.
      drawn: by `draw_replay`, or a `MixParameters` that is replayed.
      sample_rate_hz: of the music, the room and the noise.
      room: an impulse response that begins with the direct sound.
      noise: gives so many samples of a recorded noise.
      lead: samples of the music that are not recorded, but for what they leave in the room.
    """
    rng = np.random.default_rng(drawn.seed)
    if drawn.drive:
        level = np.float32(drawn.drive / math.sqrt(_power(samples[lead:])))
        samples = np.tanh(samples * level) / level
    room = room[: round(ROOM_S * sample_rate_hz)] if drawn.has_room else np.ones(1, np.float32)
    size = scipy.fft.next_fast_len(len(samples) + len(room) - 1, real=True)
    speaker = gains(np, speaker_db, drawn, size, sample_rate_hz)
    spectrum = scipy.fft.rfft(samples, size) * (scipy.fft.rfft(room, size) * speaker)
    samples = scipy.fft.irfft(spectrum, size)[lead : len(samples)]
    power = _power(samples)
    if math.isfinite(drawn.noise_snr_db):
        samples = samples + _at(noise(len(samples)), power, drawn.noise_snr_db)
    size = scipy.fft.next_fast_len(len(samples), real=True)
    white = rng.standard_normal((2, size // 2 + 1), dtype=np.float32)
    ambience = (white[0] + 1j * white[1]) * gains(np, ambience_db, drawn, size, sample_rate_hz)
    sound = scipy.fft.irfft(ambience, size)[: len(samples)]
    if drawn.swell_db:
        sound = sound * swell(np, drawn.seed, len(sound), sample_rate_hz, drawn.swell_db)
    samples = samples + _at(sound, power, drawn.ambience_snr_db)
    spectrum = scipy.fft.rfft(samples, size)
    spectrum *= gains(np, microphone_db, drawn, size, sample_rate_hz)
    samples = scipy.fft.irfft(spectrum, size)[: len(samples)]
    hiss = rng.standard_normal(len(samples), dtype=np.float32)
    samples = samples + _at(hiss, _power(samples), drawn.hiss_snr_db)
    if drawn.gain_strength:
        samples = samples * automatic_gain(np, samples, drawn.gain_strength, sample_rate_hz)
    if drawn.clip_level:
        highest = np.float32(drawn.clip_level * math.sqrt(_power(samples)))
        samples = np.clip(samples, -highest, highest)
    return samples.astype(np.float32)


def _at(
    noise: Float32[np.ndarray, " n"], signal_power: float, snr_db: float
) -> Float32[np.ndarray, " n"]:
    """The noise at a level below the signal's."""
    return noise * np.float32(math.sqrt(signal_power / _power(noise)) * 10 ** (-snr_db / 20))


def _power(samples: Float32[np.ndarray, " n"]) -> float:
    return float(np.mean(np.square(samples))) + _TINY
