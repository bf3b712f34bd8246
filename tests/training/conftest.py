"""A configuration small enough to train in a test, and a way to train it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
import pytest
from fake_cloud import DATA

from confp_jax.config import TrainConfig
from confp_jax.typed_config import from_mapping


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Compiles these tests' programs without most optimizations, here and in the processes that
    they start.

    A program of theirs runs for a moment, and takes twice as long to compile with them. Other
    folders' tests, which pytest runs in the same process, keep them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            return (yield)
        finally:
            jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def tiny(prepared: pathlib.Path) -> Callable[..., TrainConfig]:
    """`tiny(**overrides)`: configs/fma.py:tiny with 1 s segments on the prepared examples, 12
    steps of a constant learning rate after the warm-up; dropout on.
    """

    def build(**overrides: object) -> TrainConfig:
        from configs.fma import get_config

        config = get_config("tiny")
        config.audio.segment_s = 1.0
        config.encoder.update({"dim": 32, "num_heads": 2, "dropout": 0.1, "conv_norm": "batch"})
        config.data.mix.update(
            {name: 0.0 for name in config.data.mix if name.endswith("_p")}
        )  # stored replicas alone
        config.mel.num_mels = 20
        config.data.update({"dir": str(prepared), "batch_size": 4, "crops_per_track": 2})
        config.update(
            {"num_epochs": 4, "log_every_steps": 1}
        )  # 6 tracks, 2 a batch: 3 steps an epoch
        config.optimizer.schedule = "constant"  # one program whatever the number of epochs
        config.checkpoint.every_steps = 3
        config.validation.every_steps = 0
        built = from_mapping(TrainConfig, config)
        for name, value in overrides.items():
            if isinstance(value, dict):
                value = dataclasses.replace(getattr(built, name), **value)
            built = dataclasses.replace(built, **{name: value})
        return built

    return build


@pytest.fixture(scope="session")
def uninterrupted(
    tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The run of `tiny()`: twelve steps in one go."""
    from confp_jax.training.train import train

    workdir = tmp_path_factory.mktemp("uninterrupted")
    train(tiny(), workdir)
    return workdir


@pytest.fixture(scope="session")
def devices(tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What eight_devices.py found."""
    folder = pathlib.Path(__file__).parent
    config = tiny(data={"batch_size": 8, "mel_on": "host"}).to_json()
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(folder.parents[1]),
    }
    command = [
        sys.executable,
        str(folder / "eight_devices.py"),
        config,
        str(tmp_path_factory.mktemp("refused") / "run"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def variables(tmp_path: pathlib.Path) -> dict[str, str]:
    """What launch/tpu.sh is told by its environment."""
    names = {
        "TPU_NAME": "mine",
        "ZONE": "here-a",
        "ACCELERATOR": "v5litepod-8",
        "DATA": DATA,
    }
    return names | {"WORKDIR": str(tmp_path / "run")}
