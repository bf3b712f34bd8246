"""Which tracks to make queries of, and under which conditions (data_prep/make_queries.py,
CONDITIONS).

    python -m data_prep.make_queries --config=configs/queries.py --config.music_dir=fma_large \\
        --config.tracks_csv=fma_metadata/tracks.csv --config.noise_dir=noise --config.ir_dir=ir
        --config.out=prepared/queries

By default all conditions; with lengths_s and seeds, each of them at every length and with every
seed. `paper`: the test split under the paper's conditions alone (its Tables 2 and 4, Figure 5).
"""

from ml_collections import ConfigDict

from confp_jax.typed_config import default_values
from data_prep.config import QueryConfig

_SPLITS = ("test", "validation", "training", "all")
# Shifts by 10 to 40 % of the hop, and of half of it (5, 15): the paper's words allow both.
_PAPER_CONDITIONS = (
    *("clean", "shift_5", "shift_10", "shift_15", "shift_20", "shift_30", "shift_40", "reverb"),
    *("background_5db", "background_10db", "background_15db"),
    *("coloured_5db", "coloured_10db", "coloured_15db"),
    *("stretch_70", "stretch_80", "stretch_90", "stretch_110", "stretch_120", "stretch_130"),
)


def get_config(variant: str = "test") -> ConfigDict:
    """`variant`: test (hears the test part of noise and rooms), validation (hears the train part)
    to choose by, training, all, or paper.
    """
    if variant not in (*_SPLITS, "paper"):
        raise ValueError(f"unknown query set {variant!r}; known: {', '.join(_SPLITS)}, paper")
    config = ConfigDict(default_values(QueryConfig)).lock()
    if variant == "paper":
        config.conditions = _PAPER_CONDITIONS
    else:
        config.split = variant
    return config
