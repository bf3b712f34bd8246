"""What to prepare for training.

    python -m data_prep.make_train --config=configs/prepare.py:large \\
        --config.music_dir=fma_large --config.tracks_csv=fma_metadata/tracks.csv \\
        --config.noise_dir=noise --config.ir_dir=ir --config.out=prepared/fma_large

Any folder of music instead of FMA: leave tracks_csv empty. noise_dir and ir_dir: see
data_prep/sounds.py. paper_small and so on: the paper's transforms alone, at the start values of
docs/research/paper.md. docs/research/data.md describes every step.
"""

from ml_collections import ConfigDict

from confp_jax.typed_config import default_values
from data_prep.config import PrepareConfig

_SUBSETS = ("small", "medium", "large", "full")


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: FMA's small, medium, large or full (nested), with the paper's transforms alone as
    paper_small and so on; of any other folder, leave it out.
    """
    subset = variant.removeprefix("paper_")
    if variant and subset not in _SUBSETS:
        known = (*_SUBSETS, *(f"paper_{name}" for name in _SUBSETS))
        raise ValueError(f"unknown subset {variant!r}; known: {', '.join(known)}")
    config = _with_our_transforms(subset)
    if subset != variant:
        _leave_the_papers_transforms(config.chain)
    return config


def _with_our_transforms(subset: str) -> ConfigDict:
    """The paper's transforms (start values: docs/research/paper.md), and ours."""
    config = ConfigDict(default_values(PrepareConfig)).lock()
    config.subset = subset
    config.chain.update(
        {
            "stretch": {"p": 0.4, "low": 0.7, "high": 1.3},
            "pitch": {"p": 0.3, "low": -2.0, "high": 2.0},
            "speaker": {"p": 0.15, "low_hz": (100.0, 500.0), "high_hz": (3500.0, 7000.0)},  # ours
            "reverb_p": 0.4,
            "background": {"p": 0.6, "low": -3.0, "high": 20.0},
            "varying": {"p": 0.1, "low": -3.0, "high": 20.0},
            # for query sets alone: switched on by their conditions
            "overlay": {"low": -6.0, "high": 6.0},
            "speech": {"low": -6.0, "high": 6.0},
            "coloured": {"p": 0.25, "low": -3.0, "high": 20.0},
            "gain": {"p": 0.3, "low": -20.0, "high": 0.0},
            "tanh": {"p": 0.15, "low": 0.01, "high": 0.7},
            "clipping": {"p": 0.1, "low": 1.0, "high": 10.0},
            "polarity_p": 0.5,
            "telephone": {"p": 0.05},
            "resample": {"p": 0.1, "low": 8000.0, "high": 16_000.0},
            "mp3": {"p": 0.1, "low": 16.0, "high": 64.0},
            "opus": {"p": 0.1, "low": 8.0, "high": 32.0},
            "aac": {"p": 0.1, "low": 16.0, "high": 64.0},
        }
    )
    return config


def _leave_the_papers_transforms(chain: ConfigDict) -> None:
    """Noise, coloured noise, rooms, pitch, stretch, polarity and tanh; noise from 0 dB."""
    for name in ("speaker", "varying", "gain", "clipping", "telephone", "resample"):
        chain[name].p = 0.0
    for name in ("mp3", "opus", "aac"):
        chain[name].p = 0.0
    chain.background.low = 0.0
    chain.coloured.low = 0.0
