"""What a service allows: limits, and what is switched on."""

import dataclasses
import os

NAME_FIELDS = ("name", "title", "artist", "album")
LONGEST_NAME = 300  # of a track, its artist and its album, in characters


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits and switches of one service; the defaults suit one machine with a few users."""

    token: str = ""  # of those who may write; "" switches writing off
    share_audio: bool = False  # whether the tracks' own files may be played
    origins: tuple[str, ...] = ()  # other sites whose pages may ask (CORS), "*" for all
    hosts: tuple[str, ...] = ()  # names that this service answers to; () for all
    max_body_bytes: int = 32 << 20
    max_audio_s: float = 900.0
    decode_timeout_s: float = 20.0
    request_timeout_s: float = 30.0
    body_timeout_s: float = 30.0  # for a request's body to arrive
    header_timeout_s: float = 10.0
    send_timeout_s: float = (
        30.0  # for a client to read what it is sent: a part of a file, or a whole answer
    )
    clip_timeout_s: float = 60.0  # for a microphone's clip to be complete
    max_running: int = 2 * (os.cpu_count() or 1)
    max_waiting: int = 64  # beyond them: 429
    max_listeners: int = 16
    max_connections: int = 512
    batch_window_s: float = 0.004
