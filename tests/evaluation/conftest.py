"""What the evaluation tests share: an untrained encoder, which still finds an undistorted excerpt."""

import pathlib

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A `tiny` encoder with its initial weights, saved by `save_encoder`."""
    from flax import nnx

    from configs.fma import get_config
    from confp_jax.config import TrainConfig, from_mapping
    from confp_jax.model.encoder import Encoder
    from confp_jax.training.checkpoint import EncoderState, save_encoder

    config = from_mapping(TrainConfig, get_config("tiny"))
    _, params, statistics = nnx.split(Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(7)), nnx.Param, ...)
    folder = tmp_path_factory.mktemp("model") / "untrained"
    save_encoder(folder / "checkpoint", config, EncoderState(params, statistics))
    return folder
