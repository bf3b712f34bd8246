"""Loss, optimizer, step, checkpoints and the loop."""

import importlib.util

if importlib.util.find_spec("ml_collections") is None:
    raise ImportError("training needs more packages; install them: pip install 'confp-jax[train]'")
