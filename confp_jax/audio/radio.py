"""A radio station's stream with the titles that it sends beside the sound (Icecast, SHOUTcast)."""

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError
from confp_jax.audio.stream import connected_blocks

_TIMEOUT_S = 20.0
_TITLE = re.compile(rb"StreamTitle='(.*?)';(?=$|\x00|Stream)", re.DOTALL)
_PLAYLISTS = ("mpegurl", "scpls", "xspf", "asx")


def station_blocks(
    address: str,
    *,
    sample_rate_hz: int,
    on_title: Callable[[str], None],
    timeout_s: float = _TIMEOUT_S,
) -> Iterator[Float32[np.ndarray, " n"]]:
    """Yields the mono blocks of one connection to a station, until it breaks off.

    Args:
      address: the stream's.
      sample_rate_hz: of the blocks.
      on_title: called with each title that the station sends.
      timeout_s: how long nothing may come.

    Raises:
      DecodeError: it cannot be reached, breaks off, or sends nothing.
    """
    head = None
    if address.startswith(("http://", "https://")):
        head = _icy_reply(address, on_title, timeout_s)
    yield from connected_blocks(
        address, sample_rate_hz=sample_rate_hz, head=head, timeout_s=timeout_s
    )
    raise DecodeError(f"{address}: the stream was closed")


def _icy_reply(
    address: str, on_title: Callable[[str], None], timeout_s: float
) -> "_WithoutTitles | None":
    """Returns the sound of a stream that has titles in it; None of another one."""
    request = urllib.request.Request(address, headers={"Icy-MetaData": "1"})  # noqa: S310
    try:
        reply = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
    except http.client.BadStatusLine:  # SHOUTcast 1: FFmpeg knows it
        return None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DecodeError(f"{address}: cannot be reached ({reason})") from error
    interval = reply.headers.get("icy-metaint", "")
    kind = reply.headers.get("content-type", "").lower()
    if not interval.isdecimal() or int(interval) == 0 or any(name in kind for name in _PLAYLISTS):
        reply.close()
        return None
    return _WithoutTitles(reply, int(interval), on_title)


class _WithoutTitles:
    """A stream's sound: every `interval` bytes a title stands in it."""

    def __init__(
        self,
        reply: http.client.HTTPResponse,
        interval: int,
        on_title: Callable[[str], None],
    ):
        self._reply = reply
        self._interval = interval
        self._left = interval
        self._on_title = on_title

    def read1(self, size: int, /) -> bytes:
        """Returns bytes of sound that are there, none at the end."""
        if not self._left:
            self._read_title()
            self._left = self._interval
        data = self._reply.read1(min(size, self._left))
        self._left -= len(data)
        return data

    def _read_title(self) -> None:
        length = self._reply.read(1)
        text = self._reply.read(16 * length[0]) if length else b""
        match = _TITLE.search(text)
        if match:
            self._on_title(_decoded(match[1]))


def _decoded(text: bytes) -> str:
    """Returns a title; stations that do not send UTF-8 send Latin-1."""
    try:
        return text.decode().strip()
    except UnicodeDecodeError:
        return text.decode("latin-1").strip()
