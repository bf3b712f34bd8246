"""Neural audio fingerprinting: which recording is it, and where in it?"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confp_jax.retrieval.embed import Embedder, load_encoder

__version__ = "0.1.0"
__all__ = ["Embedder", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Imports JAX only when an encoder is asked for, so that `confp --help` answers at once."""
    if name in __all__:
        return getattr(importlib.import_module("confp_jax.retrieval.embed"), name)
    raise AttributeError(f"module 'confp_jax' has no attribute {name!r}")
