"""Of a long file a part is read without holding the rest; it is to the bit what the whole gives."""

import pathlib
import tracemalloc

import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import DecodeError, decode
from data_prep.parts import count_samples, read_around, read_middle

RATE = 4_000


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("parts") / "long.wav"
    samples = 0.1 * np.random.default_rng(0).standard_normal(600 * 8_000)
    soundfile.write(path, samples, 8_000)
    return path


@pytest.mark.parametrize("length_s", [7.0, 250.0, 400.0, 900.0])
def test_the_middle_is_that_of_the_whole(long: pathlib.Path, length_s: float) -> None:
    whole = decode(long, sample_rate_hz=RATE).samples
    middle = read_middle(long, length_s, sample_rate_hz=RATE)
    start = max(0, len(whole) - round(length_s * RATE)) // 2
    np.testing.assert_array_equal(middle.samples, whole[start : start + round(length_s * RATE)])
    assert middle.start_s == start / RATE
    assert middle.whole_s == len(whole) / RATE
    assert middle.peak == np.abs(whole).max()


@pytest.mark.parametrize("seconds", [1.0, 500.0, 1_500.0])
def test_from_any_place_around_the_end(long: pathlib.Path, seconds: float) -> None:
    whole = decode(long, sample_rate_hz=RATE).samples
    num = round(seconds * RATE)
    found = read_around(long, np.random.default_rng(3), num, sample_rate_hz=RATE)
    first = int(np.random.default_rng(3).integers(len(whole)))
    np.testing.assert_array_equal(found, np.resize(np.roll(whole, -first), num))


def test_memory_is_that_of_the_part(long: pathlib.Path) -> None:
    tracemalloc.start()
    try:
        read_middle(long, 5.0, sample_rate_hz=RATE)
        read_around(long, np.random.default_rng(0), 5 * RATE, sample_rate_hz=RATE)
        assert count_samples(long, sample_rate_hz=RATE) == 600 * RATE
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 600 * RATE * 4 / 2  # half of the whole, once


def test_a_file_without_samples(tmp_path: pathlib.Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    for read in (
        lambda path: read_middle(path, 1.0, sample_rate_hz=RATE),
        lambda path: count_samples(path, sample_rate_hz=RATE),
    ):
        with pytest.raises(DecodeError, match="holds no audio samples"):
            read(tmp_path / "none.wav")
