"""What to measure of the verdict (confp_jax/evaluation/open_set.py): every excerpt with its track
in the database and without.

    python -m confp_jax.evaluation.open_set --config=configs/open_set.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/validation,prepared/queries
        --out=results/open_set
"""

from ml_collections import ConfigDict

from confp_jax.evaluation.config import OpenSetConfig
from confp_jax.typed_config import default_values


def get_config() -> ConfigDict:
    """All conditions of the query sets at their own length; `lengths_s` cuts them (0 is the
    whole).
    """
    return ConfigDict(default_values(OpenSetConfig)).lock()
