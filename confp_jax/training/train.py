"""Trains an encoder on prepared shards, and resumes a run that was stopped.

    python -m confp_jax.training.train --config=configs/fma.py:small \\
        --config.data.dir=prepared/fma --workdir=runs/small

Every field of the configuration can be set as --config.FIELD=VALUE. Start the same command again
to go on.
"""

import os

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # before numpy: the input's threads must not fight XLA's (docs/develop/facts.md)

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from confp_jax import command_line
from confp_jax.config import TrainConfig
from confp_jax.data.input import open_split, steps_per_epoch, tracks_to_train, train_batches
from confp_jax.model.compiler import keep_freed_memory
from confp_jax.model.encoder import forward_flops
from confp_jax.model.weights import absolute_path
from confp_jax.training.checkpoint import Checkpoints, UnreadableRunError
from confp_jax.training.device_dataset import cut_crops, load_resident, resident_layout
from confp_jax.training.effects import check_effects
from confp_jax.training.fine_tune import warm_start
from confp_jax.training.mesh import check_divides, global_batch, join_hosts, make_mesh
from confp_jax.training.metric_log import LINES, MetricLog, NonFiniteLossError
from confp_jax.training.optim import Stage, make_optimizer, make_schedule, plan_stages
from confp_jax.training.run_folder import (
    GrowingFiles,
    RunFolderError,
    check_writable,
    names_a_full_disk,
    save_arrays,
)
from confp_jax.training.run_owner import RunInUseError, owned
from confp_jax.training.step import TrainState, build_state, compute_dtype, train_step
from confp_jax.training.teacher import load_teacher
from confp_jax.training.validate import validate
from confp_jax.typed_config import from_mapping


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Trains what the configuration describes."""
    keep_freed_memory()
    if values.distributed:
        join_hosts()
    built = from_mapping(TrainConfig, config)
    for line in check_effects(built, command_line.overridden(values)):
        print(f"note: {line}", file=sys.stderr)
    train(built, values.workdir, stop_at_step=values.stop_at_step, allow_change=values.allow_change)


def train(
    config: TrainConfig,
    workdir: epath.PathLike,
    *,
    stop_at_step: int | None = None,
    allow_change: Collection[str] = (),
) -> None:
    """Runs to the end of the schedule, or to `stop_at_step`, or until SIGTERM or Ctrl-C; saves
    before it leaves.

    `workdir` may lie in a bucket (gs://). A run that was begun there is continued; `allow_change`
    names fields of the configuration that may differ from those it was begun with.

    Raises:
      ConfigError, DatasetError: with what to change.
      CheckpointError: no checkpoint of the run, or of its teacher, can be read.
      NonFiniteLossError: training diverged.
      RunFolderError: the disk is full.
      RunInUseError: another run trains in `workdir`.
    """
    stages = stages_of(config)
    mesh = make_mesh()
    folder = absolute_path(workdir)
    _check_stages(config, stages, mesh)
    num_steps = stages[-1].last_step
    last_step = min(num_steps, stop_at_step or num_steps)
    optimizer = make_optimizer(config.optimizer, stages)
    teach = load_teacher(config, mesh)
    check_writable(folder)
    with (
        jax.set_mesh(mesh),
        names_a_full_disk(folder),
        owned(folder) as check_owned,
        GrowingFiles.open(folder, continued=(LINES,) if _is_writer() else ()) as files,
        Checkpoints.open(folder, config, allow_change=allow_change) as checkpoints,
        _StopSignal() as stopped,
    ):
        state, step = _begin(config, optimizer, checkpoints)
        with (
            _open_log(config, stages, files.local, first_step=step) as log,
            _saves_offending_batch(config, stages, folder),
        ):
            log.say(_description(config, stages, state, mesh))
            for stage, waited_s, batch in _batches_from(step, last_step, config, stages, mesh):
                state, metrics = train_step(state, teach(batch), config=config, optimizer=optimizer)
                step += 1
                log.step(step, metrics, num_segments=2 * stage.phase.batch_size, waited_s=waited_s)
                if _is_validated(step, num_steps, config):
                    _log_validation(step, state, config, log)
                if checkpoints.is_due(step):
                    check_owned()
                    _save(step, state, checkpoints, log, files)
                if stopped.is_set(step):
                    break
            check_owned()
            _save(step, state, checkpoints, log, files)
    print(f"step {step} of {num_steps} saved in {workdir}{_ending(step, last_step, num_steps)}")


def _check_stages(config: TrainConfig, stages: tuple[Stage, ...], mesh: jax.sharding.Mesh) -> None:
    """Raises the errors of batches that cannot be made, before anything is written."""
    for stage in stages:
        check_divides(stage.phase.batch_size, mesh, num_parts=config.microbatches)
        _open_batches(config, stage, 0)


def _is_writer() -> bool:
    """Returns whether this process, of several, writes what they share."""
    return jax.process_index() == 0


def _begin(
    config: TrainConfig, optimizer: optax.GradientTransformation, checkpoints: Checkpoints
) -> tuple[TrainState, int]:
    """Returns the state that the run continues from, and the number of its step."""
    state, step = checkpoints.restore(build_state(config, optimizer))
    if step:
        print(f"resumed from step {step}", file=sys.stderr)
    elif config.init_from:
        state = warm_start(state, config)
    return state, step


def _open_log(
    config: TrainConfig, stages: tuple[Stage, ...], folder: epath.Path, *, first_step: int
) -> contextlib.AbstractContextManager[MetricLog]:
    return MetricLog.open(
        folder,
        num_steps=stages[-1].last_step,
        every_steps=config.log_every_steps,
        schedule=make_schedule(config.optimizer, stages=stages),
        flops_per_segment=_flops_per_segment(config),
        first_step=first_step,
        is_writer=_is_writer(),
    )


def _is_validated(step: int, num_steps: int, config: TrainConfig) -> bool:
    every = config.validation.every_steps
    return bool(every) and (step % every == 0 or step == num_steps)


def _ending(step: int, last_step: int, num_steps: int) -> str:
    """Returns how the run ended, where it is not over."""
    if step >= num_steps:
        return ""
    return "; stopped as asked" if step >= last_step else "; the same command continues it"


def _description(
    config: TrainConfig, stages: Sequence[Stage], state: TrainState, mesh: jax.sharding.Mesh
) -> str:
    """Returns one line on what is about to be trained, on what, and for how long."""
    place = {"process": jax.process_index(), "num_processes": jax.process_count()}
    num_tracks = len(tracks_to_train(open_split(config, **place), config.data.subset))
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    epochs = ", ".join(
        f"{stage.phase.num_epochs} epochs of "
        f"{(stage.last_step - stage.first_step) // stage.phase.num_epochs} steps of "
        f"{stage.phase.batch_size} pairs at {stage.phase.learning_rate:g}"
        for stage in stages
    )
    where = f"{mesh.devices.size} x {jax.devices()[0].device_kind}"
    return (
        f"{config.name}: {num_parameters:,} parameters in {compute_dtype(config)} on {where}; "
        f"{num_tracks:,} {config.data.split} tracks; {epochs}; the first step is compiled"
    )


def stages_of(config: TrainConfig) -> tuple[Stage, ...]:
    """Returns the configuration's phases in steps of its data set."""
    place = {"process": jax.process_index(), "num_processes": jax.process_count()}
    sizes = [
        steps_per_epoch(_with_batch(config, phase.batch_size), **place)
        for phase in config.all_phases
    ]
    return plan_stages(config.all_phases, sizes)


def _with_batch(config: TrainConfig, batch_size: int) -> TrainConfig:
    return dataclasses.replace(
        config, phases=(), data=dataclasses.replace(config.data, batch_size=batch_size)
    )


def _open_batches(
    config: TrainConfig, stage: Stage, first_batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """Returns a stage's batches on this process. Its seed: every stage shuffles by its own, the
    first by the configuration's.
    """
    of_stage = dataclasses.replace(
        _with_batch(config, stage.phase.batch_size), seed=(config.seed + stage.first_step) % 2**31
    )
    layout = resident_layout(config, make_mesh()) if config.data.residency == "device" else None
    place = {"process": jax.process_index(), "num_processes": jax.process_count()}
    return train_batches(of_stage, **place, first_batch=first_batch, layout=layout)


def _batches_from(
    first_step: int,
    last_step: int,
    config: TrainConfig,
    stages: Collection[Stage],
    mesh: jax.sharding.Mesh,
) -> Iterator[tuple[Stage, float, dict[str, jax.Array]]]:
    """Yields every step's stage, the seconds its batch was waited for, and the batch on its way to
    the devices.

    Steps are dispatched and not waited for, so a batch is read and sent while the devices work on
    the one before.
    """
    resident = load_resident(config, mesh) if config.data.residency == "device" else None
    for stage in stages:
        first = max(stage.first_step, first_step)
        last = min(stage.last_step, last_step)
        batches = (
            _open_batches(config, stage, first - stage.first_step) if first < last else iter(())
        )
        for _ in range(first, last):
            start = time.perf_counter()
            rows = next(batches)
            waited_s = time.perf_counter() - start
            batch = global_batch(rows, mesh)
            yield (
                stage,
                waited_s,
                batch if resident is None else cut_crops(resident, batch, config=config),
            )


@contextlib.contextmanager
def _saves_offending_batch(
    config: TrainConfig, stages: tuple[Stage, ...], folder: epath.Path
) -> Iterator[None]:
    """Cuts the batch of a step that was not finite again (on the host: its samples, not their
    places), and says where it is.
    """
    try:
        yield
    except NonFiniteLossError as error:
        stage = next(stage for stage in stages if error.step <= stage.last_step)
        mel_on = "host" if config.data.mix.warps_mel else config.data.mel_on
        on_host = dataclasses.replace(
            config, data=dataclasses.replace(config.data, residency="host", mel_on=mel_on)
        )
        batch = next(_open_batches(on_host, stage, error.step - 1 - stage.first_step))
        path = folder / "nonfinite" / f"step_{error.step}_process_{jax.process_index()}.npz"
        rate = np.asarray(make_schedule(config.optimizer, stages=stages)(error.step - 1))
        save_arrays(path, batch | {"step": np.int64(error.step), "learning_rate": rate})
        raise NonFiniteLossError(f"{error}; its batch is {path}", step=error.step) from error


def _flops_per_segment(config: TrainConfig) -> float:
    num_frames = config.mel.num_frames(config.audio.segment_samples)
    return forward_flops(config.encoder, num_frames=num_frames, num_mels=config.mel.num_mels)


def _log_validation(step: int, state: TrainState, config: TrainConfig, log: MetricLog) -> None:
    log.flush()
    rates = validate(state, config)
    if rates is not None:
        names = {"exact": rates.exact, "near": rates.near, "track": rates.track}
        log.scalars(
            step, {f"validation_{name}_top1": round(value, 4) for name, value in names.items()}
        )
    log.pause()


def _save(
    step: int, state: TrainState, checkpoints: Checkpoints, log: MetricLog, files: GrowingFiles
) -> None:
    """Saves a checkpoint, and the log before it: nobody makes the lines of a checkpoint's steps
    again.
    """
    log.flush()
    log.flush_board()
    files.publish()
    checkpoints.save(step, state)
    log.pause()


class _StopSignal:
    """SIGTERM and Ctrl-C ask the loop to save and leave; a second Ctrl-C breaks off.

    Several processes must leave at the same step: JAX's preemption service takes SIGTERM from the
    system, tells the others and agrees with them on one.
    """

    def __enter__(self) -> "_StopSignal":
        self._asked = threading.Event()
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._old = {
                int(number): signal.signal(number, self._ask)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def is_set(self, step: int) -> bool:
        """Returns whether to leave after step number `step`; asked at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked.is_set()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        self._asked.set()
        signal.signal(number, self._old[number])


if __name__ == "__main__":
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of this run: checkpoints, metrics.jsonl, TensorBoard; may be gs://.",
        required=True,
    )
    flags.DEFINE_integer(
        "stop_at_step", None, "Save and stop after this step; the schedule stays as it is.", 1
    )
    flags.DEFINE_list(
        "allow_change",
        [],
        "Fields that may differ from those the run was begun with: optimizer.learning_rate,...",
    )
    flags.DEFINE_boolean(
        "distributed", False, "One of several processes (hosts); they all run this command."
    )
    command_line.run(
        main,
        config_file="configs/fma.py:small",
        passing=(UnreadableRunError, RunFolderError, RunInUseError),
    )
