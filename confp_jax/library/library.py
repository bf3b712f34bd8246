"""The Python API: a database that is opened once and asked from any number of threads."""

import logging
import pathlib
import threading
from collections.abc import Sequence

import numpy as np

from confp_jax.audio.decode import from_samples
from confp_jax.database import DatabaseError, StoredTrack
from confp_jax.index import on_disk
from confp_jax.library.add import Added, add_paths
from confp_jax.library.open import open_or_create
from confp_jax.library.searcher import Answer, Searcher

_log = logging.getLogger(__name__)


class Library:
    """A database with its model and index in memory.

    Reading is safe from many threads, also while one adds.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        model: str | None = None,
        false_alarm_rate: float | None = None,
    ):
        """Opens the database, or makes it where there is none.

        Args:
          folder: of the database.
          model: a shipped model or a checkpoint folder; default: the database's own, for a new one
            `edge`.
          false_alarm_rate: share of unknown queries that may be answered; default 0.001.

        Raises:
          DatabaseError: no database, or one made with another model.
        """
        self._database, self._embedder = open_or_create(folder, model)
        self._false_alarm_rate = false_alarm_rate
        self._writing = threading.Lock()
        self._folding: threading.Thread | None = None
        self._searcher = self._new_searcher()

    def add(self, paths: Sequence[str | pathlib.Path] | str | pathlib.Path) -> list[Added]:
        """Adds files and the audio files of folders; a bad file is reported in its result and the
        rest goes on.

        What was added is found when this returns. If the search index has then to be built anew, a
        thread does it; until it is ready the new fingerprints are searched exactly.

        Raises:
          DatabaseError: another process is writing.
        """
        listed = [paths] if isinstance(paths, str | pathlib.Path) else paths
        with self._writing:
            added = add_paths(
                self._database, self._embedder, [pathlib.Path(path) for path in listed], fold=False
            )
            self._searcher = self._new_searcher(build_index=False)
            self._folding = threading.Thread(
                target=self._fold, name="fold", daemon=True
            )  # a kill loses nothing
            self._folding.start()
        return added

    def settle(self) -> None:
        """Returns when no index is being built."""
        if self._folding is not None:
            self._folding.join()

    def identify(self, samples: np.ndarray, sample_rate_hz: int) -> Answer:
        """Which tracks sound in the samples: [n] or [n, channels], float or integer PCM, at least
        1 s long.

        Raises:
          DecodeError: samples of a wrong shape, or not finite.
          AudioError: shorter than 1 s, or silent.
        """
        mono = from_samples(samples, from_hz=sample_rate_hz, to_hz=self._embedder.sample_rate_hz)
        return self._searcher.identify_blocks([mono], query="samples")

    def identify_file(self, path: str | pathlib.Path) -> Answer:
        """Which tracks sound in a file; one that cannot be used has the answer's `error` set."""
        return self._searcher.identify_file(pathlib.Path(path))

    def tracks(self) -> list[StoredTrack]:
        """What can be identified."""
        return list(self._searcher.reference.snapshot.tracks)

    def refresh(self) -> None:
        """Sees what other processes have added, removed or calibrated since."""
        with self._writing:
            self._searcher = self._new_searcher()

    def _fold(self) -> None:
        with self._writing:
            try:
                with self._database.writing():
                    on_disk.fold_if_due(self._database)
                self._searcher = self._new_searcher(build_index=False)
            except DatabaseError as error:
                _log.warning("the search index was not built: %s", error)

    def _new_searcher(self, *, build_index: bool = True) -> Searcher:
        return Searcher(
            self._database,
            self._embedder,
            false_alarm_rate=self._false_alarm_rate,
            build_index=build_index,
        )
