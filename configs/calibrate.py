"""What a model's decision is calibrated on (confp_jax/evaluation/calibrate.py): validation
queries, never test queries.

    python -m data_prep.make_queries --config=configs/queries.py:validation --config.segment_s=10.0 \\
        --config.excerpts_per_track=3 \\
        --config.conditions='("clean","background_10db","background_5db","background_0db","reverb","stretch_85","stretch_115","coloured_5db")' \\
        --config.music_dir=... --config.noise_dir=... --config.ir_dir=...
        --config.out=prepared/calibration
    python -m confp_jax.evaluation.calibrate --config=configs/calibrate.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/calibration
        --out=confp_jax/pretrained/edge/decision.json
"""  # noqa: E501 (a command to copy)

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Excerpts of 10 s, which are cut to each of the lengths."""
    return ConfigDict(
        {
            "model": "edge2",  # a shipped model or a checkpoint folder
            "index": "",  # a dataset made by data_prep.make_train: its clean clips are the database
            "index_splits": ("training", "validation", "test"),
            # a folder that keeps the index's fingerprints for the next evaluation of the same model
            "cache": "",
            "most_tracks": 300,  # of the index: the queries' own, then any
            "queries": "",  # a query set made by data_prep.make_queries
            "most_excerpts": 800,  # drawn from all conditions alike
            "lengths_s": (1.0, 2.0, 3.0, 5.0, 9.9),  # 9.9 s: one block of a long recording
            "num_tracks": (1, 5, 15, 40),  # sizes of database, and all of `most_tracks`
            "seed": 0,
        }
    )
