"""Audio by FFmpeg's libraries: one timeline a file, whatever changes or breaks on the way."""

import io
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import av
import av.error
import numpy as np
from jaxtyping import Float32

from confp_jax.audio.errors import DecodeError, Losses
from confp_jax.audio.headers import completed_start, content_start
from confp_jax.audio.junk import Junk

# A playlist (HLS, concat) would make FFmpeg open what it names: other files of this machine, or
# addresses.
ALONE = {"protocol_whitelist": "none"}
BLOCK_SAMPLES = 1 << 18
REMEDY = "is it audio? convert it to wav, flac, mp3, ogg, opus or m4a"

_DAMAGED_SHARE = 0.1  # of the packets; of more, what was heard must be worth something:
_LEAST_HEARD_S = 1.0  # the shortest recording that can be recognised
_MOST_DAMAGED_SHARE = 0.9  # of more it is no audio of this kind
_FEW_DAMAGED = 2  # packets: of a format with packets of a second they are more than that share
_START_S = 0.05  # what a stream begins later than its file is heard from here on
_GAP_S = 0.5
# Silence in all that timestamps may make: a wrong one could make years of it.
# seconds, or a second for so many bytes of the file
_TRUSTED_S = 600.0
_TRUSTED_BYTES_S = 1_000
_COUNTING = ("aac", "ac3", "dts", "eac3", "flac", "mp3", "sbc")
_CHUNK_BYTES = 1 << 20
_SEEK_SIZE = 0x10000  # FFmpeg's AVSEEK_SIZE
_EINVAL = -22
_OGG_PAGE = re.compile(rb"OggS\x00([\x00-\x07])")
_FIRST_PAGE = 2
_HEAD_BYTES = 1 << 16
_TAIL_BYTES = 1 << 20
# G.711; FFmpeg would take 44.1 kHz
_TELEPHONE = ("mulaw", "alaw")
_TELEPHONE_HZ = 8_000
_RAW = ("s8", "u8", "s16le", "s16be", "u16le", "u16be")  # which FFmpeg takes by a file's suffix
_ENCRYPTED = re.compile(
    rb"stsd.{4}\x00{3}.{5}(?:enca|drms|aavd)"  # MP4: Common Encryption, FairPlay, Audible
    rb"|\xfb\xb3\x11\x22\x23\xbd\xd2\x11\xb4\xb7\x00\xa0\xc9\x55\xfc\x6e"  # ASF
    rb"|\x14\xe6\x8a\x29\x22\x26\x17\x4c\xb9\x35\xda\xe0\x7e\xe9\x28\x9c"  # ASF, extended
    rb"|\x50\x35.{1,8}\x47\xe1",  # Matroska and WebM
    re.DOTALL,
)

Native = tuple[int, Float32[np.ndarray, "n c"]]  # rate in Hz, samples


def ffmpeg_blocks(path: pathlib.Path, losses: Losses, before: str = "") -> Iterator[Native]:
    """Yields a file's audio at its own rates and channels, from the file's first moment on.

    A damaged packet is skipped as every player does; it is an error where next to nothing is left.

    Args:
      losses: receives what was skipped.
      before: what another decoder said of the file.

    Raises:
      DecodeError: no audio, encrypted, mostly damaged, or a disk that cannot be read.
    """
    check_encryption(path)
    for first, last in _links(path):
        with _Part(path, first, last) as file:
            try:
                yield from _Decoding(path, losses).blocks(file)
            except (DecodeError, MemoryError):
                raise
            except Exception as error:  # whatever a decoder raises is one failed file
                cause = file.error or error
                text = getattr(cause, "strerror", None) or str(cause)
                raise DecodeError(
                    f"cannot be decoded ({before}FFmpeg: {text})", REMEDY, path
                ) from error


def check_encryption(path: pathlib.Path) -> None:
    """Raises a DecodeError where a container says that its content is encrypted."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        kind = head[4:8] == b"ftyp"
        if not kind and head[:4] not in (b"\x30\x26\xb2\x75", b"\x1a\x45\xdf\xa3"):
            return
        tail = b""
        if kind:  # the index may stand at the end
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
    if _ENCRYPTED.search(head) or _ENCRYPTED.search(tail):
        raise _encrypted(path)


def _encrypted(path: pathlib.Path) -> DecodeError:
    return DecodeError("is encrypted (DRM) and cannot be read", "use a file without it", path)


class _Decoding:
    """One container on its way to samples."""

    def __init__(self, path: pathlib.Path, losses: Losses):
        self._path = path
        self._losses = losses
        self._num_packets = 0
        self._num_damaged = 0
        self._heard_s = 0.0
        self._usual_s = 0.0  # of a packet
        self._has_begun = False

    def blocks(self, file: "_Part") -> Iterator[Native]:
        """Yields blocks of `BLOCK_SAMPLES` and more, silence where nothing is recorded."""
        with self._open(file) as container:
            stream = self._stream(container)
            timeline = _Timeline(container, file.num_bytes)
            held = _Held()
            for frame in self._frames(container, stream):
                gap_s = timeline.gap_s(frame)
                if gap_s:
                    self._losses.missing_s += gap_s if self._has_begun else 0
                    yield from held.rest()
                    yield from _silence(gap_s, frame.sample_rate)
                self._has_begun = True
                yield from held.push(frame)
            yield from held.rest()
        if file.error:
            raise DecodeError(f"cannot be read ({file.error.strerror})", subject=self._path)
        if self._is_ruined():
            raise DecodeError(
                f"{self._num_damaged} of {self._num_packets} packets are damaged",
                "copy or download it again",
                self._path,
            )

    def _is_ruined(self) -> bool:
        """Returns whether so much is damaged that the rest is not worth anything, or no audio at
        all.
        """
        num = self._num_packets
        num_damaged = self._num_damaged
        if num_damaged <= max(_FEW_DAMAGED, _DAMAGED_SHARE * num):
            return False
        return self._heard_s < _LEAST_HEARD_S or num_damaged > _MOST_DAMAGED_SHARE * num

    def _open(self, file: "_Part") -> av.container.InputContainer:
        """Opens the container; of files without a header the rate is known by their kind alone."""
        container = av.open(file, "r", options=ALONE, metadata_errors="ignore")
        kind = container.format.name
        if kind not in _TELEPHONE and kind not in _RAW:
            return container
        container.close()
        if kind in _RAW:
            raise DecodeError(
                "raw samples, and no header that says at which rate",
                "convert it to wav or flac",
                self._path,
            )
        file.seek(0)
        options = ALONE | {"sample_rate": str(_TELEPHONE_HZ)}
        return av.open(file, "r", format=kind, options=options)

    def _stream(self, container: av.container.InputContainer) -> av.AudioStream:
        """Returns the stream that a player takes."""
        stream = container.streams.best("audio")
        if isinstance(stream, av.AudioStream):
            return stream
        if container.streams.audio:
            return container.streams.audio[0]
        raise DecodeError("has no audio stream", REMEDY, self._path)

    def _frames(
        self, container: av.container.InputContainer, stream: av.AudioStream
    ) -> Iterator[av.AudioFrame]:
        try:
            junk = Junk(container.format.name)
            for packet in container.demux(stream):
                frames = self._decoded(packet)
                yield from frames
                packet_s = sum(frame.samples / frame.sample_rate for frame in frames)
                self._losses.damaged_s += junk.lost_s(bytes(packet), packet_s)
        except av.error.FFmpegError as error:
            if not self._heard_s or isinstance(error, MemoryError):
                raise
            end_s = (container.duration or 0) / av.time_base
            self._losses.damaged_s += max(1.0, end_s - self._heard_s)

    def _decoded(self, packet: av.Packet) -> Sequence[av.AudioFrame]:
        self._num_packets += 1
        if packet.has_sidedata("encryption_info"):
            raise _encrypted(self._path)
        try:
            frames = [f for f in packet.decode() if isinstance(f, av.AudioFrame)]
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            self._num_damaged += 1
            told_s = float((packet.duration or 0) * (packet.time_base or 0))
            self._losses.damaged_s += told_s or self._usual_s
            return []
        for frame in frames:
            check_rate(str(self._path), frame.sample_rate)
        packet_s = sum(frame.samples / frame.sample_rate for frame in frames)
        self._usual_s = packet_s or self._usual_s
        self._heard_s += packet_s
        self._losses.heard_s += packet_s
        return frames


class _Timeline:
    """Where frames lie, by the container's timestamps: what a player shows. Formats without any
    count bytes or samples; from a change of their rate on that counting is wrong.
    """

    def __init__(self, container: av.container.InputContainer, num_bytes: int):
        self._trusted_s = max(_TRUSTED_S, num_bytes / _TRUSTED_BYTES_S)
        self._counts = container.format.name in _COUNTING
        self._has_times = True
        self._rate_hz = 0
        self._zero_s = (container.start_time or 0) / av.time_base
        self._end_s = container.duration / av.time_base if container.duration else None
        self._heard_s = 0.0
        self._least_s = _START_S

    def gap_s(self, frame: av.AudioFrame) -> float:
        """Returns the silence before a frame in seconds; 0 without usable timestamps."""
        gap_s = 0.0
        if self._counts and self._rate_hz not in (0, frame.sample_rate):
            self._has_times = False
        self._rate_hz = frame.sample_rate
        if frame.time is not None and self._has_times:
            at_s = frame.time - self._zero_s
            if abs(at_s - self._heard_s) > self._least_s:
                gap_s = at_s - self._heard_s
                is_late = self._end_s is not None and at_s > self._end_s
                if gap_s < 0 or is_late or gap_s > self._trusted_s:
                    self._zero_s += gap_s  # the clock was set: times count from here on
                    gap_s = 0.0
                self._trusted_s -= gap_s
        self._least_s = _GAP_S
        self._heard_s += gap_s + frame.samples / frame.sample_rate
        return gap_s


class _Held:
    """Frames in, blocks of `BLOCK_SAMPLES` and more out: a frame of an MP3 has 26 ms, and every
    call its price.
    """

    def __init__(self) -> None:
        self._fifo = av.AudioFifo()
        self._kind = (0, "", "", 0)

    def push(self, frame: av.AudioFrame) -> Iterator[Native]:
        """Yields the block that is full with this frame, or that ends before it because rate,
        channels or format change.
        """
        layout = frame.layout
        kind = (frame.sample_rate, frame.format.name, layout.name, layout.nb_channels)
        if kind != self._kind:
            yield from self.rest()
            self._fifo = av.AudioFifo()
            self._kind = kind
        frame.pts = None  # the timeline has seen to gaps
        self._fifo.write(frame)
        if self._fifo.samples >= BLOCK_SAMPLES:
            yield from self.rest()

    def rest(self) -> Iterator[Native]:
        """Yields what is held."""
        if self._fifo.samples and (frame := self._fifo.read()):
            yield frame.sample_rate, _as_floats(frame)


def _as_floats(frame: av.AudioFrame) -> Float32[np.ndarray, "n c"]:
    samples = frame.to_ndarray()
    num_channels = frame.layout.nb_channels
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, num_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    return samples.astype(np.float32, copy=False)


def _silence(length_s: float, rate_hz: int) -> Iterator[Native]:
    left = round(length_s * rate_hz)
    while left > 0:
        yield rate_hz, np.zeros((min(left, BLOCK_SAMPLES), 1), np.float32)
        left -= BLOCK_SAMPLES


def check_rate(name: str, rate_hz: int) -> None:
    """Raises a DecodeError for a sample rate outside 4 to 768 kHz."""
    low = 4_000
    high = 768_000
    if not low <= rate_hz <= high:
        raise DecodeError(
            f"sample rate {rate_hz} Hz is outside {low} to {high} Hz", "resample it", name
        )


def _links(path: pathlib.Path) -> list[tuple[int, int]]:
    """Returns the first and last byte of each stream of a chained Ogg file; of another file, all of
    it.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return [(content_start(path), size)]
        file.seek(0)
        starts = [0]
        offset = 0
        held = b""
        was_first = True
        while chunk := file.read(_CHUNK_BYTES):
            held += chunk
            for page in _OGG_PAGE.finditer(held):
                is_first = bool(page[1][0] & _FIRST_PAGE)
                if is_first and not was_first:
                    starts.append(offset + page.start())
                was_first = is_first
            kept = min(len(held), 5)  # a page's mark may lie across two chunks
            offset += len(held) - kept
            held = held[len(held) - kept :]
    return list(zip(starts, [*starts[1:], size], strict=True))


class _Part(io.RawIOBase):
    """Bytes of a file for FFmpeg: an error of the disk ends them and is kept, none is raised into
    native code.
    """

    def __init__(self, path: pathlib.Path, first: int, last: int):
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this one
        self._first = first
        self.num_bytes = last - first
        self._start = completed_start(path, first)
        self._at = 0
        self.name = self._file.name
        self.error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        """The next bytes, none at the end or after an error."""
        left = max(0, self.num_bytes - self._at)
        if not left:  # nor is there a place so far behind the end
            return b""
        try:
            self._file.seek(self._first + self._at)
            data = self._file.read(left if size < 0 else min(size, left))
        except OSError as error:
            self.error = error
            return b""
        data = self._start[self._at : self._at + len(data)] + data[len(self._start[self._at :]) :]
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place; a negative number where there cannot be one."""
        if whence == _SEEK_SIZE:
            return self.num_bytes
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.num_bytes}.get(whence)
        if base is None or not 0 <= base + offset < 1 << 62:
            return _EINVAL
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def readable(self) -> bool:
        """Returns True."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
