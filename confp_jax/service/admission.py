"""How many requests run at once, whose turn it is, and how often a client may ask; the next one is
asked to come back.
"""

import asyncio
import collections
import contextlib
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Callable

from confp_jax.service.problems import Problem, busy

_MOST_CLIENTS = 10_000  # whose rate is remembered
_BURST_S = 10.0  # a client that was silent may ask at once what it may ask in this time
_IPV6_NETWORK = 64  # bits of an address: one subscriber has all below it


def client_of(host: str) -> str:
    """Returns who asks, by a connection's address: of IPv6 its network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))


class RateLimit:
    """How often a client may ask: `per_minute` on average, 0 for any.

    Args:
      clock: seconds that never go back.
    """

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = time.monotonic):
        self._per_s = per_minute / 60
        self._clock = clock
        self._most = max(1.0, self._per_s * _BURST_S)
        self._left: dict[str, tuple[float, float]] = {}  # requests, and when that was so

    def check(self, client: str) -> None:
        """Counts a request.

        Raises:
          Problem: 429, with the seconds after which it may come again.
        """
        if not self._per_s:
            return
        left = self._now(client)
        if left < 1:
            wait_s = math.ceil((1 - left) / self._per_s)
            raise Problem(
                429,
                f"more than {60 * self._per_s:g} requests a minute came from {client}",
                f"ask again in {wait_s} s",
                headers={"Retry-After": str(wait_s)},
            )
        if client not in self._left and len(self._left) >= _MOST_CLIENTS:
            self._left = {one: at for one, at in self._left.items() if self._now(one) < self._most}
        self._left[client] = left - 1, self._clock()

    def _now(self, client: str) -> float:
        left, since = self._left.get(client, (self._most, self._clock()))
        return min(self._most, left + (self._clock() - since) * self._per_s)


class Gate:
    """`max_running` requests inside, `max_waiting` before the door.

    Clients that wait have their turns one after the other, however many requests each has; a full
    queue takes another client as long as one has several requests in it.
    """

    def __init__(self, *, max_running: int, max_waiting: int):
        self._max_running = max_running
        self._limit = max_running + max_waiting
        self._num_running = 0
        self._waiting: collections.OrderedDict[str, collections.deque[asyncio.Future[None]]] = (
            collections.OrderedDict()
        )

    @property
    def num_inside(self) -> int:
        """Returns how many run and wait."""
        queues = self._waiting.values()
        return self._num_running + sum(not turn.done() for queue in queues for turn in queue)

    def check(self, client: str = "") -> None:
        """Refuses what would have to wait too long, before its body is read.

        Raises:
          Problem: 429.
        """
        if self.num_inside >= self._limit and self._who_gives_way(client) is None:
            raise self._full()

    @contextlib.asynccontextmanager
    async def enter(self, client: str = "") -> AsyncIterator[None]:
        """Waits for its turn.

        Raises:
          Problem: 429.
        """
        self.check(client)
        if self.num_inside >= self._limit and (other := self._who_gives_way(client)) is not None:
            self._waiting[other].pop().set_exception(self._full())
            self._forget_given_up()
        if self._num_running < self._max_running:
            self._num_running += 1
        else:
            await self._turn(client)
        try:
            yield
        finally:
            self._leave()

    async def _turn(self, client: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave()  # it was its turn just now
            else:
                self._forget_given_up()
            raise

    def _forget_given_up(self) -> None:
        """Takes what was cancelled out of the queues: its own task may not have run since."""
        for client, queue in list(self._waiting.items()):
            left = collections.deque(turn for turn in queue if not turn.done())
            if left:
                self._waiting[client] = left
            else:
                del self._waiting[client]

    def _leave(self) -> None:
        self._num_running -= 1
        self._forget_given_up()
        if self._waiting:
            client, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            self._waiting.move_to_end(client)
            if not queue:
                del self._waiting[client]
            self._num_running += 1
            turn.set_result(None)

    def _who_gives_way(self, client: str) -> str | None:
        """Returns whose newest request goes: of the client with the longest queue, if it is so much
        longer that this client may have its place.
        """
        self._forget_given_up()
        longest = max(self._waiting, key=lambda one: len(self._waiting[one]), default="")
        own = len(self._waiting.get(client, ()))
        return longest if len(self._waiting.get(longest, ())) > own + 1 else None

    def _full(self) -> Problem:
        return busy(
            f"{self._limit} requests are being answered or are waiting, which is all that this "
            "service allows"
        )
