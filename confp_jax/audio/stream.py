"""Audio that is no file: standard input, and addresses on the network, by FFmpeg's program; the
microphone.
"""

import contextlib
import http.client
import io
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from typing import IO, Protocol

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode_blocks, to_mono
from confp_jax.audio.errors import Losses

STDIN = "-"
_SCHEMES = ("http", "https", "rtmp", "rtmps", "rtsp", "icecast", "srt", "udp", "rtp")
_BLOCK_SAMPLES = 8_000
_FRAME_BYTES = 8  # of two channels
_HEAD_BYTES = 12
_FEED_BYTES = 1 << 16
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_RECONNECTS = (
    *("-reconnect", "1", "-reconnect_on_network_error", "1"),
    *("-reconnect_delay_max", "16"),
)
# FFmpeg 6 and earlier, FFmpeg 7
_DAMAGED_PACKET = re.compile("Error while decoding stream|Error submitting packet to decoder")
_WAITS_S = (1, 2, 4, 8, 16, 30)
_TIMEOUT_S = 20
_FINITE = {"content-length", "transfer-encoding"}


class Readable(Protocol):
    """What FFmpeg is fed from: bytes that are there, without waiting for more."""

    def read1(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end."""
        ...


def is_url(source: str) -> bool:
    """Returns whether a source is an address that FFmpeg may open; local files are decoded without
    it.
    """
    return "://" in source and urllib.parse.urlsplit(source).scheme in _SCHEMES


def stream_blocks(
    source: str, *, sample_rate_hz: int, losses: Losses | None = None
) -> Iterator[Float32[np.ndarray, " n"]]:
    """Standard input ("-", any format that FFmpeg knows) or an address, as mono blocks while they
    come.

    An endless stream that breaks off is connected again, later and later.

    Args:
      source: "-" or the address.
      sample_rate_hz: of the blocks.
      losses: receives what is damaged and was skipped.

    Raises:
      DecodeError: no FFmpeg, an address of another kind, nothing that could be decoded, or a
        stream that broke off and cannot be reached again.
    """
    program = _ffmpeg(source)
    losses = Losses() if losses is None else losses
    if source == STDIN:
        yield from _standard_input(program, sample_rate_hz, losses)
        return
    if not is_url(source):
        raise DecodeError("not an address of a stream", f"use one of {', '.join(_SCHEMES)}", source)
    options = _RECONNECTS if source.startswith(("http://", "https://")) else ()
    heard_s = 0.0
    attempt = 0
    while True:
        try:
            for block in _run(program, source, sample_rate_hz, options, losses=losses):
                heard_s += len(block) / sample_rate_hz
                attempt = 0
                yield block
            if not _is_endless(source):
                return
            reason = "the stream was closed"
        except DecodeError as error:
            if not heard_s:
                raise
            reason = str(error)
        if attempt == len(_WAITS_S):
            raise DecodeError(
                f"broke off after {heard_s:.1f} s and cannot be reached again ({reason})",
                subject=source,
            )
        time.sleep(_WAITS_S[attempt])
        attempt += 1


def _ffmpeg(source: str) -> str:
    program = shutil.which("ffmpeg")
    if program is None:
        raise DecodeError(
            "reading a stream needs the program ffmpeg",
            "install it, or save the audio to a file",
            source,
        )
    return program


def connected_blocks(
    source: str,
    *,
    sample_rate_hz: int,
    head: Readable | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Iterator[Float32[np.ndarray, " n"]]:
    """Yields the mono blocks of one connection to an address, until it breaks off.

    Args:
      source: the address.
      sample_rate_hz: of the blocks.
      head: where the bytes come from, if FFmpeg is not to connect by itself.
      timeout_s: how long nothing may come.

    Raises:
      DecodeError: no FFmpeg, nothing that can be decoded, or nothing came in time.
    """
    options = ("-rw_timeout", str(round(timeout_s * 1e6))) if head is None else ()
    yield from _run(_ffmpeg(source), source, sample_rate_hz, options, head, 2 * timeout_s)


def _is_endless(address: str) -> bool:
    """Returns whether a stream that ended is one without an end: the server states no length.

    Raises:
      DecodeError: the server cannot be reached.
    """
    if not address.startswith(("http://", "https://")):
        return True
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as reply:  # noqa: S310
            headers = {name.lower() for name in reply.headers}
    except http.client.BadStatusLine:  # SHOUTcast's own
        return True
    except (OSError, http.client.HTTPException) as error:
        raise DecodeError(f"{error}", subject=address) from error
    return any(name.startswith("icy-") for name in headers) or not headers & _FINITE


def _standard_input(
    program: str, sample_rate_hz: int, losses: Losses
) -> Iterator[Float32[np.ndarray, " n"]]:
    """MP4 goes through a file, for its index may stand at the end; other formats as they come."""
    stdin = open(0, "rb", closefd=False)  # noqa: SIM115 - another owns it
    if stdin.peek(_HEAD_BYTES)[4:8] not in _MP4_BOXES:
        yield from _run(program, STDIN, sample_rate_hz, (), head=stdin, losses=losses)
        return
    with tempfile.NamedTemporaryFile(prefix="confp_stdin_", suffix=".mp4") as file:
        path = pathlib.Path(file.name)
        try:
            shutil.copyfileobj(stdin, file, 1 << 20)
            file.flush()
            yield from decode_blocks(path, sample_rate_hz=sample_rate_hz, losses=losses)
        except OSError as error:
            raise DecodeError(
                f"cannot be kept in {path.parent} ({error.strerror})", subject=STDIN
            ) from error
        except DecodeError as error:
            raise DecodeError(error.detail, error.remedy, STDIN) from error


def _run(
    program: str,
    source: str,
    sample_rate_hz: int,
    options: Sequence[str],
    head: "io.BufferedReader | Readable | None" = None,
    timeout_s: float | None = None,
    losses: Losses | None = None,
) -> Iterator[Float32[np.ndarray, " n"]]:
    """Yields what FFmpeg makes of a source, or of what is fed to it from `head`."""
    wanted = ["-vn", "-ac", "2", "-ar", str(sample_rate_hz), "-f", "f32le", "pipe:1"]
    place = "pipe:0" if head else source
    command = [program, "-loglevel", "error", *options, "-i", place, *wanted]
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE if head else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        if head and process.stdin:
            feeding = threading.Thread(target=_feed, args=(head, process.stdin), daemon=True)
            feeding.start()
        complaints = _Complaints(process)
        try:
            yield from _float_blocks(process, source, timeout_s)
        finally:
            process.kill()
            complaints.join()
            if losses is not None:
                losses.num_damaged += complaints.num_damaged
    if process.returncode not in (0, -9) or "Input/output error" in complaints.last:
        raise DecodeError(f"FFmpeg cannot read it ({complaints.last})", subject=source)


class _Complaints(threading.Thread):
    """What FFmpeg says on its way: its last line, and how many packets it could not decode."""

    def __init__(self, process: "subprocess.Popen[bytes]"):
        super().__init__(name="ffmpeg's errors", daemon=True)
        self.last = "no reason given"
        self.num_damaged = 0
        self._lines = process.stderr
        self.start()

    def run(self) -> None:
        """Reads until FFmpeg ends."""
        for line in self._lines or ():
            text = line.decode(errors="replace").strip()
            self.num_damaged += bool(_DAMAGED_PACKET.search(text))
            self.last = text or self.last


def _feed(source: "io.BufferedReader | Readable", target: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError), target:
        while data := source.read1(_FEED_BYTES):  # what is there, without waiting for more
            target.write(data)
            target.flush()


def _next_bytes(
    process: "subprocess.Popen[bytes]", output: IO[bytes], source: str, timeout_s: float | None
) -> bytes:
    """Reads what is there, or waits for it; no system waits for a pipe with a limit everywhere, so
    a late FFmpeg is ended.
    """
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        process.kill()

    watch = threading.Timer(timeout_s, end) if timeout_s else None
    if watch:
        watch.daemon = True
        watch.start()
    data = os.read(output.fileno(), _FRAME_BYTES * _BLOCK_SAMPLES)
    if watch:
        watch.cancel()
    if is_late.is_set():
        raise DecodeError(f"{source}: sent nothing for {timeout_s:g} s")
    return data


def _float_blocks(
    process: "subprocess.Popen[bytes]", source: str, timeout_s: float | None = None
) -> Iterator[Float32[np.ndarray, " n"]]:
    output = process.stdout
    if output is None:
        return
    any_samples = False
    rest = b""
    while data := _next_bytes(process, output, source, timeout_s):
        data = rest + data
        whole = len(data) // _FRAME_BYTES * _FRAME_BYTES
        samples = to_mono(np.frombuffer(data[:whole], "<f4").reshape(-1, 2))
        rest = data[whole:]
        if not np.isfinite(samples).all():
            raise DecodeError("contains NaN or infinite samples", subject=source)
        any_samples = any_samples or bool(len(samples))
        yield samples
    if process.wait() == 0 and not any_samples:
        raise DecodeError("holds no audio samples", subject=source)
