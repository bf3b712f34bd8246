"""Many requests, few batches: clips that arrive within a few milliseconds go through the model
together.
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32

from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.query import Query

_MAX_CLIPS = 32  # in one batch: more would make the first wait for the last


class Batcher:
    """Makes queries of clips in batches: clips that arrive while a batch is computed are the next
    batch.

    Args:
      embedder: computes the queries.
      hop_s: between fingerprints.
      window_s: how long a batch waits for clips that are on their way.
      on_their_way: returns how many more clips may come soon; if 0, a batch does not wait.
      observe: called with the number of clips of each batch.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        hop_s: float,
        window_s: float,
        on_their_way: Callable[[], int],
        observe: Callable[[int], None],
    ):
        self._embedder = embedder
        self._window_s = window_s
        self._query_many = functools.partial(embedder.query_many, hop_s=hop_s)
        self._on_their_way = on_their_way
        self._observe = observe
        self._waiting: list[tuple[np.ndarray, asyncio.Future[Query]]] = []
        self._some = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to serve; inside the event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._pool.shutdown()

    async def query(self, samples: Float32[np.ndarray, " n"]) -> Query:
        """Returns what a clip is searched by, as `Embedder.query`.

        Raises:
          AudioError: shorter than 1 s.
        """
        self._embedder.check_length(
            len(samples)
        )  # refused here, it harms no other clip of the batch
        future: asyncio.Future[Query] = asyncio.get_running_loop().create_future()
        self._waiting.append((samples, future))
        self._some.set()
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            if self._on_their_way():
                await asyncio.sleep(self._window_s)
            batch = self._waiting[:_MAX_CLIPS]
            self._waiting = self._waiting[_MAX_CLIPS:]
            if not self._waiting:
                self._some.clear()
            batch = [
                (samples, future) for samples, future in batch if not future.done()
            ]  # some were given up
            if not batch:
                continue
            self._observe(len(batch))
            try:
                found = await loop.run_in_executor(
                    self._pool, self._query_many, [clip for clip, _ in batch]
                )
            except Exception as error:  # noqa: BLE001 - raised again in every request of the batch
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), query in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(query)
