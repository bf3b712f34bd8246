"""The benchmark: conditions, hit rates, open set."""

import importlib.util

if importlib.util.find_spec("ml_collections") is None:
    raise ImportError(
        "evaluation needs more packages; install them: pip install 'confp-jax[evaluate]'"
    )
