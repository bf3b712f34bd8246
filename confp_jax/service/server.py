"""The web server: sockets, time limits on connections, and a shutdown that finishes what runs."""

import asyncio
import logging
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from confp_jax.service.app import Service
from confp_jax.service.engine import Engine
from confp_jax.service.settings import Settings

_HEADER_BYTES = 16_384
_MESSAGE_BYTES = 1 << 20  # of a WebSocket
_SHUTDOWN_S = 30
_LEAST_READ_BYTES = 4_096  # in `send_timeout_s`, by a client that is slow but reads


def listening_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound; port 0 is any free one.

    Raises:
      OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=512)


def address(bound: socket.socket) -> str:
    """Returns the socket's address for a browser."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    engine: Engine, settings: Settings, bound: socket.socket, *, started: Callable[[], None]
) -> None:
    """Serves until it is stopped (SIGTERM, Ctrl-C), then finishes what runs."""
    config = uvicorn.Config(
        Service(engine, settings).application(),
        loop="asyncio",  # the decoders are started by it: uvloop would fork beside JAX's threads
        http=_timed_protocol(settings),
        ws=_listening_protocol(settings),
        ws_max_size=_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # a thousandth of the bytes would fill the memory
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_keep_alive=round(settings.header_timeout_s),
        timeout_graceful_shutdown=_SHUTDOWN_S,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    Server(config).run(sockets=[bound])


class _BoundedWrites(asyncio.Protocol):
    """Hangs up on a client that does not read: uvicorn would keep the connection, and what is to be
    sent, for ever.
    """

    send_timeout_s: float
    _unsent: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(
            high=0
        )  # so that the first byte that the system does not take is noticed

    def pause_writing(self) -> None:
        """The timer runs from there until all has been taken, also where the connection is closed
        meanwhile.
        """
        super().pause_writing()
        self._await_reading()

    def _await_reading(self) -> None:
        """Hangs up where the client takes nothing for a while; what is slow but steady is kept."""
        before = self._transport.get_write_buffer_size()

        def look() -> None:
            if self._transport.get_write_buffer_size() <= before - _LEAST_READ_BYTES:
                self._await_reading()
            else:
                self._transport.abort()

        self._unsent = asyncio.get_running_loop().call_later(self.send_timeout_s, look)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _forget(self) -> None:
        if self._unsent is not None:
            self._unsent.cancel()
            self._unsent = None


def _listening_protocol(settings: Settings) -> type[asyncio.Protocol]:
    class ListeningProtocol(_BoundedWrites, WebSocketsSansIOProtocol):
        send_timeout_s = settings.send_timeout_s

    return ListeningProtocol


def _timed_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """HTTP with what uvicorn leaves open: a client that connects and sends its headers slowly, or
    never, is hung up on.
    """

    class TimedProtocol(_BoundedWrites, H11Protocol):
        send_timeout_s = settings.send_timeout_s
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            # asyncio does so for sockets that say they are TCP, which a listening one does not: an
            # answer would wait for the
            # client's delayed acknowledgement of its headers, 40 ms.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if len(self.connections) > settings.max_connections:
                transport.close()
                return
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._await_headers()

        def _await_headers(self) -> None:
            """The timer runs from the end of one request to the end of the next one's headers,
            however many bytes come.
            """
            serving = self.cycle is not None and not self.cycle.response_complete
            if serving or self.transport.is_closing() or self.transport.get_protocol() is not self:
                self._stop_timer()
            elif self._timer is None:
                self._timer = self.loop.call_later(settings.header_timeout_s, self._hang_up)

        def _hang_up(self) -> None:
            self._timer = None
            serving = self.cycle is not None and not self.cycle.response_complete
            if not serving and self.transport.get_protocol() is self:
                self.transport.close()

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return TimedProtocol
