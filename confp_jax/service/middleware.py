"""Around every request: the host that was meant, headers for browsers, CORS, errors as problems,
and what is counted.
"""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from confp_jax.service.metrics import Metrics
from confp_jax.service.problems import Problem, failed
from confp_jax.service.settings import Settings

_log = logging.getLogger(__name__)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_ALLOWED = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
}


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics):
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.perf_counter(), 0
        headers = Headers(scope=scope)
        cors = self._cors(headers.get("origin"))

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS | cors)
            await send(message)

        try:
            if self._is_foreign(headers):
                await self._refusal().response()(scope, receive, sending)
            elif scope["method"] == "OPTIONS" and cors:
                await Response(status_code=204, headers=_ALLOWED)(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
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
        name = (
            headers.get("host", "").rsplit(":", 1)[0]
            if not headers.get("host", "").endswith("]")
            else headers["host"]
        )
        return bool(self._settings.hosts) and name.lower() not in self._settings.hosts

    def _is_cross_site(self, headers: Headers) -> bool:
        """Browsers let any page open a WebSocket anywhere, and say where the page is from."""
        origin = headers.get("origin")
        own = origin is None or origin.partition("://")[2] == headers.get("host")
        return not own and not self._cors(origin)

    def _cors(self, origin: str | None) -> dict[str, str]:
        if origin is None or not ({origin, "*"} & set(self._settings.origins)):
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


def _route(scope: MutableMapping[str, Any]) -> str:
    """The pattern, never the path: a client must not be able to make labels."""
    endpoint = scope.get("endpoint")
    return getattr(endpoint, "__name__", "page").strip("_") if endpoint else "other"


def _method(scope: MutableMapping[str, Any]) -> str:
    return (
        scope["method"]
        if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
        else "other"
    )
