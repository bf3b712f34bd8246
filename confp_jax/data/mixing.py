"""Distortion that is drawn for every crop, in numpy on the host: variety that no stored replica can
give, for 3 ms a pair.

Physics in the order in which sound meets it: tempo and pitch, room, noise, overload; then pitch
and colour on the mel power, where they cost nothing. training/device_mixing.py does the same on a
device.
"""

import functools
import math
import pathlib

import numpy as np
import scipy.fft
from jaxtyping import Float32, Int16, Int64

from confp_jax.audio.mel import mel_centres_hz
from confp_jax.config import MelConfig, MixConfig
from confp_jax.data.augmentation_draws import (
    NO_NOISE,
    NO_ROOM,
    SYNTHETIC_ROOM,
    MixParameters,
    PitchAndTempo,
    draw_mix,
    draw_pitch_and_tempo,
)
from confp_jax.data.clips import ClipSource
from confp_jax.data.records import DatasetError
from confp_jax.data.replay import replay

SOUNDS_FOLDER = "sounds"  # of a prepared dataset: the training part's noise and impulse responses
SILENT_POWER = 1e-10  # of samples in [-1, 1]: nothing is mixed into silence
LOWEST_NOISE_HZ = 50.0
BAND_LIMIT_DB = 24.0  # per octave beyond


class Mixer:
    """Draws what a `MixConfig` describes, and applies it.

    Args:
      config: probabilities and ranges.
      dataset: the prepared dataset whose sounds are mixed in.
      music: its split, of which other tracks are mixed in.

    Raises:
      DatasetError: noise or rooms are asked for, and the dataset holds none.
    """

    def __init__(
        self,
        config: MixConfig,
        dataset: pathlib.Path,
        *,
        sample_rate_hz: int,
        music: ClipSource | None = None,
    ):
        self._config = config
        self._rate_hz = sample_rate_hz
        self.noise = _open_sounds(dataset, "noise", sample_rate_hz) if config.has_noise else None
        self._noise_lengths = clip_lengths(self.noise) if self.noise else np.zeros(0, np.int64)
        self._music: ClipSource | None = None
        self._music_lengths = np.zeros(0, np.int64)
        if config.overlay_p and music is not None:
            self._music = music
            self._music_lengths = clip_lengths(music)
        self.rooms: list[Float32[np.ndarray, " k"]] = []
        if config.has_rooms and config.synthetic_rooms < 1:
            self.rooms = [
                clip.samples.astype(np.float32) / 32768
                for clip in _open_sounds(dataset, "ir", sample_rate_hz)
            ]

    @property
    def lead_samples(self) -> int:
        """Samples that `distort` wants before the window, so that a room's tail can reach into
        it.
        """
        return self._config.lead_samples(self._rate_hz)

    def draw_pitch_and_tempo(self, rng: np.random.Generator) -> PitchAndTempo:
        """Returns the pitch and tempo of a track's crops."""
        return draw_pitch_and_tempo(rng, self._config)

    def draw(
        self, rng: np.random.Generator, played: PitchAndTempo, num_samples: int
    ) -> MixParameters:
        """Returns what is mixed into a window of a crop that is played so."""
        return draw_mix(
            rng,
            self._config,
            played,
            num_samples=num_samples,
            noise_lengths=self._noise_lengths,
            num_rooms=len(self.rooms),
            music_lengths=self._music_lengths,
        )

    def distort(
        self, samples: Float32[np.ndarray, " m"], drawn: MixParameters
    ) -> Float32[np.ndarray, " n"]:
        """Room, noise and overload on `lead_samples` + n samples, at their tempo; the n of the
        window are returned.
        """
        lead = min(self.lead_samples, len(samples))
        if self._music is not None and math.isfinite(drawn.overlay_snr_db):
            samples = self._overlaid(samples, lead, drawn)
        if drawn.is_replayed:
            return self._replayed(samples, lead, drawn)
        if drawn.room == NO_ROOM or drawn.is_sudden:
            samples = samples[lead:]
            lead = 0
        rng = np.random.default_rng(drawn.seed)
        if drawn.room != NO_ROOM:
            samples = convolve(samples, self._room_of(drawn, rng), lead)
        power = float(np.mean(np.square(samples)))
        if power < SILENT_POWER:
            return samples
        for number, start, snr_db in drawn.recorded_noises:
            if number != NO_NOISE and self.noise is not None:
                noise = repeated_crop(self.noise, number, start, len(samples)).astype(np.float32)
                samples = samples + _scaled(noise, power, snr_db)
        if math.isfinite(drawn.coloured_snr_db):
            noise = coloured_noise(
                len(samples), drawn.coloured_decay_db, rng, sample_rate_hz=self._rate_hz
            )
            samples = samples + _scaled(noise, power, drawn.coloured_snr_db)
        if drawn.tanh_drive:
            samples = np.tanh(samples * np.float32(drawn.tanh_drive / math.sqrt(power)))
        return np.asarray(samples, np.float32)

    def _overlaid(
        self, samples: Float32[np.ndarray, " m"], lead: int, drawn: MixParameters
    ) -> Float32[np.ndarray, " m"]:
        """Returns the music with another track over its window."""
        window = samples[lead:]
        power = float(np.mean(np.square(window)))
        if self._music is None or power < SILENT_POWER:
            return samples
        other = repeated_crop(self._music, drawn.overlay, drawn.overlay_start, len(window))
        mixed = window + _scaled(other.astype(np.float32), power, drawn.overlay_snr_db)
        return np.concatenate([samples[:lead], mixed])

    def _replayed(
        self, samples: Float32[np.ndarray, " m"], lead: int, drawn: MixParameters
    ) -> Float32[np.ndarray, " n"]:
        """Through a loudspeaker into a microphone, at the power of the music."""
        power = float(np.mean(np.square(samples[lead:])))
        if power < SILENT_POWER:
            return samples[lead:]
        if drawn.is_sudden:
            samples = np.concatenate([np.zeros(lead, np.float32), samples[lead:]])
        room = np.ones(1, np.float32)
        if drawn.room != NO_ROOM:
            room = self._room_of(drawn, np.random.default_rng(drawn.seed))
        has_noise = drawn.noise != NO_NOISE and self.noise is not None
        heard = replay(
            samples,
            drawn if has_noise else drawn._replace(noise_snr_db=math.inf),
            sample_rate_hz=self._rate_hz,
            room=room,
            noise=functools.partial(self._noise_of, drawn),
            lead=lead,
        )
        return heard * np.float32(math.sqrt(power / max(float(np.mean(np.square(heard))), 1e-20)))

    def _noise_of(self, drawn: MixParameters, num: int) -> Float32[np.ndarray, " n"]:
        if self.noise is None:
            return np.zeros(num, np.float32)
        return repeated_crop(self.noise, drawn.noise, drawn.noise_start, num).astype(np.float32)

    def _room_of(self, drawn: MixParameters, rng: np.random.Generator) -> Float32[np.ndarray, " k"]:
        if drawn.room == SYNTHETIC_ROOM:
            return synthetic_room(drawn, rng, sample_rate_hz=self._rate_hz)
        room = self.rooms[drawn.room]
        room = resample(room, drawn.room_speed, int((len(room) - 1) / drawn.room_speed) + 1)
        decay_db = drawn.room_decay_db / self._rate_hz
        return room * np.exp(
            np.arange(len(room), dtype=np.float32) * np.float32(-decay_db * math.log(10) / 20)
        )


def colour(
    power: Float32[np.ndarray, "T F"], drawn: MixParameters, mel: MelConfig
) -> Float32[np.ndarray, "T F"]:
    """Returns a loudspeaker's or telephone's frequency response on mel power: a tilt, and steep
    band limits half the time.
    """
    if not drawn.tilt_db and not drawn.low_cut_hz:
        return power
    octaves = np.log2(mel_centres_hz(mel) / 1000)
    gain_db = drawn.tilt_db * octaves
    if drawn.low_cut_hz:
        low = math.log2(drawn.low_cut_hz / 1000)
        high = math.log2(drawn.high_cut_hz / 1000)
        gain_db = gain_db - BAND_LIMIT_DB * (
            np.maximum(low - octaves, 0) + np.maximum(octaves - high, 0)
        )
    return power * (10 ** (gain_db / 10)).astype(np.float32)


def clip_lengths(source: ClipSource) -> Int64[np.ndarray, " clips"]:
    """Returns how many samples each clip has."""
    return np.array([source.row(number).num_samples for number in range(len(source))], np.int64)


def repeated_crop(source: ClipSource, number: int, start: int, num: int) -> Int16[np.ndarray, " n"]:
    """Returns samples of a clip from `start` on; where it ends, it begins again."""
    length = source.row(number).num_samples
    if start + num <= length:
        return source.crop(number, start, start + num)
    return np.take(source.crop(number, 0, length), np.arange(start, start + num), mode="wrap")


def resample(
    samples: Float32[np.ndarray, " m"], tempo: float, num: int
) -> Float32[np.ndarray, " n"]:
    """`num` samples read `tempo` times as fast, by linear interpolation; the first is the first."""
    if tempo == 1.0:
        return samples[:num]
    place = np.arange(num, dtype=np.float64) * tempo
    whole = np.minimum(place.astype(np.int64), len(samples) - 2)
    part = (place - whole).astype(np.float32)
    return samples[whole] * (1 - part) + samples[whole + 1] * part


def convolve(
    samples: Float32[np.ndarray, " m"], room: Float32[np.ndarray, " k"], lead: int = 0
) -> Float32[np.ndarray, " n"]:
    """Returns what is heard in a room after the first `lead` samples, at the power of the input (a
    room must not change the SNR).

    The convolution is circular: what wraps around may fall into the lead, which nobody hears.
    """
    room = room[: len(samples)]
    size = scipy.fft.next_fast_len(len(samples) + max(len(room) - 1 - lead, 0), real=True)
    wet = scipy.fft.irfft(scipy.fft.rfft(samples, size) * scipy.fft.rfft(room, size), size)[
        lead : len(samples)
    ]
    gain = math.sqrt(
        float(np.mean(np.square(samples[lead:]))) / max(float(np.mean(np.square(wet))), 1e-20)
    )
    return (wet * np.float32(gain)).astype(np.float32)


def synthetic_room(
    drawn: MixParameters, rng: np.random.Generator, *, sample_rate_hz: int
) -> Float32[np.ndarray, " k"]:
    """Returns a direct sound, then noise that decays by 60 dB in `tail_s`, faster at high
    frequencies.
    """
    num = round(drawn.tail_s * sample_rate_hz)
    tail = rng.standard_normal(num, dtype=np.float32)
    tail[1:] += (
        np.float32(drawn.tail_damping) * tail[:-1]
    )  # one zero: darker by up to 15 dB at the top
    tail *= np.exp(np.linspace(0, -math.log(1000), num, dtype=np.float32))
    tail[: int(drawn.gap_s * sample_rate_hz)] = 0.0
    tail[0] = math.sqrt(float(np.sum(np.square(tail))) * 10 ** (drawn.direct_db / 10)) + 1e-6
    return tail


def coloured_noise(
    num: int, decay_db: float, rng: np.random.Generator, *, sample_rate_hz: int
) -> Float32[np.ndarray, " n"]:
    """Returns noise whose power density changes by `decay_db` an octave (0 is white, -3 pink), made
    in the frequency domain.

    Below 50 Hz it is flat: at -6 dB an octave all power would else lie where nobody hears it, and
    an SNR would mean nothing.
    """
    size = scipy.fft.next_fast_len(num, real=True)
    hz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(sample_rate_hz / size)
    amplitude = np.maximum(hz / np.float32(LOWEST_NOISE_HZ), 1) ** np.float32(
        decay_db / (20 * math.log10(2))
    )
    amplitude[0] = 0.0
    phase = rng.random(len(hz), dtype=np.float32) * np.float32(2 * math.pi)
    noise = scipy.fft.irfft(
        amplitude * (np.cos(phase) + 1j * np.sin(phase)).astype(np.complex64), size
    )[:num]
    return (noise / np.float32(max(float(np.std(noise)), 1e-20))).astype(np.float32)


def _scaled(
    noise: Float32[np.ndarray, " n"], signal_power: float, snr_db: float
) -> Float32[np.ndarray, " n"]:
    noise_power = float(np.mean(np.square(noise)))
    return noise * np.float32(
        math.sqrt(signal_power / max(noise_power, 1e-20)) * 10 ** (-snr_db / 20)
    )


def _open_sounds(dataset: pathlib.Path, kind: str, sample_rate_hz: int) -> ClipSource:
    folder = dataset / SOUNDS_FOLDER
    try:
        source = ClipSource(folder, kind)
    except DatasetError as error:
        raise DatasetError(
            f"{dataset} holds no {kind} to mix in ({error}); prepare it with --config.noise_dir "
            "and --config.ir_dir, or set "
            f"--config.data.mix.{'noise_p' if kind == 'noise' else 'room_p'}=0"
        ) from error
    if not len(source):
        raise DatasetError(
            f"{folder} holds no {kind} to mix in; prepare {dataset} again with noise and rooms"
        )
    if source.summary.sample_rate_hz != sample_rate_hz:
        raise DatasetError(
            f"{folder} holds sounds at {source.summary.sample_rate_hz} Hz instead of "
            f"{sample_rate_hz}; prepare it again"
        )
    return source
