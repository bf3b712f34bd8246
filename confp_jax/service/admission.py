"""How many requests run at once, and how many may wait; the next one is told to come back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from confp_jax.service.problems import busy


class Gate:
    """`max_running` requests inside, `max_waiting` before the door."""

    def __init__(self, *, max_running: int, max_waiting: int):
        self._limit = max_running + max_waiting
        self._running = asyncio.Semaphore(max_running)
        self.num_inside = 0  # running and waiting

    def check(self) -> None:
        """Refuses what would have to wait too long, before its body is read.

        Raises:
          Problem: 429.
        """
        if self.num_inside >= self._limit:
            raise busy(
                f"{self._limit} requests are being answered or are waiting, which is all that this "
                "service allows"
            )

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Waits for its turn.

        Raises:
          Problem: 429.
        """
        self.check()
        self.num_inside += 1
        try:
            async with self._running:
                yield
        finally:
            self.num_inside -= 1
