"""The loop: a run that was stopped, terminated or killed goes on bit for bit; what cannot work is said in a sentence."""

import contextlib
import gc
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest
from command_flags import command_flags

import confp_jax.training.train as train_module
from confp_jax.config import ConfigError, TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.data.records import DatasetError
from confp_jax.training.changes import refuse_changes
from confp_jax.training.checkpoint import CheckpointError, Checkpoints, DamagedCheckpointWarning
from confp_jax.training.mesh import make_mesh
from confp_jax.training.metric_log import NonFiniteLossError
from confp_jax.training.optim import make_optimizer
from confp_jax.training.step import TrainState, build_state
from confp_jax.training.train import stages_of, train


def _lines(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _steps(workdir: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    return make_optimizer(config.optimizer, stages_of(config))


def _saved_state(workdir: pathlib.Path, config: TrainConfig) -> tuple[TrainState, int]:
    with jax.set_mesh(make_mesh()), Checkpoints.open(workdir, config) as checkpoints:
        return checkpoints.restore(build_state(config, _optimizer(config)))


def _assert_equal(found: pathlib.Path, expected: pathlib.Path, config: TrainConfig) -> None:
    (one, one_step), (other, other_step) = _saved_state(found, config), _saved_state(expected, config)
    assert one_step == other_step == 12
    leaves, paths = jax.tree_util.tree_leaves_with_path(one), jax.tree_util.tree_leaves_with_path(other)
    assert len(leaves) == len(paths) > 50
    for (path, leaf), (_, wanted) in zip(leaves, paths, strict=True):
        np.testing.assert_array_equal(leaf, wanted, err_msg=jax.tree_util.keystr(path))
    names = ("step", "loss", "top1", "gradient_norm", "learning_rate")
    logged = [[tuple(line[name] for name in names) for line in _lines(workdir)] for workdir in (found, expected)]
    assert logged[0] == logged[1]
    assert [values[0] for values in logged[0]] == list(range(1, 13))


def test_stopped_and_resumed(tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Parameters, Adam's moments, BatchNorm's statistics, the data's order and every logged number: not a bit differs."""
    train(tiny(), tmp_path, stop_at_step=6)  # also the policy's step: it is saved once
    assert _steps(tmp_path) == [3, 6]
    train(tiny(), tmp_path, stop_at_step=7)
    assert _steps(tmp_path) == [3, 6, 7]
    train(tiny(), tmp_path)
    assert _steps(tmp_path) == [7, 9, 12], "num_kept = 3"
    _assert_equal(tmp_path, uninterrupted, tiny())
    moved = _saved_state(tmp_path, tiny())[0]
    with jax.set_mesh(make_mesh()):
        start = build_state(tiny(), _optimizer(tiny()))
    for now, then in ((moved.params, start.params), (moved.statistics, start.statistics)):
        assert all(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(now), jax.tree.leaves(then), strict=True))


def test_a_finished_run_stays_as_it_is(tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path) -> None:
    before = _lines(uninterrupted), _steps(uninterrupted)
    train(tiny(), uninterrupted)
    assert (_lines(uninterrupted), _steps(uninterrupted)) == before


def test_what_it_logs(tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path) -> None:
    lines = _lines(uninterrupted)
    assert all({"step", "time", "loss", "top1", "gradient_norm", "learning_rate"} <= line.keys() for line in lines)
    assert all(line["segments_per_s"] > 0 for line in lines[1:])
    assert all(0 <= line["top1"] <= 1 for line in lines)
    assert 0.3 * np.log(7) < lines[0]["loss"]  # 8 embeddings: chance is log 7
    peak = tiny().optimizer.learning_rate
    assert [line["learning_rate"] for line in lines[:10]] == pytest.approx([peak * t / 10 for t in range(10)])
    events = list((uninterrupted / "tensorboard").glob("events.*"))
    assert any(b"gradient_norm" in path.read_bytes() for path in events)


def test_validation_is_logged_and_changes_nothing(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tiny(validation={"every_steps": 5})
    train(config, tmp_path)
    lines = _lines(tmp_path)
    validated = [line for line in lines if "validation_track_top1" in line]
    assert [line["step"] for line in validated] == [5, 10, 12]
    for line in validated:
        assert 0 <= line["validation_exact_top1"] <= line["validation_near_top1"] <= line["validation_track_top1"] <= 1
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses == [line["loss"] for line in _lines(uninterrupted)]


def test_another_encoder_is_refused(tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path) -> None:
    for change in ({"encoder": {"dim": 64}}, {"mel": {"floor": 1e-5}}):
        with pytest.raises(ConfigError, match=r"another model or optimizer: .* -> .*use another --workdir, or the old settings"):
            train(tiny(**change), uninterrupted)


def test_another_kind_of_optimizer_is_refused(tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path) -> None:
    """Or taken over: but not an error out of Orbax's depths."""
    with pytest.raises(ConfigError, match="decoupled"):
        train(tiny(optimizer={"decoupled": False}), uninterrupted)


def test_another_setting_is_refused_unless_it_is_allowed_by_name(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path
) -> None:
    changed = tiny(optimizer={"learning_rate": 5e-4, "clip_norm": 2.0}, seed=3)
    with pytest.raises(
        ConfigError, match=r"seed 0 -> 3, optimizer.learning_rate 0.0012 -> 0.0005, optimizer.clip_norm 1.0 -> 2.0"
    ):
        train(changed, uninterrupted)
    with pytest.raises(ConfigError, match=r"optimizer.clip_norm 1.0 -> 2.0.*--allow_change=optimizer.clip_norm$"):
        train(changed, uninterrupted, allow_change=("seed", "optimizer.learning_rate"))
    with pytest.raises(ConfigError, match="did you mean 'optimizer.clip_norm'"):
        train(changed, uninterrupted, allow_change=("optimizer.clip",))
    train(changed, uninterrupted, allow_change=("seed", "optimizer.learning_rate", "optimizer.clip_norm"))  # it is finished
    train(tiny(log_every_steps=7, validation={"every_steps": 9}), uninterrupted)  # these are free


def test_the_length_is_free_where_it_changes_no_learning_rate(tiny: Callable[..., TrainConfig]) -> None:
    for schedule, refusal in (
        ("constant", contextlib.nullcontext()),
        ("cosine", pytest.raises(ConfigError, match="num_epochs 4 -> 3")),
    ):
        begun, shorter = (tiny(num_epochs=num, optimizer={"schedule": schedule}) for num in (4, 3))
        with refusal:
            refuse_changes(begun, shorter, allowed=(), run="here")
    refuse_changes(begun, shorter, allowed=("num_epochs",), run="here")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # Orbax, after a read that failed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut", "no encoder", "no metadata"])
def test_a_damaged_newest_checkpoint_is_set_aside(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path, damage: str
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
    else:
        for path in newest.rglob("*METADATA*"):
            path.unlink()
    with pytest.warns(DamagedCheckpointWarning, match=r"checkpoints/12 "):
        train(tiny(), run)
    gc.collect()  # Orbax's coroutine goes here, not in another test
    assert _steps(run) == [6, 9, 12]
    assert (run / "checkpoints" / "12.damaged").is_dir()
    _assert_equal(run, uninterrupted, tiny())


@pytest.mark.filterwarnings("error::confp_jax.training.checkpoint.DamagedCheckpointWarning")
def test_where_no_checkpoint_can_be_read_none_is_lost(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A disk or a bucket that does not answer: every start says so, and when it answers again the run goes on."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    hidden = list((run / "checkpoints").rglob("*METADATA*"))
    for path in hidden:
        path.rename(path.with_name("hidden" + path.name))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no checkpoint of this run can be read.*left as they are"):
            train(tiny(), run)
        assert (_steps(run), _lines(run)) == (_steps(uninterrupted), _lines(uninterrupted))
    gc.collect()
    for path in hidden:
        path.with_name("hidden" + path.name).rename(path)
    _assert_equal(run, uninterrupted, tiny())


def test_a_run_of_damaged_checkpoints_does_not_begin_anew(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for step in _steps(run):
        (run / "checkpoints" / str(step)).rename(run / "checkpoints" / f"{step}.damaged")
    with pytest.raises(CheckpointError, match=r"12\.damaged.*rename it to its step alone, to start anew use another --workdir"):
        train(tiny(), run)
    assert _lines(run) == _lines(uninterrupted)
    (run / "checkpoints" / "12.damaged").rename(run / "checkpoints" / "12")
    _assert_equal(run, uninterrupted, tiny())


@pytest.mark.parametrize("num_kills", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path, root: pathlib.Path, num_kills: int
) -> None:
    """SIGKILL while it trains and saves after every step: loss curve and last state are those of a quiet run, to the bit."""
    config, rng = tiny(checkpoint={"every_steps": 1}), np.random.default_rng(0)
    run, kills = tmp_path / "run", 0
    while kills < num_kills:
        if run.exists() and _steps(run) == [10, 11, 12]:
            shutil.rmtree(run)  # it got to the end in between: from the start
        before = max(_steps(run), default=0) if (run / "checkpoints").exists() else 0
        process = subprocess.Popen(_command(config, run), cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = before + int(rng.integers(1, 4))
        while process.poll() is None and not ((run / "checkpoints").exists() and max(_steps(run), default=0) >= target):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    train(config, run)
    _assert_equal(run, uninterrupted, config)


class _KilledError(Exception):
    """Leaves the loop as it stands; the save under way is completed, as it may be when a process is killed."""


@pytest.mark.parametrize("where", ["train_step", "validate"])
def test_a_kill_right_after_a_save_leaves_no_hole_in_the_log(
    tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Log, validation and checkpoint at the same steps. Killed in the step after a save, or in the validation beside it."""
    every = {"every_steps": 4}
    config = tiny(log_every_steps=4, checkpoint=every, validation=every if where == "validate" else {"every_steps": 0})
    function, calls = getattr(train_module, where), itertools.count(1)

    def killed(*args: object, **kwargs: object) -> object:
        if next(calls) == {"train_step": 5, "validate": 2}[where]:
            raise _KilledError
        return function(*args, **kwargs)

    monkeypatch.setattr(train_module, where, killed)
    with pytest.raises(_KilledError):
        train(config, tmp_path)
    assert _steps(tmp_path) == [4]
    train(config, tmp_path)
    for name in ("loss", "validation_track_top1")[: 1 + (where == "validate")]:
        assert [line["step"] for line in _lines(tmp_path) if name in line] == [4, 8, 12]


def test_a_folder_that_cannot_be_written_to(tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to"):
        train(tiny(), tmp_path / "file" / "run")


def test_phases_change_batch_and_rate(tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path) -> None:
    """6 tracks: an epoch is 3 steps of 2 tracks, then 1 step of 6. Stopped inside the second phase, it goes on bit for bit."""
    config = tiny(phases=((1, 1e-3, 4), (3, 5e-4, 12)), optimizer={"schedule": "constant", "warmup_steps": 0})
    train(config, tmp_path / "one")
    lines = _lines(tmp_path / "one")
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3] * 3 + [5e-4] * 3)
    chance = [0.3 * np.log(7)] * 3 + [0.3 * np.log(23)] * 3
    assert all(line["loss"] > least for line, least in zip(lines, chance, strict=True))
    train(config, tmp_path / "two", stop_at_step=4)
    train(config, tmp_path / "two")
    assert [line["loss"] for line in _lines(tmp_path / "two")] == [line["loss"] for line in lines]


def test_a_diverging_run_says_so_and_leaves_a_checkpoint_to_go_on_from(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The advice is: lower the learning rate or set clip_norm, and resume. So both may change between two runs."""
    shutil.copytree(uninterrupted, tmp_path / "run")
    for step in (9, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    wild = tiny(optimizer={"learning_rate": 1e30, "clip_norm": 0.0}, checkpoint={"every_steps": 1}, log_every_steps=4)
    with pytest.raises(NonFiniteLossError, match=r"the loss at step \d+ is .*optimizer\.learning_rate.*clip_norm") as caught:
        train(wild, tmp_path / "run", allow_change=("optimizer.learning_rate", "optimizer.clip_norm"))
    assert "its batch is" in str(caught.value)
    with np.load(next((tmp_path / "run" / "nonfinite").glob("*.npz"))) as saved:
        assert saved["step"] == caught.value.step
        offending = list(itertools.islice(train_batches(wild), caught.value.step))[-1]
        np.testing.assert_array_equal(saved["anchor"], offending["anchor"])
        assert saved["learning_rate"] == pytest.approx(1e30 * (caught.value.step - 1) / 10)
    state, step = _saved_state(tmp_path / "run", wild)
    assert step >= 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), f"the checkpoint of step {step} is not finite"


def test_no_data_says_what_to_do(tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path) -> None:
    with pytest.raises(DatasetError, match=r"no prepared dataset here.*data_prep\.make_train"):
        train(tiny(data={"dir": str(tmp_path)}), tmp_path / "run")
    with pytest.raises(DatasetError, match=r"has 6 training tracks, a batch needs 32"):
        train(tiny(data={"batch_size": 64}), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a run that never began leaves nothing behind"


def _command(config: TrainConfig, workdir: pathlib.Path, *more: str) -> list[str]:
    module = [sys.executable, "-m", "confp_jax.training.train", f"--workdir={workdir}"]
    return [*module, *command_flags(config), *more]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_same_command_goes_on(
    tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path, root: pathlib.Path, number: signal.Signals
) -> None:
    """Ctrl-C reaches the whole process group, so Grain's worker process as well."""
    config = tiny(num_epochs=100_000, checkpoint={"every_steps": 1_000_000}, data={"num_workers": int(number == signal.SIGINT)})
    command = _command(config, tmp_path)
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "metrics.jsonl").exists() or len(_lines(tmp_path)) < 2:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no second step after 300 s"
            time.sleep(0.05)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    (step,) = _steps(tmp_path)
    assert f"step {step} of 300000 saved in {tmp_path}; the same command goes on" in out
    assert [line["step"] for line in _lines(tmp_path)] == list(range(1, step + 1))
    again = subprocess.run([*command, f"--stop_at_step={step + 2}"], cwd=root, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"resumed from step {step}\n" in again.stderr
    assert [line["step"] for line in _lines(tmp_path)] == list(range(1, step + 3))
    assert _steps(tmp_path) == [step, step + 2]


def test_command_line(tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path, root: pathlib.Path) -> None:
    """Errors end with a reason and a status, not with a traceback."""
    runs = {
        "field": _command(tiny(), tmp_path / "run", "--config.encoder.num_layer=2"),
        "data": _command(tiny(data={"dir": str(tmp_path / "nowhere")}), tmp_path / "run"),
        "flag": _command(tiny(), tmp_path / "run", "--stop_after=2"),
    }
    processes = {name: subprocess.Popen(c, cwd=root, stderr=subprocess.PIPE, text=True) for name, c in runs.items()}
    errors = {name: process.communicate()[1] for name, process in processes.items()}
    assert {name: process.returncode for name, process in processes.items()} == {"field": 2, "data": 2, "flag": 2}, errors
    assert "num_layers" in errors["field"], errors["field"]
    assert errors["data"].startswith(f"error: {tmp_path / 'nowhere'}: no prepared dataset here"), errors["data"]
    assert "python -m data_prep.make_train" in errors["data"]
    assert not any("Traceback" in error for error in errors.values()), errors
    assert not (tmp_path / "run").exists()
