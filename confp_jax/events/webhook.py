"""Events by HTTP: signed, in order, tried again until the receiver takes them."""

import hashlib
import hmac
import http.client
import logging
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from confp_jax.database import DatabaseError
from confp_jax.events.outbox import Outbox
from confp_jax.texts import steady_json

_log = logging.getLogger(__name__)
_TIMEOUT_S = 10.0
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 300.0
_GONE = 410  # the receiver wants no more of this


class Webhook:
    """Sends events to an address from a thread of its own."""

    def __init__(self, address: str, outbox: Outbox, *, secret: bytes = b""):
        """Begins to send what waits.

        Args:
          address: receives POST with a JSON object.
          outbox: what keeps events until they are delivered.
          secret: signs each request, if it is not empty.

        Raises:
          DatabaseError: it is no address.
        """
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DatabaseError(f"{address}: is no address of a webhook; write https://host/path")
        self._address = address
        self._outbox = outbox
        self._secret = secret
        self._host = parts.hostname
        self._wakes = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def report(self, event: dict[str, Any]) -> None:
        """Queues an event; levels are no news for a webhook."""
        if event["event"] == "level":
            return
        try:
            self._outbox.put(event)
        except DatabaseError as error:
            _log.warning("an event for %s was lost: %s", self._host, error)
        self._wakes.set()

    def close(self, *, wait_s: float = 5.0) -> None:
        """Gives what waits a last chance; the rest is sent after the next start."""
        until = time.monotonic() + wait_s
        while len(self._outbox) and time.monotonic() < until and self._thread.is_alive():
            time.sleep(0.05)
        self._stop.set()
        self._wakes.set()
        self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._stop.is_set():
            waiting = self._outbox.oldest()
            if waiting is None:
                self._wakes.wait()
                self._wakes.clear()
                continue
            reason = self._send(*waiting)
            if not reason:
                self._outbox.done(waiting[0])
                wait_s = _FIRST_WAIT_S
                continue
            _log.warning("webhook %s: %s; tried again in %.0f s", self._host, reason, wait_s)
            self._stop.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _send(self, name: str, event: dict[str, Any]) -> str:
        """Sends one event; returns why it must be tried again, "" if it need not be."""
        body = steady_json(event).encode()
        moment = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "confp",
            "X-Confp-Event": str(event.get("event", "")),
            "X-Confp-Delivery": name,
            "X-Confp-Timestamp": moment,
        }
        if self._secret:
            headers["X-Confp-Signature"] = signature(self._secret, moment, body)
        request = urllib.request.Request(self._address, body, headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            return "" if error.code == _GONE else f"answered {error.code}"
        except (OSError, http.client.HTTPException) as error:
            return f"cannot be reached ({getattr(error, 'reason', None) or error})"


def signature(secret: bytes, moment: str, body: bytes) -> str:
    """Returns what a receiver compares `X-Confp-Signature` with: an HMAC of the moment of
    `X-Confp-Timestamp`, a full stop, and the body.
    """
    signed = hmac.new(secret, moment.encode() + b"." + body, hashlib.sha256)
    return f"sha256={signed.hexdigest()}"
