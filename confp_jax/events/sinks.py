"""Where events go: to a webhook, to a broker, to both or nowhere."""

import hashlib
import os
import pathlib
from typing import Any, Protocol

from confp_jax.database import DatabaseError
from confp_jax.events.outbox import Outbox
from confp_jax.events.webhook import Webhook

_PASSWORD = "CONFP_MQTT_PASSWORD"  # noqa: S105 - the variable's name


class Sink(Protocol):
    """Takes events; never blocks the sender."""

    def report(self, event: dict[str, Any]) -> None:
        """Takes an event: `event` is its kind."""
        ...

    def close(self) -> None:
        """Stops taking events."""
        ...


class Sinks:
    """Several sinks as one."""

    def __init__(
        self, *, webhook: str = "", secret_file: pathlib.Path | None = None, mqtt: str = ""
    ):
        """Opens those that are named.

        Raises:
          DatabaseError: a wrong address, a secret that cannot be read, or a missing package.
        """
        self._sinks: list[Sink] = []
        if webhook:
            outbox = Outbox(_queue_folder(webhook))
            self._sinks.append(Webhook(webhook, outbox, secret=_secret(secret_file)))
        if mqtt:
            try:
                from confp_jax.events.mqtt import Mqtt
            except ModuleNotFoundError as error:
                raise DatabaseError(f"{error}; install confp_jax's extra `mqtt`") from error
            self._sinks.append(Mqtt(mqtt, password=os.environ.get(_PASSWORD, "")))

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._sinks:
            sink.close()

    def report(self, event: dict[str, Any]) -> None:
        """Takes an event."""
        for sink in self._sinks:
            sink.report(event)


def _secret(file: pathlib.Path | None) -> bytes:
    if file is None:
        return b""
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise DatabaseError(f"{file}: cannot be read ({error.strerror})") from error
    if not secret:
        raise DatabaseError(f"{file}: is empty; it must hold the webhook's secret")
    return secret


def _queue_folder(address: str) -> pathlib.Path:
    """Returns where events for an address wait, the same in every run."""
    state = os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local" / "state"
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    return pathlib.Path(state) / "confp_jax" / "webhooks" / name
