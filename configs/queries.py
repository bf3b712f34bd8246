"""Which tracks to make queries of, and under which conditions (data_prep/make_queries.py,
CONDITIONS).

    python -m data_prep.make_queries --config=configs/queries.py --config.music_dir=fma_large \\
        --config.tracks_csv=fma_metadata/tracks.csv --config.noise_dir=noise --config.ir_dir=ir
        --config.out=prepared/queries

By default all conditions; with lengths_s and seeds, each of them at every length and with every
seed.
"""

from ml_collections import ConfigDict


def get_config(split: str = "test") -> ConfigDict:
    """`split`: test (hears the test part of noise and rooms), validation (hears the train part) to
    choose by, or all.
    """
    return ConfigDict(
        {
            "name": "queries",
            "music_dir": "",
            "tracks_csv": "",
            "subset": "",  # as in configs/prepare.py
            "allow_missing": False,
            "split": split,
            "noise_dir": "",  # as in configs/prepare.py
            "ir_dir": "",
            "out": "",
            "seed": 0,
            "sample_rate_hz": 16_000,
            "segment_s": 3.0,  # paper
            "lengths_s": (),  # (1.0, 2.0, 3.0, 5.0, 10.0): a query set OUT/1s_seed0 ... for each
            "seeds": (),  # (0, 1, 2, 3, 4): the paper's mean of 5 runs
            "index_hop_s": 0.3,  # paper: shifted queries start beside this grid
            "excerpts_per_track": 5,  # paper
            # as in configs/prepare.py: the index holds the middle of longer tracks
            "max_clip_s": 600.0,
            "tracks_per_shard": 100,
            "num_workers": 0,
            "conditions": (),  # empty: all
        }
    )
