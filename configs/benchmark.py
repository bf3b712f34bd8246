"""What to measure: a model on query sets against an index of a prepared dataset's clean clips, and
other systems beside it.

    python -m confp_jax.evaluation.benchmark --config=configs/benchmark.py:paper \\
        --config.checkpoint=edge \\
        --config.index=prepared/fma --config.queries=prepared/queries --out=results

`:ours` searches all splits and fills the index up with synthetic rows; `:quick` is a look at the
same in a few minutes. Any other program takes part as `command`, without a line of code:

    --config.command.name=olaf --config.command.index='olaf store {files}' \\
        --config.command.query='olaf query {query}' \\
    --config.command.answer='^\\d+, (?P<track>[^,]+), (?P<offset>[\\d.]+), (?P<score>\\d+)'
"""

from ml_collections import ConfigDict

from confp_jax.evaluation.config import BenchmarkConfig
from confp_jax.typed_config import default_values

_QUICK_CONDITIONS = (
    "clean", "shift_40", "reverb", "background_10db", "background_5db", "coloured_5db",
    "stretch_70", "stretch_130",
)  # fmt: skip


def get_config(variant: str = "paper") -> ConfigDict:
    """All index at 300 ms. `paper`: the test split alone is searched, as the paper does (11,263
    clips of FMA-large). `ours`: all splits, so that queries meet what the model was trained on.
    `quick`: few queries, the test split.
    """
    if variant not in ("paper", "ours", "quick"):
        raise ValueError(f"{variant!r} is no benchmark; known: paper, ours, quick")
    config = ConfigDict(default_values(BenchmarkConfig)).lock()
    config.systems = ("ours", "audfprint", "chromaprint")
    if variant == "ours":
        config.distractors = (250_000, 1_000_000, 2_000_000)
    else:
        config.index_splits = ("test",)
    if variant == "quick":
        config.update(
            {
                "conditions": _QUICK_CONDITIONS,
                "most_queries": 88,
                "system_conditions": ("clean", "background_10db"),
                "system_queries": 44,
                "num_failures": 6,
                "shift_tracks": 10,
                "compression": False,
            }
        )
    return config
