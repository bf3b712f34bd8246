"""One policy for decoding, downmixing and resampling: preparation, index and query all hear the
same.

libsndfile decodes wav, flac, ogg and opus; mp3 and what it does not know (m4a, aac, wma, webm,
mp4) go to FFmpeg by PyAV. Channels are averaged; soxr resamples in one stream, so memory is
bounded by the result.
"""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any, cast

import av
import av.error
import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

_SNDFILE_MAGIC = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"riff")
_BLOCK_SAMPLES = 1 << 18
_RATES_HZ = (4_000, 768_000)
# A playlist (HLS, concat) would make FFmpeg open what it names: other files of this machine, or
# addresses.
_ALONE = {"protocol_whitelist": "none"}

_Native = tuple[int, Float32[np.ndarray, "n c"]]  # rate in Hz, samples


class DecodeError(ValueError):
    """A file that is no usable audio; the message names the file, the cause and the remedy."""


@dataclasses.dataclass(frozen=True)
class Audio:
    """Decoded mono audio: samples within about [-1, 1] at the rate that was asked for."""

    samples: Float32[np.ndarray, " n"]
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate_hz


@dataclasses.dataclass(frozen=True)
class Tags:
    """What a file says of itself; "" where it does not."""

    title: str = ""
    artist: str = ""
    album: str = ""


def decode(path: str | pathlib.Path, *, sample_rate_hz: int) -> Audio:
    """Decodes a whole file to mono float32 at `sample_rate_hz`.

    Raises:
      DecodeError: missing, empty, no audio, damaged from the start, or not finite.

    Examples:
      >>> audio = decode("clip.wav", sample_rate_hz=16_000)
      >>> audio.samples.shape, audio.samples.dtype
      ((64000,), dtype('float32'))
    """
    path = pathlib.Path(path)
    blocks = list(decode_blocks(path, sample_rate_hz=sample_rate_hz))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not len(samples):
        raise DecodeError(
            f"{path}: holds no audio samples; check that the recording was written completely"
        )
    return Audio(samples, sample_rate_hz)


def decode_blocks(
    path: pathlib.Path, *, sample_rate_hz: int
) -> Iterator[Float32[np.ndarray, " n"]]:
    """The file as a stream of mono blocks at `sample_rate_hz`; the same errors as `decode`."""
    _check_readable(path)
    resampler: soxr.ResampleStream | None = None
    rate_hz = 0
    for rate_hz, block in _native_blocks(path):
        mono = block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]
        if not np.isfinite(mono).all():
            raise DecodeError(
                f"{path}: contains NaN or infinite samples; export it again as 16-bit PCM"
            )
        if rate_hz == sample_rate_hz:
            yield mono
            continue
        if resampler is None:
            resampler = soxr.ResampleStream(
                rate_hz, sample_rate_hz, 1, dtype="float32", quality="HQ"
            )
        yield resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def read_tags(path: pathlib.Path) -> Tags:
    """Title, artist and album from a file's metadata (ID3, Vorbis comments, MP4 atoms, RIFF INFO,
    ...).

    A file without them, or one whose container FFmpeg does not know, has none: tags are no reason
    to refuse music.
    """
    try:
        with (
            open(path, "rb") as file,
            av.open(file, "r", options=_ALONE, metadata_errors="replace") as container,
        ):
            found = {key.lower(): value for key, value in container.metadata.items()}
            for stream in container.streams.audio:  # Ogg and Opus keep them there
                found = {key.lower(): value for key, value in stream.metadata.items()} | found
    except (av.error.FFmpegError, OSError):
        return Tags()
    title, artist, album = (
        " ".join(found.get(key, "").replace("\0", " ").split())
        for key in ("title", "artist", "album")
    )
    return Tags(title, artist or found.get("album_artist", ""), album)


def from_samples(samples: np.ndarray, *, from_hz: int, to_hz: int) -> Float32[np.ndarray, " n"]:
    """Samples in memory by the same policy: [n] or [n, channels], integer PCM or float, to mono
    float32 at `to_hz`.

    Raises:
      DecodeError: wrong shape, not finite, or a rate outside 4 to 768 kHz.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > 64):
        raise DecodeError(f"samples have shape {samples.shape}; pass [n] or [n, channels]")
    _check_rate("samples", from_hz)
    if np.issubdtype(samples.dtype, np.integer):
        info = np.iinfo(samples.dtype)
        middle = (info.max + info.min + 1) // 2  # unsigned PCM rests at half its range
        samples = (samples.astype(np.float32) - middle) / (float(info.max) - middle + 1)
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
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
        _check_rate("samples", from_hz)
        same = from_hz == to_hz
        self._resampler = (
            None if same else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
        )

    def push(
        self, samples: Float32[np.ndarray, " n"], *, last: bool = False
    ) -> Float32[np.ndarray, " m"]:
        """The next samples that are ready; with `last` all that are left.

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


def _check_readable(path: pathlib.Path) -> None:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DecodeError(f"{path}: no such file")
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
        raise DecodeError(f"{path}: the file is empty (0 bytes); copy it again")


def _native_blocks(path: pathlib.Path) -> Iterator[_Native]:
    with open(path, "rb") as start:
        if (
            start.read(4) not in _SNDFILE_MAGIC
        ):  # libsndfile's MP3 decoder writes to the terminal: never ask it
            yield from _ffmpeg_blocks(path, "")
            return
    try:
        file = soundfile.SoundFile(cast(Any, os.fsencode(path)))  # bytes: names need not be UTF-8
    except soundfile.LibsndfileError as sndfile_error:
        yield from _ffmpeg_blocks(path, f"libsndfile: {sndfile_error.error_string} ")
        return
    with file:
        _check_rate(str(path), file.samplerate)
        try:
            while len(block := file.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                yield file.samplerate, block
        except soundfile.LibsndfileError as error:
            raise DecodeError(
                f"{path}: damaged after {file.tell() / file.samplerate:.1f} s ({error})"
            ) from error


def _ffmpeg_blocks(path: pathlib.Path, before: str) -> Iterator[_Native]:
    """A damaged packet is skipped as every player does; more than one in ten of them is an
    error.
    """
    remedy = "is it audio? convert it to wav, flac, mp3, ogg, opus or m4a"
    num_packets = num_damaged = 0
    try:
        with (
            open(path, "rb") as file,
            av.open(file, "r", options=_ALONE, metadata_errors="ignore") as container,
        ):
            if not container.streams.audio:
                raise DecodeError(f"{path}: has no audio stream; {remedy}")
            planar, held = av.AudioResampler(format="fltp"), _Held()
            for packet in container.demux(container.streams.audio[0]):
                num_packets += 1
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    num_damaged += 1
                    continue
                for frame in frames:
                    _check_rate(str(path), frame.sample_rate)
                    for part in [frame] if frame.format.name == "fltp" else planar.resample(frame):
                        yield from held.push(part)
            yield from held.rest()
    except av.error.FFmpegError as error:
        raise DecodeError(
            f"{path}: cannot be decoded ({before}FFmpeg: {error.strerror}); {remedy}"
        ) from error
    if num_damaged > 0.1 * num_packets:
        raise DecodeError(
            f"{path}: {num_damaged} of {num_packets} packets are damaged; copy or download it again"
        )


class _Held:
    """Planar frames in, blocks of `_BLOCK_SAMPLES` and more out: a frame of an MP3 has 26 ms, and
    every call its price.
    """

    def __init__(self) -> None:
        self._fifo, self._kind = av.AudioFifo(), (0, "")

    def push(self, frame: av.AudioFrame) -> Iterator[_Native]:
        """The block that is full with this frame, or that ends before it because rate or channels
        change.
        """
        kind = frame.sample_rate, frame.layout.name
        if kind != self._kind:
            yield from self.rest()
            self._fifo, self._kind = av.AudioFifo(), kind
        frame.pts = None  # of a gap in the timestamps nothing is heard
        self._fifo.write(frame)
        if self._fifo.samples >= _BLOCK_SAMPLES:
            yield from self.rest()

    def rest(self) -> Iterator[_Native]:
        """What is held."""
        if self._fifo.samples and (frame := self._fifo.read()):
            yield frame.sample_rate, frame.to_ndarray().T


def _check_rate(name: str, rate_hz: int) -> None:
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise DecodeError(
            f"{name}: sample rate {rate_hz} Hz is outside {_RATES_HZ[0]} to {_RATES_HZ[1]} Hz; "
            "resample it"
        )
