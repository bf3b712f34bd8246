"""The modules of searching under the names that they had before their rooms were parted, for
programs that were written then. Nothing here uses them.
"""

import functools
import importlib
import sys
import types
import warnings
from typing import Any

__path__: list[str] = []  # its modules are those below
_MODULES = {
    "add": "library.add",
    "database": "database",
    "database.merge": "database.merge",
    "database.records": "database.records",
    "database.verify": "database.verify",
    "decision": "matching.decision",
    "embed": "fingerprint.embedder",
    "exchange": "library.parquet",
    "fingerprints": "fingerprint.fingerprints",
    "identify": "library.searcher",
    "index": "index",
    "library": "library.library",
    "maintain": "library.maintenance",
    "monitor": "library.monitor",
    "reindex": "library.reindex",
}
_RENAMED = {"FoundTrack": "Match", "ModelStamp": "ModelId"}


def _found(module: str, name: str) -> Any:
    """Returns what a module of today calls `name`."""
    return getattr(importlib.import_module(f"confp_jax.{module}"), _RENAMED.get(name, name))


for _old, _new in _MODULES.items():
    _module = types.ModuleType(f"{__name__}.{_old}", f"As `confp_jax.{_new}`.")
    _module.__dict__.update(__getattr__=functools.partial(_found, _new), __path__=[])
    sys.modules[_module.__name__] = _module
warnings.warn(
    "confp_jax.retrieval has other names: confp_jax.database, .matching, .library and others",
    DeprecationWarning,
    stacklevel=2,
)
