"""A configuration small enough to train in a test, and a way to train it."""

import dataclasses
import pathlib
from collections.abc import Callable

import pytest

from confp_jax.config import TrainConfig, from_mapping


@pytest.fixture(scope="session")
def tiny(prepared: pathlib.Path) -> Callable[..., TrainConfig]:
    """`tiny(**overrides)`: configs/fma.py:tiny with 1 s segments on the prepared examples, 12 steps; dropout on."""

    def build(**overrides: object) -> TrainConfig:
        from configs.fma import get_config

        config = get_config("tiny")
        config.audio.segment_s = 1.0
        config.encoder.update({"dim": 32, "num_heads": 2, "dropout": 0.1, "conv_norm": "batch"})
        config.data.mix.update({name: 0.0 for name in config.data.mix if name.endswith("_p")})  # stored replicas alone
        config.mel.num_mels = 20
        config.data.update({"dir": str(prepared), "batch_size": 4, "crops_per_track": 2})
        config.update({"num_epochs": 4, "log_every_steps": 1})  # 6 tracks, 2 a batch: 3 steps an epoch
        config.checkpoint.every_steps = 3
        config.validation.every_steps = 0
        built = from_mapping(TrainConfig, config)
        for name, value in overrides.items():
            if isinstance(value, dict):
                value = dataclasses.replace(getattr(built, name), **value)
            built = dataclasses.replace(built, **{name: value})
        return built

    return build
