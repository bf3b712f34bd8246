"""Which tracks to make queries of, and under which conditions (data_prep/make_queries.py, CONDITIONS).

    python -m data_prep.make_queries --config=configs/queries.py --config.music_dir=fma_large \\
        --config.tracks_csv=fma_metadata/tracks.csv --config.noise_dir=noise --config.ir_dir=ir --config.out=prepared/queries
"""

from ml_collections import ConfigDict


def get_config(split: str = "test") -> ConfigDict:
    """`split`: test (hears the test part of noise and rooms), validation (hears the train part) to choose by, or all."""
    return ConfigDict(
        {
            "name": "queries",
            "music_dir": "",
            "tracks_csv": "",
            "subset": "large",
            "split": split,
            "noise_dir": "",
            "ir_dir": "",
            "out": "",
            "seed": 0,
            "sample_rate_hz": 16_000,
            "segment_s": 3.0,  # paper
            "index_hop_s": 0.3,  # paper: shifted queries start beside this grid
            "excerpts_per_track": 5,  # paper
            "tracks_per_shard": 100,
            "num_workers": 0,
            "conditions": (),  # empty: all
        }
    )
