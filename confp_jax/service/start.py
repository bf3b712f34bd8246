"""What `confp serve` calls: arguments to settings, a database to a service that runs."""

import functools
import math
import pathlib
import socket
from collections.abc import Callable, Sequence

from confp_jax.errors import UserError
from confp_jax.library.open import open_database, open_or_create
from confp_jax.service.addresses import host_name, plain_origin, plain_path
from confp_jax.service.settings import BROWSER_FILES, BROWSER_PACKAGE, LOOPBACK, Settings
from confp_jax.service.workers import WorkerError, serve_with_workers

_LEAST_TOKEN = 16
_MOST_BODY_MIB = 1 << 20
_MOST_AUDIO_S = 1e6
_MOST_WAITING = 1_000_000
_MOST_WORKERS = 64
_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound


class ServiceError(UserError):
    """The service cannot be started; the message says what to do."""


def settings_for(
    *,
    host: str,
    token_file: pathlib.Path | None,
    index: str = "",
    shared_folders: Sequence[pathlib.Path],
    origins: Sequence[str],
    hosts: Sequence[str],
    root_path: str,
    browser_runtime: pathlib.Path | None = None,
    max_body_mib: int,
    max_audio_s: float,
    max_waiting: int,
    workers: int = 1,
    requests_per_minute: float = 0.0,
) -> Settings:
    """Returns settings of a service at `host`: on the loopback it answers to the loopback's names
    alone.

    Args:
      host: the address to listen on.
      token_file: holds the token of those who may write; None: nobody may.
      index: a Milvus address that the fingerprints are read from; "": the database's own.
      shared_folders: whose files clients may play.
      origins: sites whose pages may use the service.
      hosts: further host names that it answers to.
      root_path: the path that a proxy gives it.
      browser_runtime: the folder of ONNX Runtime for the web; None: pages send audio.
      max_body_mib: the largest request, in MiB.
      max_audio_s: the longest recording, in seconds.
      max_waiting: how many requests may wait.
      workers: processes that serve the database.
      requests_per_minute: of one client; 0: any number.

    Raises:
      ServiceError: the token cannot be read or is too short, or an option's value is impossible.
    """
    if index and token_file:
        raise ServiceError(
            "--index reads the fingerprints from Milvus, and --token-file would add tracks to a "
            "database whose shards may not be here: serve with one of them, and add tracks with "
            "`confp add` where the database is"
        )
    settings = Settings(
        index=index,
        token=_token(token_file) if token_file else "",
        shared_folders=tuple(_shared(folder) for folder in shared_folders),
        origins=tuple(_origin(text) for text in origins),
        hosts=_hosts(host, hosts),
        root_path=_root_path(root_path),
        browser_runtime=_runtime(browser_runtime) if browser_runtime else None,
        max_body_bytes=max_body_mib << 20,
        max_audio_s=max_audio_s,
        max_waiting=max_waiting,
        workers=workers,
        requests_per_minute=requests_per_minute,
    )
    _check_limits(settings)
    return settings


def _check_limits(settings: Settings) -> None:
    if not 0 < settings.max_body_bytes <= _MOST_BODY_MIB << 20:
        raise ServiceError(f"--max-body-mib must be above 0, at most {_MOST_BODY_MIB}")
    if not 0 <= settings.max_waiting <= _MOST_WAITING:
        raise ServiceError(f"--max-waiting must lie between 0 and {_MOST_WAITING}")
    if not (math.isfinite(settings.max_audio_s) and 0 < settings.max_audio_s <= _MOST_AUDIO_S):
        raise ServiceError(f"--max-audio-s must be above 0, at most {_MOST_AUDIO_S:g}")
    if not 1 <= settings.workers <= _MOST_WORKERS:
        raise ServiceError(f"--workers {settings.workers}: expected 1 to {_MOST_WORKERS} processes")
    if not (math.isfinite(settings.requests_per_minute) and settings.requests_per_minute >= 0):
        raise ServiceError(
            f"--rate {settings.requests_per_minute}: expected requests a minute of one client, 0 "
            "for any number"
        )


def run(
    folder: pathlib.Path,
    settings: Settings,
    *,
    model: str | None,
    false_alarm_rate: float,
    host: str,
    port: int,
    started: Callable[[str], None],
) -> None:
    """Serves a database until SIGTERM or Ctrl-C; `started` is called with the address once
    requests are accepted.

    A database that is not there is made where tracks can be added.

    Raises:
      ServiceError: the extra is not installed, or the port cannot be had.
      DatabaseError: no database, another model's, or a damaged one.
    """
    try:
        from confp_jax.service.server import address, listening_socket
    except ImportError as error:
        raise ServiceError(
            f"{error.name} is not installed; install the extra: pip install 'confp-jax[serve]'"
        ) from error
    try:
        bound = listening_socket(host, port)
    except OSError as error:
        raise ServiceError(
            f"{host}:{port} cannot be served ({error.strerror}); choose another --port or --host"
        ) from error
    except UnicodeError as error:
        raise ServiceError(f"--host {host!r} is no name or address of this machine") from error
    except OverflowError as error:
        raise ServiceError(
            f"--port {port}: expected a port from 1 to 65535, or 0 for any that is free"
        ) from error
    serving = functools.partial(_serve, folder, settings, model, false_alarm_rate)
    with bound:
        if settings.workers == 1:
            serving(bound, lambda: started(address(bound)))
            return
        try:
            serve_with_workers(
                serving, bound, settings.workers, started=lambda: started(address(bound))
            )
        except WorkerError as error:
            raise ServiceError(str(error)) from error


def _serve(
    folder: pathlib.Path,
    settings: Settings,
    model: str | None,
    false_alarm_rate: float,
    bound: socket.socket,
    started: Callable[[], None],
) -> None:
    """Serves in this process."""
    from confp_jax.service.engine import Engine
    from confp_jax.service.server import serve
    from confp_jax.service.uploads import UploadError

    database, embedder = (open_or_create if settings.token else open_database)(folder, model)
    engine = Engine(database, embedder, settings=settings, false_alarm_rate=false_alarm_rate)
    try:
        serve(engine, settings, bound, started=started)
    except UploadError as error:
        raise ServiceError(str(error)) from error


def _hosts(host: str, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names that the service answers to: with any name also the loopback's and its own
    address, which no page elsewhere can point to it.
    """
    if host not in LOOPBACK and not names:
        return ()
    own = () if host in _WILDCARDS else (host.lower(),)
    return tuple(dict.fromkeys((*LOOPBACK, *own, *(_host(name) for name in names))))


def _host(text: str) -> str:
    name = host_name(text if text.count(":") < 2 or text.startswith("[") else f"[{text}]")
    if not name or any(letter in text for letter in "/@?#* \\"):
        raise ServiceError(f"--allow-host {text!r} is no host name; write it as in music.example")
    return name


def _origin(text: str) -> str:
    try:
        return plain_origin(text)
    except ValueError as error:
        raise ServiceError(
            f"--allow-origin {text!r} is no origin; write it as in https://pages.example, or *"
        ) from error


def _root_path(text: str) -> str:
    try:
        return plain_path(text)
    except ValueError as error:
        raise ServiceError(
            f"--root-path {text!r} is no path of a site; write it as in /music"
        ) from error


def _runtime(folder: pathlib.Path) -> pathlib.Path:
    missing = [name for name in BROWSER_FILES if not (folder / name).is_file()]
    if missing:
        raise ServiceError(
            f"--browser-runtime {folder}: no {missing[0]} there; name the folder dist of the npm "
            f"package {BROWSER_PACKAGE}"
        )
    return folder.resolve()


def _shared(folder: pathlib.Path) -> pathlib.Path:
    if not folder.is_dir():
        raise ServiceError(f"--share-audio {folder}: no such folder; name the one of the music")
    return folder.resolve()


def _token(file: pathlib.Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(
            f"{file} cannot be read ({error}); write the token into it as one line"
        ) from error
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ServiceError(
            f"{file} holds no token of {_LEAST_TOKEN} characters and more; make one: openssl rand "
            f"-hex 32 > {file}"
        )
    return token
