"""The step learns, and does the same on one device and on four."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest

from confp_jax.config import OptimizerConfig, Phase, TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.optim import make_optimizer, plan_stages
from confp_jax.training.step import build_state, train_step


@pytest.fixture(scope="module")
def problem(tiny: Callable[..., TrainConfig]):
    """One configuration and one batch for the whole module, so that the step is compiled once; dropout and masks are on."""
    config = tiny(optimizer=OptimizerConfig(learning_rate=3e-3))
    mesh, optimizer = make_mesh(), make_optimizer(config.optimizer, plan_stages([Phase(60, 3e-3, 4)], [1]))
    return config, mesh, optimizer, global_batch(next(train_batches(config)), mesh)


def test_it_can_learn_one_batch_by_heart(problem) -> None:
    config, mesh, optimizer, batch = problem
    losses, top1 = [], []
    with jax.set_mesh(mesh):
        state = build_state(config, optimizer)
        for _ in range(120):
            state, metrics = train_step(state, batch, config=config, optimizer=optimizer)
            losses.append(float(metrics.loss))
            top1.append(float(metrics.top1))
    assert int(state.step) == 120
    assert np.log(7) * 0.5 < losses[0], "8 embeddings: chance is log 7"
    assert np.mean(losses[-10:]) < 0.3 * losses[0]  # masks and dropout go on
    assert np.mean(top1[-10:]) > 0.9


def test_seed_and_step_decide_the_draws(problem) -> None:
    """Same seed and step, same bits; SpecAugment and dropout draw anew at every step."""
    config, mesh, optimizer, batch = problem
    with jax.set_mesh(mesh):
        first, again = (build_state(config, optimizer) for _ in range(2))
        later = first._replace(step=first.step + 1)
        losses = [float(train_step(s, batch, config=config, optimizer=optimizer)[1].loss) for s in (first, again, first, later)]
    assert losses[0] == losses[1] == losses[2] != losses[3]


def test_four_devices_equal_one(tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path) -> None:
    config = tiny(data={"mel_on": "device"}).to_json()
    command = [sys.executable, str(pathlib.Path(__file__).with_name("sharded_steps.py")), config, str(tmp_path / "run")]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 4
    np.testing.assert_allclose(*found["losses"], rtol=2e-5)
    np.testing.assert_array_equal(*found["top1"])
    assert found["moved"] > 1e-3, "the steps were no steps"
    assert found["difference"] < 1e-4 * found["moved"] + 1e-6
    # Six pairs on four devices: the user's mistake, so one of the errors that the command line turns into a sentence.
    assert found["refusal"].startswith(("ConfigError", "DatasetError")), found["refusal"]
    assert "does not divide over 4 devices" in found["refusal"]
