"""Parts of files of any length: what is not kept is decoded and dropped, never held."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode_blocks


@dataclasses.dataclass(frozen=True)
class Middle:
    """The middle of a recording, with what is known of the whole."""

    samples: Float32[np.ndarray, " n"]
    start_s: float
    whole_s: float
    peak: float  # of the whole


def read_middle(path: pathlib.Path, length_s: float, *, sample_rate_hz: int) -> Middle:
    """Reads the middle `length_s` of a longer file, or all of a shorter one.

    A file of more than twice that length is decoded twice: its middle is known at its end.

    Raises:
      DecodeError: as in `decode`.
    """
    length = round(length_s * sample_rate_hz)
    held: list[np.ndarray] = []
    num_samples = 0
    peak = 0.0
    for block in decode_blocks(path, sample_rate_hz=sample_rate_hz):
        num_samples += len(block)
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        held.append(block)
        if num_samples > 2 * length:
            held.clear()
    _check_any(path, num_samples)
    start = max(0, num_samples - length) // 2
    if held:
        samples = np.concatenate(held)[start : start + length]
    else:
        samples = _read(path, start, min(length, num_samples), sample_rate_hz=sample_rate_hz)
    return Middle(samples, start / sample_rate_hz, num_samples / sample_rate_hz, peak)


def read_around(
    path: pathlib.Path, rng: np.random.Generator, num: int, *, sample_rate_hz: int
) -> Float32[np.ndarray, " n"]:
    """Reads `num` samples from any place in a file; where it ends, it begins again.

    Raises:
      DecodeError: as in `decode`.
    """
    whole = count_samples(path, sample_rate_hz=sample_rate_hz)
    first = int(rng.integers(whole))
    until_end = _read(path, first, min(num, whole - first), sample_rate_hz=sample_rate_hz)
    if len(until_end) == num:
        return until_end
    before = _read(path, 0, min(first, num - len(until_end)), sample_rate_hz=sample_rate_hz)
    return np.resize(np.concatenate([until_end, before]), num)


def count_samples(path: pathlib.Path, *, sample_rate_hz: int) -> int:
    """Counts a file's samples.

    Raises:
      DecodeError: as in `decode`.
    """
    blocks = decode_blocks(path, sample_rate_hz=sample_rate_hz)
    num_samples = sum(len(block) for block in blocks)
    _check_any(path, num_samples)
    return num_samples


def _check_any(path: pathlib.Path, num_samples: int) -> None:
    if not num_samples:
        raise DecodeError(
            f"{path}: holds no audio samples; check that the recording was written completely"
        )


def _read(
    path: pathlib.Path, first: int, num: int, *, sample_rate_hz: int
) -> Float32[np.ndarray, " n"]:
    parts = list(_cut(path, first, first + num, sample_rate_hz=sample_rate_hz))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _cut(
    path: pathlib.Path, first: int, last: int, *, sample_rate_hz: int
) -> Iterator[Float32[np.ndarray, " n"]]:
    begin = 0
    for block in decode_blocks(path, sample_rate_hz=sample_rate_hz):
        if begin >= last:
            return
        yield block[max(0, first - begin) : last - begin].copy()  # not a view: it would hold all
        begin += len(block)
