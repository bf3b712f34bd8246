"""What the evaluation tests share: an untrained encoder, which still finds an undistorted
excerpt.
"""

import pathlib

import pytest
from small_benchmarks import make_set

from confp_jax.evaluation.report import figures


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A `tiny` encoder with its initial weights, saved by `save_encoder`."""
    return save_untrained(tmp_path_factory.mktemp("model") / "untrained", seed=7)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Other initial weights."""
    return save_untrained(tmp_path_factory.mktemp("model") / "other", seed=8)


def save_untrained(folder: pathlib.Path, *, seed: int) -> pathlib.Path:
    """Returns the folder of a `tiny` encoder."""
    from flax import nnx

    from configs.fma import get_config
    from confp_jax.config import TrainConfig
    from confp_jax.model.encoder import Encoder
    from confp_jax.model.weights import EncoderState, save_encoder
    from confp_jax.typed_config import from_mapping

    config = from_mapping(TrainConfig, get_config("tiny"))
    _, params, statistics = nnx.split(
        Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(seed)), nnx.Param, ...
    )
    save_encoder(folder / "checkpoint", config, EncoderState(params, statistics))
    return folder


@pytest.fixture
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no picture: they take most of a report's time, and few tests look at one
    (test_tables_and_figures.py tests each).
    """
    monkeypatch.setattr(figures, "png", lambda *_, **__: b"\x89PNG\r\n\x1a\n")


@pytest.fixture(scope="session")
def queries(music_dir, tmp_path_factory):
    """Two excerpts of each of eight tracks."""
    return make_set(music_dir, tmp_path_factory.mktemp("queries") / "set")
