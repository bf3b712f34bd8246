"""Frozen configuration. `ml_collections.ConfigDict` stops at the command line; everything else
receives these.
"""

from confp_jax.config.data import (
    DataConfig,
    MixConfig,
)
from confp_jax.config.model import (
    AudioConfig,
    ContrastConfig,
    EncoderConfig,
    MelConfig,
    ModelConfig,
    ProjectionConfig,
)
from confp_jax.config.train import (
    CheckpointConfig,
    OptimizerConfig,
    Phase,
    SpecAugmentConfig,
    TrainConfig,
    ValidationConfig,
)

__all__ = [
    "AudioConfig",
    "CheckpointConfig",
    "ContrastConfig",
    "DataConfig",
    "EncoderConfig",
    "MelConfig",
    "MixConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Phase",
    "ProjectionConfig",
    "SpecAugmentConfig",
    "TrainConfig",
    "ValidationConfig",
]
