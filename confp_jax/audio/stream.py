"""Audio that is no file: standard input, and addresses on the network, by FFmpeg's program; the
microphone.
"""

import os
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError

STDIN = "-"
_SCHEMES = ("http", "https", "rtmp", "rtmps", "rtsp", "icecast", "srt", "udp", "rtp")
_BLOCK_SAMPLES = 8_000


def is_url(source: str) -> bool:
    """Whether a source is an address that FFmpeg may open; local files are decoded without it."""
    return "://" in source and urllib.parse.urlsplit(source).scheme in _SCHEMES


def stream_blocks(source: str, *, sample_rate_hz: int) -> Iterator[Float32[np.ndarray, " n"]]:
    """Standard input ("-", any format that FFmpeg knows) or an address, as mono blocks while they
    come.

    Raises:
      DecodeError: no FFmpeg, an address of another kind, or nothing that could be decoded.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise DecodeError(
            f"{source}: reading a stream needs the program ffmpeg; install it, or save the audio "
            "to a file"
        )
    if source != STDIN and not is_url(source):
        raise DecodeError(f"{source}: not an address of a stream; use one of {', '.join(_SCHEMES)}")
    wanted = ["-vn", "-ac", "1", "-ar", str(sample_rate_hz), "-f", "f32le", "pipe:1"]
    command = [
        program,
        "-loglevel",
        "error",
        "-i",
        "pipe:0" if source == STDIN else source,
        *wanted,
    ]
    with tempfile.TemporaryFile() as errors:
        stdin = None if source == STDIN else subprocess.DEVNULL
        with subprocess.Popen(  # noqa: S603
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            try:
                yield from _float_blocks(process, source)
            finally:
                process.kill()
        if process.returncode not in (0, -9):
            errors.seek(0)
            reason = (
                errors.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            )[-1]
            raise DecodeError(f"{source}: FFmpeg cannot read it ({reason})")


def _float_blocks(
    process: "subprocess.Popen[bytes]", source: str
) -> Iterator[Float32[np.ndarray, " n"]]:
    output = process.stdout
    if output is None:
        return
    any_samples, rest = False, b""
    while data := os.read(output.fileno(), 4 * _BLOCK_SAMPLES):
        data = rest + data
        whole = len(data) // 4 * 4
        samples, rest = np.frombuffer(data[:whole], "<f4"), data[whole:]
        if not np.isfinite(samples).all():
            raise DecodeError(f"{source}: contains NaN or infinite samples")
        any_samples = any_samples or bool(len(samples))
        yield samples
    if process.wait() == 0 and not any_samples:
        raise DecodeError(f"{source}: holds no audio samples")
