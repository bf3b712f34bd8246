"""What `confp serve` calls: arguments to settings, a database to a service that runs."""

import pathlib
from collections.abc import Callable, Sequence

from confp_jax.library.open import open_database, open_or_create
from confp_jax.service.settings import Settings

_LEAST_TOKEN = 16


class ServiceError(ValueError):
    """The service cannot be started; the message says what to do."""


def settings_for(
    *,
    host: str,
    token_file: pathlib.Path | None,
    share_audio: bool,
    origins: Sequence[str],
    hosts: Sequence[str],
    max_body_mib: int,
    max_audio_s: float,
    max_waiting: int,
) -> Settings:
    """Settings of a service at `host`: on the loopback it answers to the loopback's names alone.

    Raises:
      ServiceError: the token cannot be read or is too short, or a limit is not positive.
    """
    if min(max_body_mib, max_audio_s) <= 0 or max_waiting < 0:
        raise ServiceError(
            "--max-body-mib and --max-audio-s must be above 0, --max-waiting at least 0"
        )
    loopback = (
        ("127.0.0.1", "localhost", "[::1]") if host in ("127.0.0.1", "localhost", "::1") else ()
    )
    return Settings(
        token=_token(token_file) if token_file else "",
        share_audio=share_audio,
        origins=tuple(origins),
        hosts=(*loopback, *(name.lower() for name in hosts)) if loopback or hosts else (),
        max_body_bytes=max_body_mib << 20,
        max_audio_s=max_audio_s,
        max_waiting=max_waiting,
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
        from confp_jax.service.engine import Engine
        from confp_jax.service.server import address, listening_socket, serve
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
    except OverflowError as error:
        raise ServiceError(
            f"port {port} is none; choose a --port from 1 to 65535, or 0 for any that is free"
        ) from error
    with bound:
        database, embedder = (open_or_create if settings.token else open_database)(folder, model)
        engine = Engine(database, embedder, settings=settings, false_alarm_rate=false_alarm_rate)
        serve(engine, settings, bound, started=lambda: started(address(bound)))


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
