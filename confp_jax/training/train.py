"""Trains an encoder on prepared shards, and resumes a run that was stopped.

    python -m confp_jax.training.train --config=configs/fma.py:small --config.data.dir=prepared/fma --workdir=runs/small

Every field of the configuration can be set as --config.FIELD=VALUE. Start the same command again to go on.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the input's threads must not fight XLA's (FACTS)

import pathlib
import signal
import sys
import threading
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from confp_jax import command_line
from confp_jax.config import TrainConfig, from_mapping
from confp_jax.data.input import steps_per_epoch, train_batches
from confp_jax.data.records import DatasetError
from confp_jax.training.checkpoint import CheckpointError, Checkpoints, begin_from
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.metric_log import MetricLog, NonFiniteLossError
from confp_jax.training.optim import make_optimizer, make_schedule
from confp_jax.training.step import TrainState, build_state, train_step
from confp_jax.training.validate import validate


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Trains what the configuration describes."""
    train(from_mapping(TrainConfig, config), pathlib.Path(values.workdir), stop_at_step=values.stop_at_step)


def train(config: TrainConfig, workdir: pathlib.Path, *, stop_at_step: int | None = None) -> None:
    """Runs to the end of the schedule, or to `stop_at_step`, or until SIGTERM or Ctrl-C; saves before it leaves.

    Raises:
      ConfigError, DatasetError: with what to change.
      NonFiniteLossError: training diverged.
    """
    num_steps = config.num_epochs * steps_per_epoch(config)
    last_step = min(num_steps, stop_at_step or num_steps)
    optimizer = make_optimizer(config.optimizer, num_steps=num_steps)
    batches = train_batches(config, process=jax.process_index(), num_processes=jax.process_count())
    mesh = make_mesh()
    schedule = make_schedule(config.optimizer, num_steps=num_steps)
    log_options = {"num_steps": num_steps, "every_steps": config.log_every_steps, "schedule": schedule}
    with (
        jax.set_mesh(mesh),
        Checkpoints.open(workdir, config) as checkpoints,
        MetricLog.open(workdir, **log_options) as log,
        _StopSignal() as stopped,
    ):
        state, first_step = checkpoints.restore(build_state(config, optimizer), batches)
        if config.init_from and not first_step:
            state = begin_from(state, config)
        if first_step:
            print(f"resumed from step {first_step}", file=sys.stderr)
        step = first_step
        while step < last_step and not stopped.is_set():
            batch = global_batch(next(batches), mesh)
            state, metrics = train_step(state, batch, config=config, optimizer=optimizer)
            step += 1
            log.step(step, metrics, num_segments=2 * config.data.batch_size)
            checkpoints.save(step, state, batches)
            if config.validation.every_steps and (step % config.validation.every_steps == 0 or step == num_steps):
                _log_validation(step, state, config, log)
        log.flush()
        checkpoints.save(step, state, batches, force=True)
    print(f"step {step} of {num_steps} saved in {workdir}" + ("" if step >= num_steps else "; the same command goes on"))


def _log_validation(step: int, state: TrainState, config: TrainConfig, log: MetricLog) -> None:
    log.flush()
    rates = validate(state, config)
    if rates is not None:
        names = {"exact": rates.exact, "near": rates.near, "track": rates.track}
        log.scalars(step, {f"validation_{name}_top1": round(value, 4) for name, value in names.items()})
    log.pause()


class _StopSignal:
    """SIGTERM and Ctrl-C ask the loop to save and leave; a second Ctrl-C breaks off."""

    def __enter__(self) -> threading.Event:
        self._event = threading.Event()
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._old = {int(number): signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self._event

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        self._event.set()
        signal.signal(number, self._old[number])


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics.jsonl, TensorBoard.", required=True)
    flags.DEFINE_integer("stop_at_step", None, "Save and stop after this step; the schedule stays as it is.", 1)
    command_line.run(main, config_file="configs/fma.py:small", errors=(DatasetError, CheckpointError, NonFiniteLossError))
