"""Distortion drawn anew for every crop, in numpy on the host: variety that no stored replica can give, for 3 ms a pair.

Physics in the order in which sound meets it: tempo and pitch, room, noise, overload; then pitch and colour on the mel power,
where they cost nothing. Every draw comes from the element's own Generator: the same element gives the same bytes.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float32, Int16

from confp_jax.audio.mel import mel_centres_hz
from confp_jax.config import MelConfig, MixConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.records import DatasetError

SOUNDS_FOLDER = "sounds"  # of a prepared dataset: the training part's noise and impulse responses
_SEMITONE_STEPS = 8  # pitch is drawn in eighths of a semitone: as many mel filterbanks are kept
SILENT_POWER = 1e-10  # of samples in [-1, 1]: nothing is mixed into silence
_LOWEST_NOISE_HZ = np.float32(50)


@dataclasses.dataclass(frozen=True)
class PitchAndTempo:
    """How a crop is played: `tempo` 1.1 is a tenth faster; `pitch` 1.1 is a tenth higher than it was recorded."""

    tempo: float = 1.0
    pitch: float = 1.0

    @property
    def mel_pitch(self) -> float:
        """What the mel filterbank has to shift, since reading samples faster by `tempo` has raised the pitch by as much."""
        steps = 12 * _SEMITONE_STEPS
        return 2 ** (round(math.log2(self.pitch / self.tempo) * steps) / steps)


class NoiseDraw(NamedTuple):
    """A recorded noise of a window: from sample `start` of noise number `number` on, from its beginning again where it ends."""

    number: int
    start: int
    snr_db: float


class Mixer:
    """Draws and applies what a `MixConfig` describes.

    Args:
      config: probabilities and ranges.
      dataset: the prepared dataset whose sounds are mixed in.

    Raises:
      DatasetError: noise or rooms are asked for, and the dataset holds none.
    """

    def __init__(self, config: MixConfig, dataset: pathlib.Path, *, sample_rate_hz: int):
        self._config, self._rate_hz = config, sample_rate_hz
        self.noise = _open_sounds(dataset, "noise", sample_rate_hz) if config.noise_p else None
        self._rooms: list[np.ndarray] = []
        if config.room_p and config.synthetic_rooms < 1:
            self._rooms = [clip.samples.astype(np.float32) / 32768 for clip in _open_sounds(dataset, "ir", sample_rate_hz)]

    @property
    def lead_samples(self) -> int:
        """Samples that `distort` wants before the window, so that a room's tail can reach into it."""
        return round(self._config.lead_s * self._rate_hz) if self._config.room_p else 0

    def draw_pitch_and_tempo(self, rng: np.random.Generator) -> PitchAndTempo:
        """Tempo and pitch of a track's crops: each in its range, or both together as a turntable does."""
        config = self._config
        tempo = math.exp(rng.uniform(*np.log(config.tempo))) if rng.random() < config.tempo_p else 1.0
        pitch = 2 ** (rng.uniform(*config.pitch_semitones) / 12) if rng.random() < config.pitch_p else 1.0
        together = tempo != 1.0 and rng.random() < config.turntable
        return PitchAndTempo(tempo, tempo if together else pitch)

    def draw_noises(self, rng: np.random.Generator, num_samples: int) -> list[NoiseDraw]:
        """The recorded noises of a window, at most two; nothing of them depends on what the window holds."""
        drawn = []
        for probability in (self._config.noise_p, self._config.second_noise_p):
            if self.noise is not None and rng.random() < probability:
                number = int(rng.integers(len(self.noise)))
                length = self.noise.row(number).num_samples
                start = int(rng.integers(length - num_samples + 1 if length >= num_samples else length))
                drawn.append(NoiseDraw(number, start, rng.uniform(*self._config.noise_snr_db)))
        return drawn

    def distort(
        self, samples: Float32[np.ndarray, " m"], noises: Sequence[NoiseDraw], rng: np.random.Generator
    ) -> Float32[np.ndarray, " n"]:
        """Room, noise and overload on `lead_samples` + n samples; the n of the window are returned."""
        config = self._config
        lead = min(self.lead_samples, len(samples))
        if rng.random() < config.room_p:
            if rng.random() < config.sudden_p:
                samples = samples[lead:]
                lead = 0
            samples = convolve(samples, self._draw_room(rng), lead)
        else:
            samples = samples[lead:]
        power = float(np.mean(np.square(samples)))
        if power < SILENT_POWER:
            return samples
        for drawn in noises:
            samples = samples + _scaled(self._noise_of(drawn, len(samples)), power, drawn.snr_db)
        if rng.random() < config.coloured_p:
            noise = coloured_noise(len(samples), rng.uniform(*config.coloured_decay_db), rng, sample_rate_hz=self._rate_hz)
            samples = samples + _scaled(noise, power, rng.uniform(*config.coloured_snr_db))
        if rng.random() < config.tanh_p:
            samples = np.tanh(samples * np.float32(rng.uniform(*config.tanh_drive) / math.sqrt(power)))
        return np.asarray(samples, np.float32)

    def colour(self, power: Float32[np.ndarray, "T F"], rng: np.random.Generator, mel: MelConfig) -> Float32[np.ndarray, "T F"]:
        """A loudspeaker's or telephone's frequency response on mel power: a tilt, and steep band limits half the time."""
        config = self._config
        if rng.random() >= config.colour_p:
            return power
        octaves = np.log2(mel_centres_hz(mel) / 1000)
        gain_db = rng.uniform(*config.tilt_db) * octaves
        if rng.random() < 0.5:
            low, high = np.log2(rng.uniform(*config.low_cut_hz) / 1000), np.log2(rng.uniform(*config.high_cut_hz) / 1000)
            gain_db = gain_db - 24 * (np.maximum(low - octaves, 0) + np.maximum(octaves - high, 0))
        return power * (10 ** (gain_db / 10)).astype(np.float32)

    def _draw_room(self, rng: np.random.Generator) -> Float32[np.ndarray, " k"]:
        if not self._rooms or rng.random() < self._config.synthetic_rooms:
            return synthetic_room(rng, sample_rate_hz=self._rate_hz)
        room = self._rooms[int(rng.integers(len(self._rooms)))]
        speed = math.exp(rng.uniform(*np.log(self._config.room_speed)))
        room = resample(room, speed, int((len(room) - 1) / speed) + 1)
        decay_db = rng.uniform(*self._config.room_decay_db) / self._rate_hz
        return room * np.exp(np.arange(len(room), dtype=np.float32) * np.float32(-decay_db * math.log(10) / 20))

    def _noise_of(self, drawn: NoiseDraw, num: int) -> Float32[np.ndarray, " n"]:
        if self.noise is None:
            raise ValueError("a noise was drawn by another mixer")
        return repeated_crop(self.noise, drawn.number, drawn.start, num).astype(np.float32)


def repeated_crop(source: ClipSource, number: int, start: int, num: int) -> Int16[np.ndarray, " n"]:
    """Samples of a clip from `start` on; where it ends, it begins again."""
    length = source.row(number).num_samples
    if start + num <= length:
        return source.crop(number, start, start + num)
    return np.take(source.crop(number, 0, length), np.arange(start, start + num), mode="wrap")


def resample(samples: Float32[np.ndarray, " m"], tempo: float, num: int) -> Float32[np.ndarray, " n"]:
    """`num` samples read `tempo` times as fast, by linear interpolation; the first is the first."""
    if tempo == 1.0:
        return samples[:num]
    place = np.arange(num, dtype=np.float64) * tempo
    whole = np.minimum(place.astype(np.int64), len(samples) - 2)
    part = (place - whole).astype(np.float32)
    return samples[whole] * (1 - part) + samples[whole + 1] * part


def convolve(samples: Float32[np.ndarray, " m"], room: Float32[np.ndarray, " k"], lead: int = 0) -> Float32[np.ndarray, " n"]:
    """What is heard in a room after the first `lead` samples, at the power of the input (a room must not change the SNR).

    The convolution is circular: what wraps around may fall into the lead, which nobody hears.
    """
    room = room[: len(samples)]
    size = scipy.fft.next_fast_len(len(samples) + max(len(room) - 1 - lead, 0), real=True)
    wet = scipy.fft.irfft(scipy.fft.rfft(samples, size) * scipy.fft.rfft(room, size), size)[lead : len(samples)]
    gain = math.sqrt(float(np.mean(np.square(samples[lead:]))) / max(float(np.mean(np.square(wet))), 1e-20))
    return (wet * np.float32(gain)).astype(np.float32)


def synthetic_room(rng: np.random.Generator, *, sample_rate_hz: int) -> Float32[np.ndarray, " k"]:
    """A direct sound, then noise that decays by 60 dB in 0.15 to 1.5 s, faster at high frequencies."""
    decay_s = math.exp(rng.uniform(math.log(0.15), math.log(1.5)))
    num = round(decay_s * sample_rate_hz)
    tail = rng.standard_normal(num, dtype=np.float32)
    damping = rng.uniform(0.0, 0.7)
    tail[1:] -= np.float32(-damping) * tail[:-1]  # one zero: darker by up to 15 dB at the top
    tail *= np.exp(np.linspace(0, -math.log(1000), num, dtype=np.float32))
    gap = int(rng.uniform(0.001, 0.02) * sample_rate_hz)
    tail[:gap] = 0.0
    direct_db = rng.uniform(-6.0, 12.0)  # over the whole tail's energy
    tail[0] = math.sqrt(float(np.sum(np.square(tail))) * 10 ** (direct_db / 10)) + 1e-6
    return tail


def coloured_noise(num: int, decay_db: float, rng: np.random.Generator, *, sample_rate_hz: int) -> Float32[np.ndarray, " n"]:
    """Noise whose power density changes by `decay_db` an octave (0 is white, -3 pink), made in the frequency domain.

    Below 50 Hz it is flat: at -6 dB an octave all power would else lie where nobody hears it, and an SNR would mean nothing.
    """
    size = scipy.fft.next_fast_len(num, real=True)
    hz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(sample_rate_hz / size)
    amplitude = (np.maximum(hz, _LOWEST_NOISE_HZ) / _LOWEST_NOISE_HZ) ** np.float32(decay_db / (20 * math.log10(2)))
    amplitude[0] = 0.0
    phase = rng.random(len(hz), dtype=np.float32) * np.float32(2 * math.pi)
    noise = scipy.fft.irfft(amplitude * (np.cos(phase) + 1j * np.sin(phase)).astype(np.complex64), size)[:num]
    return (noise / np.float32(max(float(np.std(noise)), 1e-20))).astype(np.float32)


def _scaled(noise: Float32[np.ndarray, " n"], signal_power: float, snr_db: float) -> Float32[np.ndarray, " n"]:
    noise_power = float(np.mean(np.square(noise)))
    return noise * np.float32(math.sqrt(signal_power / max(noise_power, 1e-20)) * 10 ** (-snr_db / 20))


def _open_sounds(dataset: pathlib.Path, kind: str, sample_rate_hz: int) -> ClipSource:
    folder = dataset / SOUNDS_FOLDER
    try:
        source = ClipSource(folder, kind)
    except DatasetError as error:
        raise DatasetError(
            f"{dataset} holds no {kind} to mix in ({error}); prepare it with --config.noise_dir and --config.ir_dir, or set "
            f"--config.data.mix.{'noise_p' if kind == 'noise' else 'room_p'}=0"
        ) from error
    if not len(source):
        raise DatasetError(f"{folder} holds no {kind} to mix in; prepare {dataset} again with noise and rooms")
    if source.summary.sample_rate_hz != sample_rate_hz:
        raise DatasetError(
            f"{folder} holds sounds at {source.summary.sample_rate_hz} Hz instead of {sample_rate_hz}; prepare it again"
        )
    return source
