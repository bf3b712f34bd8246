"""The database as it is now, for stations that are heard for days while tracks come and go."""

import logging
import threading

from confp_jax.database import Database, DatabaseError
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.library.searcher import Searcher

_log = logging.getLogger(__name__)
_LOOK_S = 30.0


class Searchers:
    """Gives the searcher of the moment; a thread looks whether the database has changed."""

    def __init__(self, database: Database, embedder: Embedder):
        """Makes the first one."""
        self._database, self._embedder = database, embedder
        self._version = database.version()
        self.current = Searcher(database, embedder)

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio that is searched."""
        return self._embedder.sample_rate_hz

    def follow(self, stop: threading.Event) -> None:
        """Renews the searcher whenever the database has changed, until `stop` is set."""
        while not stop.wait(_LOOK_S):
            try:
                version = self._database.version()
                if version != self._version:
                    self.current = Searcher(self._database, self._embedder, build_index=False)
                    self._version = version
            except DatabaseError as error:
                _log.warning("%s; what was read before is still searched", error)
