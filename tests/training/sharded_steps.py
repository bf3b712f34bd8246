"""Three steps on one device and on four, in a process that has four; writes what differs as JSON. Run by test_step.py."""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import optax

from confp_jax.config import TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.step import build_state, train_step
from confp_jax.training.train import train

# Linear in the gradient, so that rounding stays rounding: Adam turns a gradient of 1e-9 into a step of full length.
_OPTIMIZER = optax.sgd(0.01)


def _steps(config: TrainConfig, num_devices: int):
    mesh, batches = make_mesh(num_devices), train_batches(config)
    losses, top1 = [], []
    with jax.set_mesh(mesh):
        state = build_state(config, _OPTIMIZER)
        for _ in range(3):
            state, metrics = train_step(state, global_batch(next(batches), mesh), config=config, optimizer=_OPTIMIZER)
            losses.append(float(metrics.loss))
            top1.append(float(metrics.top1))
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == num_devices
    return losses, top1, [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.statistics))]


def _refusal(config: TrainConfig, workdir: str) -> str:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=6))
    try:
        train(config, pathlib.Path(workdir))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


if __name__ == "__main__":
    tiny = TrainConfig.from_json(sys.argv[1])
    (one_losses, one_top1, one), (four_losses, four_top1, four) = _steps(tiny, 1), _steps(tiny, 4)
    start = jax.tree.leaves(build_state(tiny, _OPTIMIZER).params)
    print(
        json.dumps(
            {
                "devices": jax.device_count(),
                "losses": [one_losses, four_losses],
                "top1": [one_top1, four_top1],
                "difference": max(float(np.abs(a - b).max()) for a, b in zip(one, four, strict=True)),
                "moved": max(float(np.abs(a - np.asarray(b)).max()) for a, b in zip(one, start, strict=False)),
                "refusal": _refusal(tiny, sys.argv[2]),
            }
        )
    )
