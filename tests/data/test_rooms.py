"""Rooms that are drawn while training, against scipy's convolution and the acoustics that they
stand for.
"""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal

from confp_jax.config import MixConfig
from confp_jax.data.augmentation_draws import MixParameters, PitchAndTempo, draw_mix
from confp_jax.data.mixing import Mixer, convolve, synthetic_room

_RATE_HZ = 16_000
_SEGMENT = 48_000


def _synthetic(seed: int) -> tuple[np.ndarray, MixParameters]:
    rng = np.random.default_rng(seed)
    config = MixConfig(room_p=1.0, synthetic_rooms=1.0)
    nothing = np.zeros(0, np.int64)
    drawn = draw_mix(
        rng,
        config,
        PitchAndTempo(),
        num_samples=_SEGMENT,
        noise_lengths=nothing,
        num_rooms=0,
        music_lengths=nothing,
    )
    return synthetic_room(drawn, rng, sample_rate_hz=_RATE_HZ), drawn


def _noise(seed: int, num: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=num)).astype(np.float32)


def test_a_room_keeps_the_onset_and_the_power() -> None:
    music, (room, _) = _noise(0, _SEGMENT), _synthetic(0)
    music[:8000] = 0.0
    wet = convolve(music, room)
    assert len(wet) == _SEGMENT
    expected = scipy.signal.convolve(
        music.astype(float), room, method="direct" if len(room) < 100 else "fft"
    )[:_SEGMENT]
    gain = float(np.dot(wet, expected) / np.dot(expected, expected))
    np.testing.assert_allclose(wet, gain * expected, atol=1e-5)
    assert float(np.mean(wet**2)) == pytest.approx(float(np.mean(music**2)), rel=1e-4)
    assert np.abs(wet[:8000]).max() < 1e-6
    assert np.abs(wet[8000:8010]).max() > 1e-3, "the direct sound is not late"


def test_a_room_s_tail_of_what_came_before_is_heard() -> None:
    """Both with a room longer than the lead, which wraps around, and with a shorter one."""
    lead = 16_000
    music = _noise(0, lead + _SEGMENT)
    for num in (5_000, 30_000):
        room = _noise(3, num) * np.exp(-np.arange(num, dtype=np.float32) / num)
        wet = convolve(music, room, lead)
        expected = scipy.signal.convolve(music.astype(float), room, method="fft")[lead : len(music)]
        gain = float(np.dot(wet, expected) / np.dot(expected, expected))
        np.testing.assert_allclose(wet, gain * expected, atol=1e-5)
        assert float(np.mean(wet**2)) == pytest.approx(float(np.mean(music[lead:] ** 2)), rel=1e-4)


def _heard_room(with_sounds: Callable, room: np.ndarray, **mix: object) -> np.ndarray:
    """What a click at the window's beginning becomes in a measured room."""
    mixer = Mixer(
        MixConfig(room_p=1.0, synthetic_rooms=0.0, **mix),
        with_sounds(ir=[room]),
        sample_rate_hz=_RATE_HZ,
    )
    click = np.zeros(mixer.lead_samples + _SEGMENT, np.float32)
    click[mixer.lead_samples] = 1.0
    heard = mixer.distort(click, mixer.draw(np.random.default_rng(0), PitchAndTempo(), _SEGMENT))
    return heard / heard[0]


def test_measured_rooms_become_smaller_and_drier(with_sounds: Callable) -> None:
    """By the room's definition: twice as fast, its echo comes in half the time; 20 dB a second
    more, it is so much weaker.
    """
    room = np.zeros(_RATE_HZ + 1, np.float32)
    room[0], room[12_000] = 0.8, 0.4
    assert _heard_room(with_sounds, room)[12_000] == pytest.approx(0.5, rel=0.01)
    faster = _heard_room(with_sounds, room, room_speed=(2.0, 2.0))
    assert np.flatnonzero(np.abs(faster) > 0.1).tolist() == [0, 6_000]
    drier = _heard_room(with_sounds, room, room_decay_db=(20.0, 20.0))
    assert drier[12_000] == pytest.approx(0.5 * 10 ** (-20 * 0.75 / 20), rel=0.01)


@pytest.mark.parametrize(("sudden_p", "heard"), [(0.0, True), (1.0, False)])
def test_music_before_the_window_reaches_into_it_unless_it_begins_there(
    with_sounds: Callable, sudden_p: float, heard: bool
) -> None:
    mix = MixConfig(room_p=1.0, synthetic_rooms=0.0, lead_s=3.0, sudden_p=sudden_p)
    room = np.zeros(2 * _RATE_HZ + 1, np.float32)
    room[0], room[-1] = 0.8, 0.4  # an echo after 2 s
    mixer = Mixer(mix, with_sounds(ir=[room]), sample_rate_hz=_RATE_HZ)
    samples = np.zeros(mixer.lead_samples + _SEGMENT, np.float32)
    samples[2 * _RATE_HZ] = 1.0  # a second before the window
    samples[mixer.lead_samples + 100] = 1.0
    echo = mixer.distort(samples, mixer.draw(np.random.default_rng(0), PitchAndTempo(), _SEGMENT))[
        _RATE_HZ
    ]
    assert (abs(echo) > 0.1) == heard


def test_synthetic_rooms_decay_like_rooms() -> None:
    """Schroeder's backward integration: from -5 to -25 dB of the tail, as ISO 3382 measures."""
    decays_s = []
    for seed in range(40):
        room, drawn = _synthetic(seed)
        assert np.argmax(np.abs(room)) == 0
        energy = np.cumsum(np.square(room[400:], dtype=float)[::-1])[::-1]
        level_db = 10 * np.log10(energy / energy[0])
        first = np.argmax(level_db < -5)
        last = np.argmax(level_db < -25)
        decays_s.append(3 * (last - first) / _RATE_HZ)
        assert decays_s[-1] == pytest.approx(drawn.tail_s, rel=0.15)
    assert 0.1 < min(decays_s) < 0.3 < 0.9 < max(decays_s) < 1.6
