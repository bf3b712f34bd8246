"""What to measure of the verdict (confp_jax/evaluation/open_set.py): every excerpt with its track
in the database and without.

    python -m confp_jax.evaluation.open_set --config=configs/open_set.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/validation,prepared/queries
        --out=results/open_set
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All conditions of the query sets at their own length; `lengths_s` cuts them (0 is the
    whole).
    """
    return ConfigDict(
        {
            "model": "edge2",  # a shipped model or a checkpoint folder
            "index": "",  # a dataset made by data_prep.make_train: its clean clips
            "index_splits": ("training", "validation", "test"),
            # a folder that keeps the index's fingerprints for the next evaluation of the same model
            "cache": "",
            # sets made by data_prep.make_queries, or a folder of them, with commas between
            "queries": "",
            "conditions": (),  # empty: all of each set's
            "lengths_s": (0.0,),
            "false_alarm_rate": 0.001,
            "num_bootstraps": 2000,  # over tracks: excerpts of one track are no independent trials
            "seed": 0,
        }
    )
