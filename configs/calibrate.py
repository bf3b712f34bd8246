"""What a model's decision is calibrated on (confp_jax/evaluation/calibrate.py): validation
queries, never test queries.

    python -m data_prep.make_queries --config=configs/queries.py:validation \\
        --config.segment_s=10.0 \\
        --config.excerpts_per_track=3 \\
        --config.conditions='("clean","background_10db","background_5db","background_0db",
        "reverb","stretch_85","stretch_115","coloured_5db")' \\
        --config.music_dir=... --config.noise_dir=... --config.ir_dir=... \\
        --config.out=prepared/calibration
    python -m confp_jax.evaluation.calibrate --config=configs/calibrate.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/calibration \\
        --out=confp_jax/pretrained/edge/decision.json
"""

from ml_collections import ConfigDict

from confp_jax.evaluation.config import CalibrationConfig
from confp_jax.typed_config import default_values


def get_config() -> ConfigDict:
    """Excerpts of 10 s, which are cut to each of the lengths."""
    return ConfigDict(default_values(CalibrationConfig)).lock()
