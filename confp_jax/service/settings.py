"""What a service allows: limits, and what is switched on."""

import dataclasses
import os
import pathlib

NAME_FIELDS = ("name", "title", "artist", "album")
MOST_QUESTIONS = 20  # about one recording, which share its rate of false alarms
LONGEST_NAME = 300  # of a track, its artist and its album, in characters
# In a request's scope: the path that a proxy shows the service under. It is not ASGI's root_path,
# by which Starlette looks for its own files.
SHOWN_ROOT = "confp_jax.shown_root"
# The npm package, and what a page needs of it: the runtime in one thread, and its machine code.
BROWSER_PACKAGE = "onnxruntime-web@1.30"
BROWSER_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits and switches of one service; the defaults suit one machine with a few users."""

    token: str = ""  # of those who may write; "" switches writing off
    index: str = ""  # milvus://...: the fingerprints are read from there
    shared_folders: tuple[pathlib.Path, ...] = ()  # tracks below them may be played
    origins: tuple[str, ...] = ()  # other sites whose pages may ask (CORS), "*" for all
    hosts: tuple[str, ...] = ()  # names that this service answers to; () for all
    # of ONNX Runtime for the web: the page can compute fingerprints itself
    browser_runtime: pathlib.Path | None = None
    root_path: str = ""  # of the service on its site, as a proxy shows it: "/music"
    max_body_bytes: int = 32 << 20
    max_audio_s: float = 900.0
    decode_timeout_s: float = 20.0
    request_timeout_s: float = 30.0
    body_timeout_s: float = 30.0  # without any bytes of a request's body
    least_body_rate: int = 2_048  # bytes a second that a body brings after its first seconds
    header_timeout_s: float = 10.0
    send_timeout_s: float = 30.0  # without a client's reading any of what it is sent
    clip_timeout_s: float = 60.0  # for a microphone's clip to be complete
    max_running: int = 2 * (os.cpu_count() or 1)
    max_waiting: int = 64  # beyond them: 429
    workers: int = 1  # processes behind the port
    requests_per_minute: float = 0.0  # of one client, in each of the workers; 0: any
    max_listeners: int = 16
    max_connections: int = 512
    batch_window_s: float = 0.004
