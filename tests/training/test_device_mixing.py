"""A device's distortion against the host's; whole batches of both: test_eight_devices.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from confp_jax.audio.mel import mel_filterbank
from confp_jax.config import DataConfig, MixConfig, TrainConfig
from confp_jax.data.augmentation_draws import (
    NO_ROOM,
    SYNTHETIC_ROOM,
    MixParameters,
    PitchAndTempo,
    draw_mix,
    mel_steps_range,
)
from confp_jax.data.mixing import resample
from confp_jax.data.replay import replay
from confp_jax.model.features import mel_power
from confp_jax.training.device_mixing import (
    Sounds,
    coloured_noise,
    play,
    replica_power,
    replica_samples,
    room_response,
)

_RATE_HZ = 16_000
_SEGMENT = 48_000
_NOTHING = Sounds(jnp.zeros((2, _SEGMENT), jnp.int16), jnp.zeros((1, 2)), jnp.zeros((1, 513, 80)))


def _config(**mix: object) -> TrainConfig:
    return TrainConfig(data=DataConfig(residency="device", mix=MixConfig(**mix)))


@pytest.mark.parametrize("speed", [1.0, 0.66, 21_000 / 2**14, 22_611 / 2**14])
def test_a_late_sample_is_read_as_exactly_as_an_early_one(speed: float) -> None:
    samples = np.random.default_rng(0).standard_normal(140_000).astype(np.float32)
    speed = round(speed * 2**14) / 2**14
    delay = 1000
    num = 96_000
    found = np.asarray(play(jnp.asarray(samples), jnp.float32(speed), num, delay))
    np.testing.assert_array_equal(found[:delay], 0.0)
    np.testing.assert_allclose(found[delay:], resample(samples, speed, num - delay), atol=1e-5)


def test_what_lies_behind_the_audio_is_silence() -> None:
    found = np.asarray(play(jnp.ones(100), jnp.float32(1.0), 200))
    np.testing.assert_array_equal(found, np.repeat([1.0, 0.0], 100))


@pytest.mark.parametrize("decay_db", [-6.0, 0.0, 5.0])
def test_coloured_noise_falls_by_the_drawn_decay(decay_db: float) -> None:
    """By the measure that the host's noise has to meet."""
    noise = np.asarray(
        coloured_noise(jax.random.key(0), jnp.float32(decay_db), 8 * _SEGMENT, _RATE_HZ)
    )
    hz, power = scipy.signal.welch(noise, _RATE_HZ, nperseg=2048)
    band = (hz > 100) & (hz < 7000)
    assert np.polyfit(np.log2(hz[band]), 10 * np.log10(power[band]), 1)[0] == pytest.approx(
        decay_db, abs=0.2
    )


@pytest.mark.parametrize("tail_s", [0.2, 0.6, 1.4])
def test_a_synthetic_room_is_the_drawn_one(tail_s: float) -> None:
    """Its decay by Schroeder's backward integration, the gap, and the direct sound over the tail's
    energy.
    """
    drawn = MixParameters(
        room=SYNTHETIC_ROOM, tail_s=tail_s, gap_s=0.01, direct_db=6.0, tail_damping=0.3
    )
    arrays = MixParameters(*map(jnp.float32, drawn))
    room = np.asarray(
        room_response(arrays, jax.random.key(1), _NOTHING, _config(room_p=1.0)), np.float64
    )
    assert not room[1:160].any()
    assert 10 * np.log10(room[0] ** 2 / np.sum(room[1:] ** 2)) == pytest.approx(6.0, abs=0.1)
    energy = np.cumsum(np.square(room[400:])[::-1])[::-1]
    level_db = 10 * np.log10(np.maximum(energy / energy[0], 1e-12))
    first = np.argmax(level_db < -5)
    last = np.argmax(level_db < -25)
    assert 3 * (last - first) / _RATE_HZ == pytest.approx(tail_s, rel=0.15)


def test_silence_stays_silent() -> None:
    config = _config(room_p=1.0, noise_p=1.0, coloured_p=1.0, tanh_p=1.0)
    rows = np.array(
        [MixParameters(room=SYNTHETIC_ROOM, noise=0, coloured_snr_db=0.0, tanh_drive=2.0)],
        np.float32,
    )
    sounds = _NOTHING._replace(
        noise=jnp.ones((2, _SEGMENT), jnp.int16), filters=jnp.ones((3, 513, 80))
    )
    crops = jnp.zeros((1, replica_samples(config)), jnp.int16)
    power = replica_power(crops, jnp.asarray(rows), sounds, config=config)
    np.testing.assert_array_equal(np.asarray(power), 0.0)


@pytest.mark.parametrize("room", [NO_ROOM, 0])
@pytest.mark.parametrize("is_sudden", [0, 1])
def test_a_replay_is_the_hosts(room: int, is_sudden: int) -> None:
    """Overload, loudspeaker, room, recorded noise and microphone; ambience and hiss are noise of
    the device's own, and are left out.
    """
    rng = np.random.default_rng(0)
    config = _config(replay_p=1.0)
    crop = (3000 * rng.standard_normal(replica_samples(config))).astype(np.int16)
    noise = (1000 * rng.standard_normal((2, _SEGMENT))).astype(np.int16)
    impulse = np.exp(-np.arange(24_000) / 4_000) * rng.standard_normal(24_000)
    impulse = impulse.astype(np.float32)
    drawn = draw_mix(
        rng,
        config.data.mix,
        PitchAndTempo(),
        num_samples=_SEGMENT,
        noise_lengths=np.array([60_000]),
        num_rooms=1,
        music_lengths=np.zeros(0, np.int64),
    )._replace(
        lead=16_000,
        room=room,
        room_speed=1.0,
        is_sudden=is_sudden,
        noise=0,
        noise_start=700,
        noise_snr_db=3.0,
        drive=1.5,
        ambience_snr_db=math.inf,
        hiss_snr_db=math.inf,
        gain_strength=0.6,
        clip_level=1.5,
        suppression=0.0,
    )
    filters = mel_filterbank(config.mel, _RATE_HZ, 1.0)
    num_steps = np.ptp(mel_steps_range(config.data.mix)) + 1
    sounds = Sounds(
        jnp.asarray(noise), jnp.asarray(impulse[None]), jnp.asarray(np.stack([filters] * num_steps))
    )
    found = replica_power(
        jnp.asarray(crop[None]), jnp.asarray([drawn], jnp.float32), sounds, config=config
    )
    samples = crop[: 16_000 + _SEGMENT].astype(np.float32) / 32768
    if is_sudden:
        samples[:16_000] = 0.0
    expected = replay(
        samples,
        drawn,
        sample_rate_hz=_RATE_HZ,
        room=impulse,
        noise=lambda num: noise.reshape(-1)[700 : 700 + num].astype(np.float32),
        lead=16_000,
    )
    expected *= np.sqrt(np.mean(np.square(samples[16_000:])) / np.mean(np.square(expected)))
    host = mel_power(jnp.asarray(expected[None]), config.mel, sample_rate_hz=_RATE_HZ)
    np.testing.assert_allclose(np.asarray(found), host, rtol=0.02, atol=1e-4 * host.max())


@pytest.mark.parametrize("snr_db", [-5.0, 4.0])
def test_another_track_lies_over_a_window_at_its_level(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    config = _config(overlay_p=1.0)
    crop = (3000 * rng.standard_normal(replica_samples(config))).astype(np.int16)
    other = (500 * rng.standard_normal(_SEGMENT)).astype(np.int16)
    drawn = MixParameters(overlay_snr_db=snr_db)
    filters = mel_filterbank(config.mel, _RATE_HZ, 1.0)
    sounds = _NOTHING._replace(filters=jnp.asarray(np.stack([filters] * 3)))
    found = replica_power(
        jnp.asarray(crop[None]),
        jnp.asarray([drawn], jnp.float32),
        sounds,
        jnp.asarray(other[None]),
        config=config,
    )
    music = crop[:_SEGMENT].astype(np.float32) / 32768
    level = np.sqrt(np.mean(music**2) / np.mean(np.square(other, dtype=np.float32)))
    expected = music + other * level * np.float32(10 ** (-snr_db / 20))
    host = mel_power(jnp.asarray(expected[None]), config.mel, sample_rate_hz=_RATE_HZ)
    np.testing.assert_allclose(np.asarray(found), host, rtol=0.02, atol=1e-4 * host.max())
