"""The replay chain: levels that were drawn are the levels that are heard, nothing is late, and a
seed is a sound.
"""

import dataclasses
import math

import numpy as np
import pytest

from confp_jax.data.replay import ReplayConfig, draw_replay, replay
from confp_jax.data.responses import microphone_db, speaker_db
from confp_jax.typed_config import ConfigError

RATE_HZ = 16_000
ROOM = np.array([1.0], np.float32)


def noise(num: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(num).astype(np.float32)


def silence_elsewhere(drawn, **values):
    """Nothing but what `values` say."""
    nothing = {
        "drive": 0.0,
        "speaker_low_hz": 30.0,
        "speaker_slope_db": 0.0,
        "speaker_uneven_db": 0.0,
        "dull_hz": 0.0,
    }
    nothing |= {
        "has_room": False,
        "ambience_snr_db": 200.0,
        "noise_snr_db": math.inf,
        "hiss_snr_db": 200.0,
    }
    nothing |= {"microphone_low_hz": 30.0, "microphone_slope_db": 0.0, "microphone_uneven_db": 0.0}
    nothing |= {"swell_db": 0.0, "gain_strength": 0.0, "clip_level": 0.0, "suppression": 0.0}
    return drawn._replace(**nothing | values)


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(2 * RATE_HZ)).astype(np.float32)


@pytest.fixture
def drawn():
    return draw_replay(np.random.default_rng(0), ReplayConfig())


def heard(music, drawn, room=ROOM):
    return replay(music, drawn, sample_rate_hz=RATE_HZ, room=room, noise=noise)


def test_a_perfect_chain_changes_nothing(music, drawn):
    np.testing.assert_allclose(heard(music, silence_elsewhere(drawn)), music, atol=1e-4)


@pytest.mark.parametrize("name", ["ambience_snr_db", "noise_snr_db", "hiss_snr_db"])
@pytest.mark.parametrize("snr_db", [-6.0, 12.0])
def test_levels(music, drawn, name, snr_db):
    added = heard(music, silence_elsewhere(drawn, **{name: snr_db})) - music
    assert 10 * np.log10(np.mean(music**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.1)


def test_a_small_loudspeaker_has_no_bass(music, drawn):
    out = heard(music, silence_elsewhere(drawn, speaker_low_hz=800.0, speaker_slope_db=12.0))
    spectrum = np.abs(np.fft.rfft(out)) ** 2 / np.abs(np.fft.rfft(music)) ** 2
    hz = np.fft.rfftfreq(len(music), 1 / RATE_HZ)
    level_db = [
        10 * np.log10(np.median(spectrum[(hz > f * 0.97) & (hz < f * 1.03)]))
        for f in (200, 400, 1600)
    ]
    assert level_db == pytest.approx([-24, -12, 0], abs=0.5)


def test_the_direct_sound_is_not_late(music, drawn):
    room = np.zeros(4_000, np.float32)
    room[0], room[900:] = 1.0, 0.01
    out = heard(music, drawn._replace(has_room=True, ambience_snr_db=20.0, noise_snr_db=20.0), room)
    lags = np.correlate(out, music[500:-500], mode="valid")
    assert abs(int(np.argmax(np.abs(lags))) - 500) <= 8  # half a millisecond


def test_a_seed_is_a_sound(music):
    draws = [draw_replay(np.random.default_rng(seed), ReplayConfig()) for seed in (3, 3, 4)]
    first, again, other = (heard(music, one) for one in draws)
    np.testing.assert_array_equal(first, again)
    assert len(first) == len(music) and first.dtype == np.float32 and not np.allclose(first, other)


def test_silence_stays_finite(drawn):
    assert np.isfinite(heard(np.zeros(RATE_HZ, np.float32), drawn._replace(drive=2.0))).all()


def test_ranges_are_kept():
    config = dataclasses.replace(ReplayConfig(), ambience_snr_db=(3.0, 4.0), room_p=0.0)
    for seed in range(50):
        one = draw_replay(np.random.default_rng(seed), config)
        assert (
            3 <= one.ambience_snr_db <= 4 and not one.has_room and 80 <= one.speaker_low_hz <= 1100
        )
    with pytest.raises(ConfigError, match="low <= high"):
        ReplayConfig(noise_snr_db=(4.0, 3.0))


def test_loudspeaker_and_microphone_are_uneven_in_their_own_ways(drawn):
    hz = np.geomspace(100.0, 8_000.0, 40)
    even = {"speaker_slope_db": 0.0, "microphone_slope_db": 0.0, "dull_hz": 0.0}
    alike = drawn._replace(speaker_uneven_db=3.0, microphone_uneven_db=3.0, **even)
    speaker = speaker_db(np, hz, alike)
    microphone = microphone_db(np, hz, alike)
    assert speaker.std() > 1 and microphone.std() > 1
    assert abs(np.corrcoef(speaker, microphone)[0, 1]) < 0.5
