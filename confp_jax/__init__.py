"""Neural audio fingerprinting: which recording is it, and where in it?"""

import importlib
import os
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confp_jax.audio.decode import DecodeError
    from confp_jax.database import DatabaseError, StoredTrack
    from confp_jax.fingerprint.embedder import Embedder, UnknownModelError, load_encoder
    from confp_jax.fingerprint.engine import EngineError
    from confp_jax.fingerprint.fingerprints import AudioError
    from confp_jax.library.add import Added
    from confp_jax.library.library import Library, Removed
    from confp_jax.library.searcher import Answer, Match
    from confp_jax.model.errors import CheckpointError
    from confp_jax.model.forked import ForkedError

# Before numpy is first imported: OpenBLAS's threads spin for 25 ms after a product and take the
# cores from the encoder that comes next. With 2^16 cycles they sleep after 25 us (3 s identified in
# 24 ms instead of 37; benchmarks/query_speed.py --rows 4000).
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")
# Before ONNX Runtime is imported: its wheels report their use to an address of Microsoft's and
# leave a file in TMPDIR.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = [
    "Added",
    "Answer",
    "AudioError",
    "CheckpointError",
    "DatabaseError",
    "DecodeError",
    "Embedder",
    "EngineError",
    "ForkedError",
    "Library",
    "Match",
    "Removed",
    "StoredTrack",
    "UnknownModelError",
    "load_encoder",
    "open",
]

_PLACES = {
    "Added": "library.add",
    "Answer": "library.searcher",
    "AudioError": "fingerprint.fingerprints",
    "CheckpointError": "model.errors",
    "DatabaseError": "database",
    "DecodeError": "audio.decode",
    "EngineError": "fingerprint.engine",
    "Embedder": "fingerprint.embedder",
    "ForkedError": "model.forked",
    "Match": "library.searcher",
    "Library": "library.library",
    "Removed": "library.library",
    "StoredTrack": "database",
    "UnknownModelError": "fingerprint.embedder",
    "load_encoder": "fingerprint.embedder",
}
_RENAMED = {"FoundTrack": "Match"}  # former names, which still work


def open(
    folder: str | pathlib.Path, *, model: str | None = None, false_alarm_rate: float | None = None
) -> "Library":
    """Opens a fingerprint database, or creates it if it does not exist.

    Args:
      folder: of the database.
      model: a shipped model or a checkpoint folder; default: the database's own, or `edge2`.
      false_alarm_rate: proportion of unknown queries that may be answered; default 0.001.

    Returns:
      A `Library`, which any number of threads may share.

    Raises:
      DatabaseError: the folder is no database, or `model` is not the database's own.

    Examples:
      >>> library = confp_jax.open("music.db")
      >>> [added.status for added in library.add("music")]
      ['added', 'added']
      >>> answer = library.identify_file("clip.wav")
      >>> answer.verdict, answer.matches[0].track
      ('match', 'the-protagonist')
    """
    from confp_jax.library.library import Library

    return Library(folder, model=model, false_alarm_rate=false_alarm_rate)


def __getattr__(name: str) -> Any:
    """Imports JAX only when something needs it, so that `confp --help` answers at once."""
    name = _RENAMED.get(name, name)
    if name in _PLACES:
        return getattr(importlib.import_module(f"confp_jax.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'confp_jax' has no attribute {name!r}")
