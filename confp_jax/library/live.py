"""A database that is searched while it changes: the searcher of the moment, one change at a time,
and an index that is built beside both.

The Python API, the service, `confp monitor` and the radio share it.
"""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from confp_jax.database import Database, DatabaseError, OtherModelError
from confp_jax.database.tracks import TracksById
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.index.background_build import built_in_background, is_due
from confp_jax.library.monitor import ALARMS_PER_HOUR, Moment, moments
from confp_jax.library.open import CALIBRATION_SETTING
from confp_jax.library.searcher import Match, Searcher

_log = logging.getLogger(__name__)
_LOOK_S = 10.0
_LEAST_PART_S = 30.0  # of a stream that is searched in one view: what plays ends with it


@dataclasses.dataclass(frozen=True)
class LoadedDatabase:
    """The database at one moment, with its tracks by id."""

    searcher: Searcher
    tracks: TracksById


class LiveDatabase:
    """A database, its model, and what it holds now: `view`.

    Any number of threads may read `view`; a search keeps the view that it began with.
    """

    def __init__(
        self,
        database: Database,
        embedder: Embedder,
        *,
        false_alarm_rate: float | None = None,
        remote: str = "",
    ):
        """Opens the index, and builds it where there is none.

        Args:
          database: the database.
          embedder: its model.
          false_alarm_rate: of the searchers; default 0.001.
          remote: the address of a search server that is used instead of the database's own.

        Raises:
          DatabaseError: a shard is missing or damaged, or the database is another model's.
        """
        self.database = database
        self.embedder = embedder
        self.outdated: OtherModelError | None = None
        self._options: dict[str, Any] = {"false_alarm_rate": false_alarm_rate, "remote": remote}
        self._changing = threading.Lock()
        self._starting = threading.Lock()
        self._builder: threading.Thread | None = None
        self._seen = self._stamp()
        self.view = self.load(build_index=True)

    @property
    def sample_rate_hz(self) -> int:
        """Returns the rate of the audio that is searched."""
        return self.embedder.sample_rate_hz

    def load(self, *, build_index: bool) -> LoadedDatabase:
        """Returns the database as it is now; builds an index that is due only if it may."""
        searcher = Searcher(self.database, self.embedder, build_index=build_index, **self._options)
        return LoadedDatabase(searcher, TracksById(searcher.reference.snapshot.tracks))

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Makes one change at a time; after it, the view has what is there then."""
        with self._changing:
            try:
                yield
            finally:
                self._renew(build_index=False)

    def refresh(self) -> None:
        """Loads what is there now, with an index."""
        with self._changing:
            self._renew(build_index=True)

    def look(self) -> None:
        """Loads what other processes have added, removed or calibrated since the last time.

        Raises:
          DatabaseError: it cannot be read; the view stays, and the next look tries again.
        """
        with self._changing:
            if self._stamp() != self._seen:
                self._renew(build_index=False)

    def follow(self, stop: threading.Event) -> None:
        """Looks every few seconds, until `stop` is set or there is another model's database."""
        while not (stop.wait(_LOOK_S) or self.outdated):
            try:
                self.look()
                trouble: Exception | None = self.outdated
            except (DatabaseError, OSError) as error:
                trouble = error
            if trouble is not None:
                _log.warning("%s; what was read before is still searched", trouble)

    def build_index(self) -> None:
        """Starts a thread that builds the index if it is due; neither searches nor changes wait
        for it, and a kill loses nothing.
        """
        with self._starting:
            before = self._builder
            self._builder = threading.Thread(
                target=self._build, args=(before,), name="build index", daemon=True
            )
            self._builder.start()

    def settle(self) -> None:
        """Waits until no index is being built."""
        if self._builder is not None:
            self._builder.join()

    def _build(self, before: threading.Thread | None) -> None:
        """Builds the index; the writer's lock is held only to make it known."""
        if before is not None:
            before.join()
        try:
            if is_due(self.database):
                with (
                    built_in_background(self.database) as commit,
                    self.changing(),
                    self.database.writing(),
                ):
                    commit()
        except Exception as error:  # noqa: BLE001 - rows are searched exactly until the next try
            _log.warning("the search index was not built: %s", error)

    def _renew(self, *, build_index: bool) -> None:
        """Loads the view of now; where it cannot be had, the old one stays, for good where the
        database is another model's: old view and model still belong together.
        """
        seen = self._stamp()
        try:
            self.view = self.load(build_index=build_index)
        except OtherModelError as error:
            self.outdated = error
        self._seen = seen

    def _stamp(self) -> tuple:
        """Returns what differs when the database has changed."""
        return (*self.database.version(), self.database.setting(CALIBRATION_SETTING))


def live_moments(
    live: LiveDatabase,
    blocks: Iterable[Float32[np.ndarray, " n"]],
    *,
    alarms_per_hour: float = ALARMS_PER_HOUR,
) -> Iterator[Moment]:
    """Yields moments as `monitor.moments`, of audio that may last for days: a track that was
    removed is no longer reported, one that was added is found within 30 s.

    Raises:
      AudioError: less than 1 s in all.
      DecodeError: what `blocks` raises, after what was heard before.
    """
    coming = iter(blocks)
    heard_s = 0.0
    goes_on = True
    while goes_on:
        view = live.view
        before_s = heard_s

        def part(view=view, before_s=before_s) -> Iterator[Float32[np.ndarray, " n"]]:
            nonlocal heard_s, goes_on
            for block in coming:
                heard_s += len(block) / live.sample_rate_hz
                yield block
                if live.view is not view and heard_s - before_s >= _LEAST_PART_S:
                    return
            goes_on = False

        try:
            for moment in moments(view.searcher, part(), alarms_per_hour=alarms_per_hour):
                yield _as_of_now(moment, before_s, live, view)
        except AudioError:
            if not before_s:  # else it is a rest of less than 1 s
                raise


def _as_of_now(moment: Moment, before_s: float, live: LiveDatabase, view: LoadedDatabase) -> Moment:
    """Returns a moment of a part that began at `before_s`, without tracks that are gone."""

    def present(matches: list[Match]) -> list[Match]:
        now = live.view
        return [
            dataclasses.replace(match, query_offset_s=round(match.query_offset_s + before_s, 3))
            for match in matches
            if now is view or match.id in now.tracks
        ]

    return Moment(
        round(moment.heard_s + before_s, 3),
        present(moment.playing),
        present(moment.started),
        present(moment.finished),
    )
