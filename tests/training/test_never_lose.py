"""A run that was stopped, terminated or killed, or whose checkpoints or disk fail it, continues bit
for bit and loses nothing.
"""

import dataclasses
import errno
import gc
import itertools
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest
from run_checks import (
    assert_equal_runs,
    logged_lines,
    optimizer_of,
    saved_state,
    saved_steps,
    train_command,
)

import confp_jax.training.train as train_module
from confp_jax import command_line
from confp_jax.config import TrainConfig
from confp_jax.model.weights import CheckpointError
from confp_jax.training.checkpoint import DamagedCheckpointWarning
from confp_jax.training.mesh import make_mesh
from confp_jax.training.metric_log import MetricLog
from confp_jax.training.run_folder import RunFolderError
from confp_jax.training.step import build_state
from confp_jax.training.train import train
from confp_jax.typed_config import ConfigError


def test_stopped_and_resumed(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Parameters, Adam's moments, BatchNorm's statistics, the data's order and every logged number:
    not a bit differs.
    """
    train(tiny(), tmp_path, stop_at_step=6)  # also the policy's step: it is saved once
    assert saved_steps(tmp_path) == [3, 6]
    train(tiny(), tmp_path, stop_at_step=7)
    assert saved_steps(tmp_path) == [3, 6, 7]
    train(tiny(), tmp_path)
    assert saved_steps(tmp_path) == [7, 9, 12], "num_kept = 3"
    assert_equal_runs(tmp_path, uninterrupted, tiny())
    moved = saved_state(tmp_path, tiny())[0]
    with jax.set_mesh(make_mesh()):
        start = build_state(tiny(), optimizer_of(tiny()))
    for now, then in ((moved.params, start.params), (moved.statistics, start.statistics)):
        assert all(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(now), jax.tree.leaves(then), strict=True)
        )


@pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning"
)  # Orbax, after a read that failed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut", "no encoder", "no metadata", "other arrays"])
def test_a_damaged_newest_checkpoint_is_set_aside(
    tiny: Callable[..., TrainConfig],
    uninterrupted: pathlib.Path,
    tmp_path: pathlib.Path,
    damage: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    newest = run / "checkpoints" / "12"
    if damage == "cut":
        for path in newest.rglob("*"):
            if path.is_file() and "METADATA" not in path.name and path.stat().st_size > 2000:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "no encoder":
        shutil.rmtree(newest / "encoder")
    elif damage == "other arrays":  # as one flipped bit leaves them
        shutil.rmtree(newest / "optimizer")
        shutil.copytree(run / "checkpoints" / "9" / "optimizer", newest / "optimizer")
    else:
        for path in newest.rglob("*METADATA*"):
            path.unlink()
    with pytest.warns(DamagedCheckpointWarning, match=r"checkpoints/12 "):
        train(tiny(), run)
    gc.collect()  # Orbax's coroutine goes here, not in another test
    assert saved_steps(run) == [6, 9, 12]
    assert (run / "checkpoints" / "12.damaged").is_dir()
    assert_equal_runs(run, uninterrupted, tiny())


@pytest.mark.filterwarnings("error::confp_jax.training.checkpoint.DamagedCheckpointWarning")
def test_where_no_checkpoint_can_be_read_none_is_lost(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A disk or a bucket that does not answer: every start says so, and when it answers again the
    run continues.
    """
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    hidden = list((run / "checkpoints").rglob("*METADATA*"))
    for path in hidden:
        path.rename(path.with_name("hidden" + path.name))
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"no checkpoint of this run can be read.*left as they are"
        ):
            train(tiny(), run)
        assert (saved_steps(run), logged_lines(run)) == (
            saved_steps(uninterrupted),
            logged_lines(uninterrupted),
        )
    gc.collect()
    for path in hidden:
        path.with_name("hidden" + path.name).rename(path)
    assert_equal_runs(run, uninterrupted, tiny())


def test_a_run_of_damaged_checkpoints_does_not_start_over(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for step in saved_steps(run):
        (run / "checkpoints" / str(step)).rename(run / "checkpoints" / f"{step}.damaged")
    with pytest.raises(
        CheckpointError,
        match=r"12\.damaged.*rename it to its step alone, to start again use another --workdir",
    ):
        train(tiny(), run)
    assert logged_lines(run) == logged_lines(uninterrupted)
    (run / "checkpoints" / "12.damaged").rename(run / "checkpoints" / "12")
    assert_equal_runs(run, uninterrupted, tiny())


@pytest.mark.parametrize("num_kills", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    tiny: Callable[..., TrainConfig],
    uninterrupted: pathlib.Path,
    tmp_path: pathlib.Path,
    root: pathlib.Path,
    num_kills: int,
) -> None:
    """SIGKILL while it trains and saves after every step: loss curve and last state are those of a
    quiet run, to the bit.
    """
    config = tiny(checkpoint={"every_steps": 1})
    rng = np.random.default_rng(0)
    run = tmp_path / "run"
    kills = 0
    while kills < num_kills:
        before = max(saved_steps(run), default=0) if (run / "checkpoints").exists() else 0
        if before == 12:
            # it got to the end in between (what a kill kept from being pruned may lie there too)
            shutil.rmtree(run)
            before = 0
        process = subprocess.Popen(
            train_command(config, run),
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        target = before + int(rng.integers(1, 4))
        while process.poll() is None and not (
            (run / "checkpoints").exists() and max(saved_steps(run), default=0) >= target
        ):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    train(config, run)
    assert_equal_runs(run, uninterrupted, config)


class _KilledError(Exception):
    """Leaves the loop as it stands; the save under way is completed, as it may be when a process is
    killed.
    """


@pytest.mark.parametrize("where", ["train_step", "validate"])
def test_a_kill_right_after_a_save_leaves_no_hole_in_the_log(
    tiny: Callable[..., TrainConfig],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Log, validation and checkpoint at the same steps.

    Killed in the step after a save, or in the validation beside it.
    """
    every = {"every_steps": 4}
    config = tiny(
        log_every_steps=4,
        checkpoint=every,
        validation=every if where == "validate" else {"every_steps": 0},
    )
    function = getattr(train_module, where)
    calls = itertools.count(1)

    def killed(*args: object, **kwargs: object) -> object:
        if next(calls) == {"train_step": 5, "validate": 2}[where]:
            raise _KilledError
        return function(*args, **kwargs)

    monkeypatch.setattr(train_module, where, killed)
    with pytest.raises(_KilledError):
        train(config, tmp_path)
    assert saved_steps(tmp_path) == [4]
    train(config, tmp_path)
    for name in ("loss", "validation_track_top1")[: 1 + (where == "validate")]:
        assert [line["step"] for line in logged_lines(tmp_path) if name in line] == [4, 8, 12]


def test_a_folder_that_cannot_be_written_to(
    tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^--workdir=.*/file/run cannot be written to"):
        train(tiny(), tmp_path / "file" / "run")


def test_a_disk_that_is_full_for_a_checkpoint(
    tiny: Callable[..., TrainConfig],
    uninterrupted: pathlib.Path,
    tmp_path: pathlib.Path,
    root: pathlib.Path,
) -> None:
    """With a limit on a file's size, of which Orbax hears as of a full disk.

    Programs come from a copy of the cache: the limit would leave halves of files in the session's.
    """
    command = [
        "bash",
        "-c",
        'ulimit -f 64 && exec "$@"',
        "limited",
        *train_command(tiny(), tmp_path / "run", "--stop_at_step=4"),
    ]
    cache = shutil.copytree(os.environ["JAX_COMPILATION_CACHE_DIR"], tmp_path / "cache")
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, "which launch/ tries again"
    (told,) = (
        line for line in done.stderr.splitlines() if line.startswith("error: ")
    )  # TensorStore's threads may say more
    assert "a checkpoint could not be written" in told
    assert "free space" in told and "the same command continues" in told
    train(tiny(), tmp_path / "run", stop_at_step=4)
    assert saved_steps(tmp_path / "run") == [3, 4]


def test_orbaxs_tracebacks_are_not_logged() -> None:
    """It logs one in each of its threads before it raises the error, which is told in a line; what
    it warns of is logged.
    """
    error = (ValueError, ValueError("disk full"), None)
    for name, exc_info, is_told in (
        ("orbax/a.py", error, False),
        ("orbax/a.py", None, True),
        ("confp_jax/a.py", error, True),
    ):
        record = logging.LogRecord(
            "absl", logging.ERROR, f"/site-packages/{name}", 1, "saving failed", None, exc_info
        )
        assert command_line._is_news(record) == is_told


def test_a_disk_that_is_full_for_the_log(
    tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    monkeypatch.setattr(MetricLog, "scalars", full)
    with pytest.raises(
        RunFolderError,
        match=r"No space left on device: 'metrics.jsonl'; free space .*the same command continues",
    ):
        train(tiny(), tmp_path)


def _children(process: subprocess.Popen[str]) -> list[int]:
    threads = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    found = [
        int(child) for thread in threads for child in (thread / "children").read_text().split()
    ]
    assert len(found) >= 2  # a worker, and multiprocessing's resource tracker
    return found


def _wait_for_step(step: int, folder: pathlib.Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (folder / "metrics.jsonl").exists() or len(logged_lines(folder)) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no step {step} after 300 s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_the_same_command_goes_on(
    tiny: Callable[..., TrainConfig],
    tmp_path: pathlib.Path,
    root: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """Ctrl-C, and `timeout`'s SIGTERM, reach the whole process group, so Grain's worker process as
    well, which reads on.
    """
    config = tiny(
        num_epochs=100_000, checkpoint={"every_steps": 1_000_000}, data={"num_workers": 1}
    )
    command = train_command(config, tmp_path)
    process = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for_step(2, tmp_path, process)
        for child in _children(process):
            os.kill(child, number)
        _wait_for_step(
            len(logged_lines(tmp_path)) + 10, tmp_path, process
        )  # more than was read ahead
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    (step,) = saved_steps(tmp_path)
    assert f"step {step} of 300000 saved in {tmp_path}; the same command continues" in out
    assert [line["step"] for line in logged_lines(tmp_path)] == list(range(1, step + 1))
    here = dataclasses.replace(config, data=dataclasses.replace(config.data, num_workers=0))
    train(here, tmp_path, stop_at_step=step + 2)
    assert f"resumed from step {step}\n" in capsys.readouterr().err
    assert [line["step"] for line in logged_lines(tmp_path)] == list(range(1, step + 3))
    assert saved_steps(tmp_path) == [step, step + 2]


def test_workers_end_with_a_killed_run(
    tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    """Whoever starts it again and again must not gather processes."""
    command = train_command(tiny(num_epochs=100_000, data={"num_workers": 1}), tmp_path)
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_for_step(2, tmp_path, process)
        children = _children(process)
    finally:
        process.kill()
    deadline = time.monotonic() + 30
    while any(pathlib.Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a worker outlived its run by 30 s"
        time.sleep(0.1)
    process.communicate()
