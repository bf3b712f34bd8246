"""What answers: the searcher of the moment, the model in batches, the decoders, and the one
writer.
"""

import asyncio
import dataclasses
import functools
import logging
import os
import pathlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int8

from confp_jax.database import Database, ModelId, NewTrack, StoredTrack
from confp_jax.database.catalogue import ChangeWatch
from confp_jax.database.records import BusyError
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.query import Query, joined
from confp_jax.fingerprint.query_rows import QueryRows
from confp_jax.library.add import add_track
from confp_jax.library.live import LiveDatabase, LoadedDatabase
from confp_jax.library.searcher import SearchResult
from confp_jax.service.batching import Batcher
from confp_jax.service.decoding import Decoded, DecodePool, DecoderGoneError
from confp_jax.service.metrics import Metrics
from confp_jax.service.settings import Settings
from confp_jax.service.sharing import TrackFiles

_log = logging.getLogger(__name__)
_WATCH_S = 1.0
# for other workers that write
_PATIENCE_S = 10.0
_BUSY_S = 0.02
State = Literal["preparing", "ready", "failed", "reindexed", "without decoders"]
_BATCHED_S = 13.5  # longer recordings are encoded by themselves, in parts


@dataclasses.dataclass(frozen=True)
class Identification:
    """What was found in one recording, and what it was found with; its samples stay with a client
    that computes the fingerprints itself.
    """

    view: LoadedDatabase
    samples: Float32[np.ndarray, " n"] | None
    length_s: float
    query: Query
    result: SearchResult


class Engine:
    """A database that is served. `start` and all coroutines belong to one event loop."""

    def __init__(
        self,
        database: Database,
        embedder: Embedder,
        *,
        settings: Settings,
        false_alarm_rate: float | None = None,
    ):
        """Opens the index; the model is compiled by `start`.

        Raises:
          DatabaseError: a shard is missing or damaged, or the database is another model's.
        """
        self._database = database
        self._embedder = embedder
        self._model = ModelId(embedder.name, embedder.weights_hash, database.model_id.hop_s)
        self.live = LiveDatabase(
            database, embedder, false_alarm_rate=false_alarm_rate, remote=settings.index
        )
        self.metrics = Metrics()
        self.files = TrackFiles(settings.shared_folders)
        self._state: State = "preparing"
        self._decoding = 0
        self._decoders = DecodePool(
            sample_rate_hz=embedder.sample_rate_hz,
            max_audio_s=settings.max_audio_s,
            timeout_s=settings.decode_timeout_s,
        )
        self._batcher = Batcher(
            embedder,
            hop_s=self.view.searcher.reference.hop_s,
            window_s=settings.batch_window_s,
            on_their_way=lambda: self._decoding,
            observe=self.metrics.batch,
        )
        self._searching = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="search")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._monitoring = ThreadPoolExecutor(settings.max_listeners, thread_name_prefix="monitor")
        self._tasks: list[asyncio.Task[None]] = []
        self._patience_s = _PATIENCE_S if settings.workers > 1 else 0.0
        self._watch_others = ChangeWatch(database.catalogue) if settings.workers > 1 else None
        self._looking: asyncio.Future[None] | None = None
        self.metrics.watch(
            "tracks", "Tracks that can be identified.", lambda: len(self.view.tracks)
        )
        self.metrics.watch(
            "fingerprints",
            "Fingerprints that are searched.",
            lambda: len(self.view.searcher.reference.snapshot.vectors),
        )

    @property
    def state(self) -> State:
        """Returns whether it can answer, or what keeps it from that."""
        if self.live.outdated is not None:
            return "reindexed"
        if self._state == "ready" and not self._decoders.is_usable:
            return "without decoders"
        return self._state

    @property
    def embedder(self) -> Embedder:
        """The model."""
        return self._embedder

    @property
    def view(self) -> LoadedDatabase:
        """Returns the newest state of the database."""
        return self.live.view

    @property
    def sample_rate_hz(self) -> int:
        """The model's rate."""
        return self._embedder.sample_rate_hz

    async def start(self) -> None:
        """Begins to prepare; `state` shows when all is compiled."""
        self._batcher.start()
        self._tasks = [asyncio.create_task(self._prepare()), asyncio.create_task(self._watch())]

    async def close(self) -> None:
        """Waits for a write under way, and ends what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.live.settle)
        await asyncio.to_thread(self._writer.shutdown)
        await self._batcher.close()
        await self._decoders.close()
        self._searching.shutdown()
        if self._watch_others is not None:
            self._watch_others.close()
        self._monitoring.shutdown(wait=False)

    async def decode(
        self,
        path: pathlib.Path,
        *,
        start_s: float = 0.0,
        length_s: float = 0.0,
        with_tags: bool = False,
    ) -> Decoded:
        """Returns samples at the model's rate.

        Raises:
          DecodeError: as in `DecodePool.decode`.
        """
        self._decoding += 1
        try:
            return await self._decoders.decode(
                path, start_s=start_s, length_s=length_s, with_tags=with_tags
            )
        except DecoderGoneError:
            self.metrics.decoder_lost()
            raise
        finally:
            self._decoding -= 1

    async def fingerprint(self, samples: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, "N E"]:
        """Returns the fingerprints of a recording that is to be stored, as `confp add` makes them.

        Raises:
          AudioError: shorter than 1 s.
        """
        self._embedder.check_length(len(samples))
        return await self.in_thread(self._stored, samples)

    async def query(self, samples: Float32[np.ndarray, " n"]) -> Query:
        """Returns what a recording is searched by.

        Raises:
          AudioError: shorter than 1 s.
        """
        if len(samples) <= _BATCHED_S * self.sample_rate_hz:
            return await self._batcher.query(samples)
        return await self.in_thread(self._long_query, samples)

    async def identify(self, samples: Float32[np.ndarray, " n"]) -> Identification:
        """Returns what sounds in a recording.

        Raises:
          AudioError: shorter than 1 s, or silent.
        """
        return await self.search(await self.query(samples), samples)

    def rows_of(self, num_samples: int) -> QueryRows:
        """Returns which vectors of a clip a client must send that computes them itself.

        Raises:
          AudioError: shorter than 1 s.
        """
        self._embedder.check_length(num_samples)
        hop_s = self.view.searcher.reference.hop_s
        return QueryRows(num_samples, self._embedder.config, hop_s)

    async def identify_rows(
        self, wanted: QueryRows, rows: Int8[np.ndarray, "R E"], *, alarm_budget: float = 1.0
    ) -> Identification:
        """Identifies by vectors that a client computed; `alarm_budget` as in `Searcher.search`.

        Raises:
          AudioError: silent.
        """
        query = await self.in_thread(wanted.query, rows)
        return await self.search(query, num_samples=wanted.num_samples, alarm_budget=alarm_budget)

    async def search(
        self,
        query: Query,
        samples: Float32[np.ndarray, " n"] | None = None,
        *,
        num_samples: int = 0,
        alarm_budget: float = 1.0,
    ) -> Identification:
        """Identifies by a query that was made before.

        Args:
          query: what is searched.
          samples: of the recording, where they are here.
          num_samples: how many there are elsewhere.
          alarm_budget: as in `Searcher.search`.

        Raises:
          AudioError: silent.
        """
        view = self.view
        result = await self.in_thread(
            functools.partial(view.searcher.search, [query], alarm_budget=alarm_budget)
        )
        length_s = (num_samples if samples is None else len(samples)) / self.sample_rate_hz
        return Identification(view, samples, length_s, query, result)

    async def in_thread(self, call, *arguments):
        """Runs what takes long beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._searching, call, *arguments)

    def start_monitor(self, run: Callable[[], None]) -> asyncio.Future[None]:
        """Runs what lasts as long as a connection: each listener that is allowed has a thread of
        its own.
        """
        return asyncio.get_running_loop().run_in_executor(self._monitoring, run)

    async def add(self, track: NewTrack) -> tuple[StoredTrack, bool]:
        """Adds a track, as `add_track`; when this returns it is on the disk and every later query
        can find it.

        Raises:
          OtherModelError: the database was reindexed meanwhile.
          DatabaseError: another process is writing, or the disk is full.
        """
        added = await self._write(
            functools.partial(add_track, self._database, track, model=self._model)
        )
        self.live.build_index()
        return added

    async def remove(self, number: int) -> None:
        """Removes a track; when this returns no later query finds it.

        Raises:
          DatabaseError: as in `add`.
        """
        await self._write(functools.partial(self._remove, number))

    async def rename(self, number: int, names: dict[str, str]) -> StoredTrack | None:
        """Gives a track other names; returns it as it is then, None where it has gone.

        Raises:
          DatabaseError: as in `add`.
        """
        return await self._write(functools.partial(self._rename, number, names))

    async def _write(self, change):
        """One change and the view after it, to their end: also where the client has gone."""

        def run():
            with self.live.changing():
                return self._when_free(change)

        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, run))

    def _when_free(self, change):
        """Makes a change, once the other workers have made theirs."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return change()
            except BusyError:
                if time.monotonic() >= until:
                    raise
                time.sleep(_BUSY_S)

    async def see_changes(self) -> None:
        """Returns when all that another worker had committed is in the view."""
        if self._watch_others is None:
            return
        if self._watch_others.has_changed():
            loop = asyncio.get_running_loop()
            self._looking = loop.run_in_executor(self._writer, self.live.look)
        if self._looking is not None and not self._looking.done():
            await asyncio.shield(self._looking)

    def _remove(self, number: int) -> None:
        with self._database.writing():
            self._database.remove([number])

    def _rename(self, number: int, names: dict[str, str]) -> StoredTrack | None:
        with self._database.writing():
            self._database.rename(number, names)
        return self._database.track(number)

    def _stored(self, samples: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, "N E"]:
        hop_s = self.view.searcher.reference.hop_s
        parts = self._embedder.fingerprint_stream([samples], hop_s=hop_s)
        return np.concatenate([part.vectors for part in parts])

    def _long_query(self, samples: Float32[np.ndarray, " n"]) -> Query:
        hop_s = self.view.searcher.reference.hop_s
        return joined(list(self._embedder.stream([samples], hop_s=hop_s)))

    async def _prepare(self) -> None:
        began = time.perf_counter()
        try:
            await asyncio.gather(asyncio.to_thread(self._embedder.warm_up), self._decoders.start())
        except Exception:  # noqa: BLE001 - shown by /readyz and in the log
            _log.exception("the service cannot become ready; restart it when the reason is gone")
            self._state = "failed"
            return
        if self._state == "preparing":
            self._state = "ready"
        _log.info("ready after %.1f s", time.perf_counter() - began)

    async def _watch(self) -> None:
        """Follows what other processes add, remove and calibrate."""
        loop = asyncio.get_running_loop()
        reported = ""
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                await loop.run_in_executor(self._writer, self.live.look)
                outdated = repr(self.live.outdated or "")
                if self.live.outdated is not None and outdated != reported:
                    _log.error("restart the service: %s", self.live.outdated)
                reported = outdated
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look may succeed
                if repr(error) != reported:  # not once a second
                    _log.exception(
                        "the database cannot be read; what was read before is still served"
                    )
                reported = repr(error)
