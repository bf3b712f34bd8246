"""What data/mixing.py does to a replica, on the device that holds its audio: room, noise,
overload, pitch, colour, mel power.

The same draws (`MixParameters`) make the same sound but for the samples of synthetic rooms and
coloured noise, which are noise of the same law. Written for one replica and vectorised over the
batch.
"""

import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Float32, Int16

from confp_jax.audio.mel import mel_centres_hz, mel_filterbank
from confp_jax.config import MelConfig, TrainConfig
from confp_jax.data.augmentation_draws import (
    NO_NOISE,
    NO_ROOM,
    SEMITONE_STEPS,
    SPEED_STEPS,
    SYNTHETIC_TAIL_S,
    MixParameters,
    mel_steps_range,
)
from confp_jax.data.device_layout import read_noise
from confp_jax.data.levels import automatic_gain, suppressed, swell
from confp_jax.data.mixing import BAND_LIMIT_DB, LOWEST_NOISE_HZ, SILENT_POWER, Mixer
from confp_jax.data.replay import ROOM_S
from confp_jax.data.responses import ambience_db, gains, microphone_db, speaker_db
from confp_jax.model.features import mel_power

_BLOCK = 256  # samples whose places are counted from one whole number
_TINY = 1e-20
_Drawn = Any  # a MixParameters whose fields are arrays


class Sounds(NamedTuple):
    """What is mixed in, and the mel filterbanks that shift the pitch; numpy on the host, arrays on
    every device.
    """

    noise: Int16[Array | np.ndarray, "noise_rows samples"]
    rooms: Float32[Array | np.ndarray, "rooms taps"]  # zero-padded
    filters: Float32[Array | np.ndarray, "steps bins F"]


def read_sounds(config: TrainConfig) -> Sounds | None:
    """Returns the prepared dataset's sounds; None where nothing is mixed.

    Raises:
      DatasetError: noise or rooms are asked for, and the dataset holds none.
    """
    if not config.data.mix.is_on:
        return None
    rate_hz = config.audio.sample_rate_hz
    row_samples = config.audio.segment_samples
    mixer = Mixer(config.data.mix, pathlib.Path(config.data.dir), sample_rate_hz=rate_hz)
    noise = (
        np.zeros((2, row_samples), np.int16)
        if mixer.noise is None
        else read_noise(mixer.noise, row_samples)
    )
    rooms = np.zeros((max(1, len(mixer.rooms)), max([2, *map(len, mixer.rooms)])), np.float32)
    for number, room in enumerate(mixer.rooms):
        rooms[number, : len(room)] = room
    lowest, highest = mel_steps_range(config.data.mix)
    pitches = [2 ** (step / (12 * SEMITONE_STEPS)) for step in range(lowest, highest + 1)]
    return Sounds(
        noise, rooms, np.stack([mel_filterbank(config.mel, rate_hz, pitch) for pitch in pitches])
    )


def replica_samples(config: TrainConfig) -> int:
    """Returns samples of a track that a replica's window is made of, at the fastest tempo."""
    mix = config.data.mix
    length = config.audio.segment_samples
    if not mix.is_on:
        return length
    fastest = max(1.0, mix.tempo[1]) if mix.tempo_p else 1.0
    return math.ceil((mix.lead_samples(config.audio.sample_rate_hz) + length) * fastest) + 2


def replica_power(
    crops: Int16[Array, "B samples"],
    draws: Float32[Array, "B fields"],
    sounds: Sounds,
    overlays: Int16[Array, "B window"] | None = None,
    *,
    config: TrainConfig,
) -> Float32[Array, "B T F"]:
    """Returns mel power of the replicas that are made of these crops, `replica_samples` long, by
    rows of `MixParameters` (`PairCutter`); `overlays` are the windows of other tracks that lie over
    them.
    """

    def one(
        crop: Int16[Array, " samples"],
        row: Float32[Array, " fields"],
        other: Int16[Array, " window"] | None,
    ) -> Float32[Array, " n"]:
        samples = crop.astype(jnp.float32) / 32768
        return _distort(samples, MixParameters(*row), sounds, config, other)

    drawn: _Drawn = MixParameters(*draws.T)
    steps = drawn.mel_steps.astype(jnp.int32) - mel_steps_range(config.data.mix)[0]
    samples = jax.vmap(one)(crops, draws, overlays)
    power = mel_power(
        samples,
        config.mel,
        sample_rate_hz=config.audio.sample_rate_hz,
        filters=sounds.filters[steps],
    )
    if config.data.mix.replay_p:
        power = jax.vmap(functools.partial(suppressed, jnp))(power, drawn.suppression)
    return power * _colour(drawn, config.mel)[:, None, :] if config.data.mix.colour_p else power


def _distort(
    samples: Float32[Array, " m"],
    drawn: _Drawn,
    sounds: Sounds,
    config: TrainConfig,
    other: Int16[Array, " n"] | None,
) -> Float32[Array, " n"]:
    """Distorts as `Mixer.distort` does; `other` is the track that lies over it."""
    mix = config.data.mix
    rate_hz = config.audio.sample_rate_hz
    length = config.audio.segment_samples
    lead = mix.lead_samples(rate_hz)
    heard = play(samples, drawn.tempo, lead + length, delay=lead - drawn.lead.astype(jnp.int32))
    if other is not None:
        power = jnp.mean(jnp.square(heard[lead:]))
        over = _scaled(other.astype(jnp.float32), power, drawn.overlay_snr_db)  # infinity: nothing
        heard = heard.at[lead:].add(jnp.where(power < SILENT_POWER, 0.0, over))
    room_key, noise_key = jax.random.split(jax.random.key(drawn.seed.astype(jnp.uint32)))
    window = heard[lead:]
    dry = jnp.where((drawn.is_sudden > 0) & (jnp.arange(lead + length) < lead), 0.0, heard)
    replayed = window
    if mix.replay_p:
        room = room_response(drawn, room_key, sounds, config)
        replayed = _replayed(dry, room, drawn, noise_key, sounds, config)
    if mix.room_p:
        window = jnp.where(
            drawn.room == NO_ROOM,
            window,
            _convolve(dry, room_response(drawn, room_key, sounds, config), lead),
        )
    power = jnp.mean(jnp.square(window))
    mixed = window
    for row, start, snr_db in drawn.recorded_noises if mix.noise_p else ():
        sound = _recorded(sounds, row, start, length)
        mixed = mixed + jnp.where(row == NO_NOISE, 0.0, _scaled(sound, power, snr_db))
    if mix.coloured_p:
        sound = coloured_noise(noise_key, drawn.coloured_decay_db, length, rate_hz)
        mixed = mixed + _scaled(sound, power, drawn.coloured_snr_db)  # infinity: nothing
    if mix.tanh_p:
        bent = jnp.tanh(mixed * drawn.tanh_drive * jax.lax.rsqrt(jnp.maximum(power, _TINY)))
        mixed = jnp.where(drawn.tanh_drive > 0, bent, mixed)
    mixed = jnp.where(drawn.is_replayed > 0, replayed, mixed)
    return jnp.where(power < SILENT_POWER, window, mixed)


def _replayed(
    dry: Float32[Array, " m"],
    room: Float32[Array, " taps"],
    drawn: _Drawn,
    key: Array,
    sounds: Sounds,
    config: TrainConfig,
) -> Float32[Array, " n"]:
    """Replays as `replay.replay` does, at the power of the music."""
    rate_hz = config.audio.sample_rate_hz
    length = config.audio.segment_samples
    lead = len(dry) - length
    ambience_key, hiss_key = jax.random.split(key)
    dry_power = jnp.mean(jnp.square(dry[lead:]))
    level = drawn.drive * jax.lax.rsqrt(jnp.maximum(dry_power, _TINY))
    bent = jnp.where(drawn.drive > 0, jnp.tanh(dry * level) / jnp.maximum(level, _TINY), dry)
    taps = jnp.arange(len(room))
    direct = jnp.where(taps == 0, 1.0, 0.0)
    room = jnp.where(taps < round(ROOM_S * rate_hz), room, 0.0)
    room = jnp.where(drawn.room == NO_ROOM, direct, room)
    size = scipy.fft.next_fast_len(len(bent) + len(room) - 1, real=True)
    speaker = gains(jnp, speaker_db, drawn, size, rate_hz)
    spectrum = jnp.fft.rfft(bent, size) * jnp.fft.rfft(room, size) * speaker
    heard = jnp.fft.irfft(spectrum, size)[lead : len(bent)]
    power = jnp.mean(jnp.square(heard))
    noise = _recorded(sounds, drawn.noise, drawn.noise_start, length)
    noise = _scaled(noise, power, drawn.noise_snr_db)
    heard = heard + jnp.where(drawn.noise == NO_NOISE, 0.0, noise)
    size = scipy.fft.next_fast_len(length, real=True)
    white = jax.random.normal(ambience_key, (2, size // 2 + 1))
    ambience = jax.lax.complex(white[0], white[1]) * gains(jnp, ambience_db, drawn, size, rate_hz)
    sound = jnp.fft.irfft(ambience, size)[:length]
    sound = sound * swell(jnp, drawn.seed, length, rate_hz, drawn.swell_db)
    heard = heard + _scaled(sound, power, drawn.ambience_snr_db)
    microphone = gains(jnp, microphone_db, drawn, size, rate_hz)
    heard = jnp.fft.irfft(jnp.fft.rfft(heard, size) * microphone, size)[:length]
    hiss = jax.random.normal(hiss_key, (length,))
    heard = heard + _scaled(hiss, jnp.mean(jnp.square(heard)), drawn.hiss_snr_db)
    heard = heard * automatic_gain(jnp, heard, drawn.gain_strength, rate_hz)
    highest = drawn.clip_level * jnp.sqrt(jnp.mean(jnp.square(heard)))
    heard = jnp.where(drawn.clip_level > 0, jnp.clip(heard, -highest, highest), heard)
    return heard * jnp.sqrt(dry_power / jnp.maximum(jnp.mean(jnp.square(heard)), _TINY))


def _recorded(sounds: Sounds, row: Array, start: Array, length: int) -> Float32[Array, " n"]:
    """Returns a recorded noise, which begins in a row."""
    rows = jax.lax.dynamic_slice_in_dim(sounds.noise, row.astype(jnp.int32), 2).reshape(-1)
    sound = jax.lax.dynamic_slice_in_dim(rows, start.astype(jnp.int32), length)
    return sound.astype(jnp.float32)


def play(
    samples: Float32[Array, " m"], speed: Array, num: int, delay: Array | int = 0
) -> Float32[Array, " n"]:
    """`num` samples read `speed` times as fast, by linear interpolation, after `delay` samples of
    silence.
    """
    steps = jnp.round(speed * SPEED_STEPS).astype(jnp.int32)
    number = jnp.arange(num) - delay
    # In whole steps, so that a late place is as exact as an early one; block by block, so that they
    # do not overflow.
    block = number // _BLOCK * steps
    rest = block % (SPEED_STEPS // _BLOCK) * _BLOCK + number % _BLOCK * steps
    whole = block // (SPEED_STEPS // _BLOCK) + rest // SPEED_STEPS
    part = (rest % SPEED_STEPS) / SPEED_STEPS
    read = lambda place: samples.at[place].get(mode="fill", fill_value=0.0)  # noqa: E731
    return jnp.where(
        number < 0,
        0.0,
        read(jnp.maximum(whole, 0)) * (1 - part) + read(jnp.maximum(whole, 0) + 1) * part,
    )


def room_response(
    drawn: _Drawn, key: Array, sounds: Sounds, config: TrainConfig
) -> Float32[Array, " taps"]:
    """Returns the impulse response of a measured room, or of a synthetic one."""
    mix = config.data.mix
    rate_hz = config.audio.sample_rate_hz
    longest = mix.lead_samples(rate_hz) + config.audio.segment_samples
    measured_taps = min(longest, math.ceil(sounds.rooms.shape[1] / mix.room_speed[0]))
    taps = max(measured_taps, min(longest, math.ceil(SYNTHETIC_TAIL_S[1] * rate_hz) + 1))
    number = jnp.arange(taps)
    room = play(sounds.rooms[jnp.maximum(drawn.room, 0).astype(jnp.int32)], drawn.room_speed, taps)
    measured = room * jnp.exp(number * (-drawn.room_decay_db / rate_hz * math.log(10) / 20))
    num = jnp.round(drawn.tail_s * rate_hz)
    noise = jax.random.normal(key, (taps,))
    tail = noise + drawn.tail_damping * jnp.concatenate([jnp.zeros(1), noise[:-1]])
    is_tail = (number < num) & (number >= jnp.maximum(jnp.floor(drawn.gap_s * rate_hz), 1))
    tail = jnp.where(is_tail, tail * jnp.exp(-math.log(1000) * number / (num - 1)), 0.0)
    direct = jnp.sqrt(jnp.sum(jnp.square(tail)) * 10 ** (drawn.direct_db / 10)) + 1e-6
    return jnp.where(drawn.room >= 0, measured, tail.at[0].set(direct))


def _convolve(
    samples: Float32[Array, " m"], room: Float32[Array, " taps"], lead: int
) -> Float32[Array, " n"]:
    """Convolves as `mixing.convolve` does."""
    size = scipy.fft.next_fast_len(len(samples) + max(len(room) - 1 - lead, 0), real=True)
    wet = jnp.fft.irfft(jnp.fft.rfft(samples, size) * jnp.fft.rfft(room, size), size)[
        lead : len(samples)
    ]
    return wet * jnp.sqrt(
        jnp.mean(jnp.square(samples[lead:])) / jnp.maximum(jnp.mean(jnp.square(wet)), _TINY)
    )


def coloured_noise(key: Array, decay_db: Array, num: int, rate_hz: int) -> Float32[Array, " n"]:
    """Returns `mixing.coloured_noise`, but for the scale."""
    size = scipy.fft.next_fast_len(num, real=True)
    hz = np.arange(size // 2 + 1) * (rate_hz / size)
    octaves = np.log2(np.maximum(hz / LOWEST_NOISE_HZ, 1)).astype(np.float32)
    amplitude = jnp.exp(octaves * (decay_db * math.log(10) / 20)).at[0].set(0.0)
    phase = jax.random.uniform(key, hz.shape, maxval=2 * math.pi)
    return jnp.fft.irfft(
        jax.lax.complex(amplitude * jnp.cos(phase), amplitude * jnp.sin(phase)), size
    )[:num]


def _scaled(
    noise: Float32[Array, " n"], signal_power: Array, snr_db: Array
) -> Float32[Array, " n"]:
    noise_power = jnp.maximum(jnp.mean(jnp.square(noise)), _TINY)
    return noise * jnp.sqrt(signal_power / noise_power) * 10 ** (-snr_db / 20)


def _colour(drawn: _Drawn, mel: MelConfig) -> Float32[Array, "B F"]:
    """Returns the factors by which `mixing.colour` multiplies mel power."""
    octaves = jnp.asarray(np.log2(mel_centres_hz(mel) / 1000), jnp.float32)
    low, high = (
        jnp.log2(jnp.maximum(hz, 1.0) / 1000)[:, None]
        for hz in (drawn.low_cut_hz, drawn.high_cut_hz)
    )
    limits = BAND_LIMIT_DB * (jnp.maximum(low - octaves, 0) + jnp.maximum(octaves - high, 0))
    gain_db = drawn.tilt_db[:, None] * octaves - jnp.where(
        drawn.low_cut_hz[:, None] > 0, limits, 0.0
    )
    return 10 ** (gain_db / 10)
