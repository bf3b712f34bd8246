"""What to measure: a model on query sets against an index of a prepared dataset's clean clips.

    python -m confp_jax.evaluation.benchmark --config=configs/benchmark.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/queries --out=results
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The paper's protocol: index at 300 ms, five 3 s excerpts a track, top-1 and top-5."""
    return ConfigDict(
        {
            "model": "edge",  # a shipped model or a checkpoint folder
            "index": "",  # a dataset made by data_prep.make_train: its clean clips
            "index_splits": ("training", "validation", "test"),
            "queries": "",  # a query set made by data_prep.make_queries
            "conditions": (),  # empty: all of the set's
            "top_k": 5,
            "false_alarm_rate": 0.001,  # at which "right and accepted" is counted
        }
    )
