"""Which tracks to make queries of, and under which conditions (data_prep/make_queries.py,
CONDITIONS).

    python -m data_prep.make_queries --config=configs/queries.py --config.music_dir=fma_large \\
        --config.tracks_csv=fma_metadata/tracks.csv --config.noise_dir=noise --config.ir_dir=ir
        --config.out=prepared/queries

By default all conditions; with lengths_s and seeds, each of them at every length and with every
seed. `paper`: the test split under the paper's conditions alone (its Tables 2 and 4, Figure 5).
"""

from ml_collections import ConfigDict

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
    is_paper = variant == "paper"
    return ConfigDict(
        {
            "name": "queries",
            "music_dir": "",
            "tracks_csv": "",
            "subset": "",  # as in configs/prepare.py
            "allow_missing": False,
            "split": "test" if is_paper else variant,
            "noise_dir": "",  # as in configs/prepare.py
            "ir_dir": "",
            "speech_dir": "",  # recordings of people who speak: the conditions of speech need it
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
            "conditions": _PAPER_CONDITIONS if is_paper else (),  # empty: all
        }
    )
