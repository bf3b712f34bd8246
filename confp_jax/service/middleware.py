"""Around every request: the host that was meant, headers for browsers, CORS, errors as problems,
and what is counted.
"""

import asyncio
import logging
import time
from collections.abc import MutableMapping
from typing import Any

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from confp_jax.service.addresses import host_name, origin_host, plain_origin, plain_path
from confp_jax.service.engine import Engine
from confp_jax.service.metrics import Metrics
from confp_jax.service.problems import Problem, failed
from confp_jax.service.settings import SHOWN_ROOT, Settings

_log = logging.getLogger(__name__)
_POLICY = (
    "default-src 'none'; script-src 'self'{}; style-src 'self'; connect-src 'self'; img-src 'self' "
    "data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The one script that may run WebAssembly: a worker has the policy of its own response.
_RUNS_WASM = "/page/local-worker.js"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_ALLOWED = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
}


_MAX_UNREAD_BYTES = 256 << 20  # of a refused body, read so that the client sees the refusal
_UNREAD_IDLE_S = 10.0
_UNREAD_S = 300.0
_MAX_REPORTED = 20  # refused origins that the log names


class _Body:
    """A request's body, of which it is known how much of it was not read."""

    def __init__(self, scope: Scope, receive: Receive):
        headers = Headers(scope=scope)
        self._receive = receive
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        # Who waits for "100 Continue" sends no body after a refusal.
        self._is_unread = has_body and headers.get("expect", "").lower() != "100-continue"

    @property
    def is_unread(self) -> bool:
        """Returns whether the client may still be sending."""
        return self._is_unread

    async def receive(self) -> Message:
        """Returns the next message of the connection."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._is_unread = False
        return message

    async def discard(self) -> None:
        """Reads what is left, within bounds: a connection that is closed while the client sends
        is reset, and the answer lost.
        """
        num_bytes = 0
        try:
            async with asyncio.timeout(_UNREAD_S):
                while self._is_unread and num_bytes < _MAX_UNREAD_BYTES:
                    async with asyncio.timeout(_UNREAD_IDLE_S):
                        num_bytes += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics):
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._hosts = {host_name(name) for name in settings.hosts}
        self._reported: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or connection."""
        if scope["type"] != "lifespan":
            scope[SHOWN_ROOT] = self._root_path(Headers(scope=scope))
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status = 0
        headers = Headers(scope=scope)
        cors = self._cors(headers.get("origin"))
        body = _Body(scope, receive)
        receive = body.receive

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS | _policy(scope) | cors)
            elif body.is_unread and status != 408 and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.discard()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            if self._is_foreign(headers):
                await self._refusal().response()(scope, receive, sending)
            elif scope["method"] == "OPTIONS" and cors:
                await Response(status_code=204, headers=_ALLOWED)(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        except h11.LocalProtocolError:  # its sender broke off the protocol, and has its answer
            _log.info("a client broke HTTP's rules; its connection is closed")
        except Exception:
            _log.exception("a request failed")
            if status:  # too late to say so
                raise
            await failed().response()(scope, receive, sending)
        finally:
            elapsed_s = time.perf_counter() - began
            self._metrics.request(
                route=_route(scope), method=_method(scope), status=status, elapsed_s=elapsed_s
            )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if self._is_foreign(headers) or self._is_cross_site(headers):
            await receive()
            await send(
                {"type": "websocket.close", "code": 1008}
            )  # before it is accepted: the client sees 403
            return
        await self._app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        """A page elsewhere may point a name of its own to this machine: only the service's own
        names count.
        """
        return bool(self._hosts) and host_name(headers.get("host", "")) not in self._hosts

    def _is_cross_site(self, headers: Headers) -> bool:
        """Browsers let any page open a WebSocket anywhere, and say where the page is from.

        Proxies change Host; X-Forwarded-Host can be believed here, because a page cannot set it.
        """
        origin = headers.get("origin")
        if origin is None or self._cors(origin):
            return False
        named = (headers.get("host", ""), headers.get("x-forwarded-host", "").partition(",")[0])
        own = {*self._hosts, *map(host_name, named)} - {""}
        if origin_host(origin) in own:
            return False
        self._report(origin)
        return True

    def _report(self, origin: str) -> None:
        """Logs a refused page once."""
        if origin not in self._reported and len(self._reported) < _MAX_REPORTED:
            self._reported.add(origin)
            _log.warning(
                "a page of %r was refused the microphone; if it is this service's own page, start "
                "it with --allow-host NAME, if it is another site's, with --allow-origin URL",
                origin[:200],
            )

    def _root_path(self, headers: Headers) -> str:
        """Returns the path below which a proxy shows the service."""
        if self._settings.root_path:
            return self._settings.root_path
        try:
            return plain_path(headers.get("x-forwarded-prefix", ""))
        except ValueError:
            return ""

    def _cors(self, origin: str | None) -> dict[str, str]:
        if origin is None:
            return {}
        try:
            asked = plain_origin(origin)
        except ValueError:  # "null" and what is none
            asked = origin
        if not ({asked, "*"} & set(self._settings.origins)):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Vary": "Origin",
            "Cross-Origin-Resource-Policy": "cross-origin",
        }

    def _refusal(self) -> Problem:
        return Problem(
            421,
            "this service does not answer to that host name",
            "use its own address, or start it with --allow-host",
        )


def _policy(scope: Scope) -> dict[str, str]:
    may_run = " 'wasm-unsafe-eval'" if scope["path"] == _RUNS_WASM else ""
    return {"Content-Security-Policy": _POLICY.format(may_run)}


class SeeingChanges:
    """Lets every request see what another worker has just written."""

    def __init__(self, app: ASGIApp, *, engine: Engine):
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or connection."""
        if scope["type"] != "lifespan":
            await self._engine.see_changes()
        await self._app(scope, receive, send)


def _route(scope: MutableMapping[str, Any]) -> str:
    """Returns the pattern, never the path: a client must not be able to make labels."""
    endpoint = scope.get("endpoint")
    return getattr(endpoint, "__name__", "page").strip("_") if endpoint else "other"


def _method(scope: MutableMapping[str, Any]) -> str:
    return (
        scope["method"]
        if scope["method"] in ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")
        else "other"
    )
