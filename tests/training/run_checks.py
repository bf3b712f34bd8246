"""What a run has left behind, and whether two runs are the same."""

import json
import pathlib
import sys

import jax
import numpy as np
import optax
from command_flags import command_flags

from confp_jax.config import TrainConfig
from confp_jax.training.checkpoint import Checkpoints
from confp_jax.training.mesh import make_mesh
from confp_jax.training.optim import make_optimizer
from confp_jax.training.step import TrainState, build_state
from confp_jax.training.train import stages_of


def logged_lines(workdir: pathlib.Path) -> list[dict]:
    """What a run has logged."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """The steps of its checkpoints."""
    return sorted(
        int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()
    )


def optimizer_of(config: TrainConfig) -> optax.GradientTransformation:
    """A configuration's optimizer."""
    return make_optimizer(config.optimizer, stages_of(config))


def saved_state(workdir: pathlib.Path, config: TrainConfig) -> tuple[TrainState, int]:
    """The newest checkpoint, and its step."""
    with jax.set_mesh(make_mesh()), Checkpoints.open(workdir, config) as checkpoints:
        return checkpoints.restore(build_state(config, optimizer_of(config)))


def assert_equal_runs(found: pathlib.Path, expected: pathlib.Path, config: TrainConfig) -> None:
    """Two finished runs of twelve steps: last state and logged numbers are the same, to the bit."""
    (one, one_step), (other, other_step) = saved_state(found, config), saved_state(expected, config)
    assert one_step == other_step == 12
    leaves = jax.tree_util.tree_leaves_with_path(one)
    paths = jax.tree_util.tree_leaves_with_path(other)
    assert len(leaves) == len(paths) > 50
    for (path, leaf), (_, wanted) in zip(leaves, paths, strict=True):
        np.testing.assert_array_equal(leaf, wanted, err_msg=jax.tree_util.keystr(path))
    names = ("step", "loss", "top1", "gradient_norm", "learning_rate")
    logged = [
        [tuple(line[name] for name in names) for line in logged_lines(workdir)]
        for workdir in (found, expected)
    ]
    assert logged[0] == logged[1]
    assert [values[0] for values in logged[0]] == list(range(1, 13))


def train_command(config: TrainConfig, workdir: pathlib.Path, *more: str) -> list[str]:
    """The command that trains it."""
    module = [sys.executable, "-m", "confp_jax.training.train", f"--workdir={workdir}"]
    return [*module, *command_flags(config), *more]
