"""One policy for decoding, downmixing and resampling: preparation, index and query all hear the
same.

libsndfile decodes wav, aiff and their kin; all else goes to FFmpeg by PyAV. Channels are averaged,
two that cancel are subtracted; soxr resamples each stretch of one rate in one stream, so memory is
bounded by the result.
"""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from confp_jax.audio.container import BLOCK_SAMPLES, Native, check_rate, ffmpeg_blocks
from confp_jax.audio.errors import DecodeError, Losses

# FLAC and Ogg go to FFmpeg too, which skips what is damaged in them and believes no length.
_SNDFILE_MAGIC = (b"RIFF", b"RF64", b"FORM", b"caff", b".snd", b"riff")
_COMPRESSED = ("ALAC", "MPEG", "IMA", "MS_ADPCM")
_LEAST_BYTES = 1_000  # a file of more, in which libsndfile finds nothing, was not completed
_CANCEL_POWER = 4.0  # of the difference beside the sum, from which on two channels cancel


@dataclasses.dataclass(frozen=True)
class Audio:
    """Decoded mono audio: samples within about [-1, 1] at the rate that was asked for."""

    samples: Float32[np.ndarray, " n"]
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate_hz


def decode(path: str | pathlib.Path, *, sample_rate_hz: int, losses: Losses | None = None) -> Audio:
    """Decodes a whole file to mono float32 at `sample_rate_hz`.

    Args:
      path: of the file.
      sample_rate_hz: of the samples that are returned, 4 to 768 kHz.
      losses: records what was damaged in the file and skipped.

    Raises:
      DecodeError: missing, empty, no audio, damaged from the start, or not finite.

    Examples:
      >>> audio = decode("clip.wav", sample_rate_hz=16_000)
      >>> audio.samples.shape, audio.samples.dtype
      ((64000,), dtype('float32'))
    """
    path = pathlib.Path(path)
    blocks = list(decode_blocks(path, sample_rate_hz=sample_rate_hz, losses=losses))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not len(samples):
        raise DecodeError(
            "holds no audio samples", "check that the recording was written completely", path
        )
    return Audio(samples, sample_rate_hz)


def decode_blocks(
    path: pathlib.Path, *, sample_rate_hz: int, losses: Losses | None = None
) -> Iterator[Float32[np.ndarray, " n"]]:
    """Yields a file as mono blocks.

    Args:
      path: of the file.
      sample_rate_hz: of the blocks.
      losses: receives what is damaged in the file and was skipped.

    Raises:
      DecodeError: as in `decode`.
    """
    check_readable(path)
    resampler = _Resampler(sample_rate_hz)
    native = _native_blocks(path, Losses() if losses is None else losses)
    while (found := _next_block(native, path)) is not None:
        rate_hz, block = found
        mono = to_mono(block)
        if not np.isfinite(mono).all():
            raise DecodeError(
                "contains NaN or infinite samples", "export it again as 16-bit PCM", path
            )
        yield from resampler.push(rate_hz, mono)
    yield from resampler.rest()


def _next_block(native: Iterator[Native], path: pathlib.Path) -> Native | None:
    """Returns the next block; an error of a disk, wherever it comes up, is one of the file."""
    try:
        return next(native, None)
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror or error})", subject=path) from error


def from_samples(samples: np.ndarray, *, from_hz: int, to_hz: int) -> Float32[np.ndarray, " n"]:
    """Returns samples in memory as mono float32 at another sample rate, by the same policy.

    Args:
      samples: [n] or [n, channels], integer PCM or float.
      from_hz: their sample rate.
      to_hz: the sample rate of the result.

    Raises:
      DecodeError: wrong shape, not finite, or a rate outside 4 to 768 kHz.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > 64):
        raise DecodeError(f"samples have shape {samples.shape}", "pass [n] or [n, channels]")
    check_rate("samples", from_hz)
    if np.issubdtype(samples.dtype, np.integer):
        info = np.iinfo(samples.dtype)
        middle = (info.max + info.min + 1) // 2  # unsigned PCM rests at half its range
        samples = (samples.astype(np.float32) - middle) / (float(info.max) - middle + 1)
    mono = to_mono(samples.astype(np.float32)) if samples.ndim == 2 else samples
    mono = np.ascontiguousarray(mono, np.float32)
    if not np.isfinite(mono).all():
        raise DecodeError("samples contain NaN or infinite values")
    return (
        mono
        if from_hz == to_hz or not len(mono)
        else soxr.resample(mono, from_hz, to_hz, quality="HQ")
    )


class StreamResampler:
    """Mono samples at one rate in, at another rate out, piece by piece, for audio that arrives
    while it is recorded.
    """

    def __init__(self, *, from_hz: int, to_hz: int):
        """Begins a stream.

        Raises:
          DecodeError: a rate outside 4 to 768 kHz.
        """
        check_rate("samples", from_hz)
        same = from_hz == to_hz
        self._resampler = (
            None if same else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
        )

    def push(
        self, samples: Float32[np.ndarray, " n"], *, last: bool = False
    ) -> Float32[np.ndarray, " m"]:
        """Returns the next samples that are ready; with `last` all that are left.

        Raises:
          DecodeError: not finite.
        """
        if not np.isfinite(samples).all():
            raise DecodeError("samples contain NaN or infinite values")
        return (
            samples
            if self._resampler is None
            else self._resampler.resample_chunk(samples, last=last)
        )


def check_readable(path: pathlib.Path) -> None:
    """Raises a DecodeError where there is no file to be opened; waits for no pipe."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            if stat.S_ISDIR(about.st_mode):
                raise DecodeError("no such file, but a folder", "name a file in it", path)
            raise DecodeError(
                "is a pipe or a device and no file",
                "give what it brings on standard input, which is called -",
                path,
            )
        with open(path, "rb"):
            pass
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise DecodeError(
            f"{path}: no such file"
            if missing
            else f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    if about.st_size == 0:
        raise DecodeError("the file is empty (0 bytes)", "copy it again", path)


def _native_blocks(path: pathlib.Path, losses: Losses) -> Iterator[Native]:
    with open(path, "rb") as start:
        known = start.read(4) in _SNDFILE_MAGIC
    if not known:  # libsndfile's MP3 decoder writes to the terminal: never ask it
        yield from ffmpeg_blocks(path, losses)
        return
    try:
        file = soundfile.SoundFile(cast(Any, os.fsencode(path)))  # bytes: names need not be UTF-8
    except (soundfile.LibsndfileError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.error_string
        yield from ffmpeg_blocks(path, losses, f"libsndfile: {reason} ")
        return
    with file:
        check_rate(str(path), file.samplerate)
        unfinished = not file.frames and path.stat().st_size > _LEAST_BYTES
        if unfinished or file.subtype.startswith(_COMPRESSED):
            yield from ffmpeg_blocks(path, losses)
            return
        try:
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                yield file.samplerate, block
        except (soundfile.LibsndfileError, OSError) as error:
            raise DecodeError(
                f"damaged after {file.tell() / file.samplerate:.1f} s ({error})",
                "copy it again",
                path,
            ) from error


def to_mono(samples: Float32[np.ndarray, "n c"]) -> Float32[np.ndarray, " n"]:
    """Returns the mean of the channels; of two that cancel each other, half their difference, of
    more the loudest one.
    """
    num = samples.shape[1]
    if num == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1, dtype=np.float32)
    if not len(samples):
        return mean
    if num == 2:
        other = (samples[:, 0] - samples[:, 1]) / 2
        power = np.square(other).mean()
    else:
        powers = np.square(samples).mean(axis=0)
        other = samples[:, int(powers.argmax())]
        power = powers.max() / num  # of the mean of channels that have nothing in common
    return other if _CANCEL_POWER * np.square(mean).mean() < power else mean


class _Resampler:
    """Mono samples of changing rates to one rate."""

    def __init__(self, to_hz: int):
        self._to_hz = to_hz
        self._from_hz = to_hz
        self._stream: soxr.ResampleStream | None = None

    def push(self, rate_hz: int, mono: np.ndarray) -> Iterator[Float32[np.ndarray, " n"]]:
        """Yields what is ready."""
        if rate_hz != self._from_hz:
            yield from self.rest()
            self._from_hz = rate_hz
            if rate_hz != self._to_hz:
                self._stream = soxr.ResampleStream(
                    rate_hz, self._to_hz, 1, dtype="float32", quality="HQ"
                )
        yield mono if self._stream is None else self._stream.resample_chunk(mono)

    def rest(self) -> Iterator[Float32[np.ndarray, " n"]]:
        """Yields what is left of the samples of the last rate."""
        if self._stream is not None:
            yield self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
            self._stream = None
