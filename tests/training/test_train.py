"""The loop: what it logs and refuses, phases, divergence, the command line."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_checks import logged_lines, saved_state, saved_steps, train_command

import confp_jax.training.train as train_module
from confp_jax.config import MixConfig, TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.data.records import DatasetError
from confp_jax.training.metric_log import NonFiniteLossError
from confp_jax.training.resume_rules import refuse_changes
from confp_jax.training.step import Metrics, TrainState, train_step
from confp_jax.training.train import train
from confp_jax.typed_config import ConfigError


def test_a_finished_run_stays_as_it_is(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path
) -> None:
    before = logged_lines(uninterrupted), saved_steps(uninterrupted)
    train(tiny(), uninterrupted)
    assert (logged_lines(uninterrupted), saved_steps(uninterrupted)) == before


def test_what_it_logs(tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path) -> None:
    lines = logged_lines(uninterrupted)
    assert all(
        {"step", "time", "loss", "top1", "gradient_norm", "learning_rate"} <= line.keys()
        for line in lines
    )
    timed = [line["step"] for line in lines if line.get("segments_per_s", 0) > 0]
    assert timed == [2, 3, 5, 6, 8, 9, 11, 12], (
        "the first interval, and those after a checkpoint, tell no speed"
    )
    assert all(0 <= line["top1"] <= 1 for line in lines)
    assert 0.3 * np.log(7) < lines[0]["loss"]  # 8 embeddings: chance is log 7
    peak = tiny().optimizer.learning_rate
    assert [line["learning_rate"] for line in lines[:10]] == pytest.approx(
        [peak * t / 10 for t in range(10)]
    )
    events = list((uninterrupted / "tensorboard").glob("events.*"))
    assert any(b"gradient_norm" in path.read_bytes() for path in events)


def test_validation_is_logged_and_changes_nothing(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tiny(validation={"every_steps": 5})
    train(config, tmp_path)
    lines = logged_lines(tmp_path)
    validated = [line for line in lines if "validation_track_top1" in line]
    assert [line["step"] for line in validated] == [5, 10, 12]
    for line in validated:
        assert (
            0
            <= line["validation_exact_top1"]
            <= line["validation_near_top1"]
            <= line["validation_track_top1"]
            <= 1
        )
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses == [line["loss"] for line in logged_lines(uninterrupted)]


def test_another_encoder_is_refused(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path
) -> None:
    for change in ({"encoder": {"dim": 64}}, {"mel": {"floor": 1e-5}}):
        with pytest.raises(
            ConfigError,
            match=r"another model or optimizer: .* -> .*use another --workdir, or the old settings",
        ):
            train(tiny(**change), uninterrupted)


def test_another_kind_of_optimizer_is_refused(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path
) -> None:
    """Or taken over: but not an error out of Orbax's depths."""
    with pytest.raises(ConfigError, match="decoupled"):
        train(tiny(optimizer={"decoupled": False}), uninterrupted)


def test_another_setting_is_refused_unless_it_is_allowed_by_name(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path
) -> None:
    changed = tiny(optimizer={"learning_rate": 5e-4, "clip_norm": 2.0}, seed=3)
    with pytest.raises(
        ConfigError,
        match=r"seed 0 -> 3, optimizer.learning_rate 0.0012 -> 0.0005, optimizer.clip_norm 1.0 "
        r"-> 2.0",
    ):
        train(changed, uninterrupted)
    with pytest.raises(
        ConfigError, match=r"optimizer.clip_norm 1.0 -> 2.0.*--allow_change=optimizer.clip_norm$"
    ):
        train(changed, uninterrupted, allow_change=("seed", "optimizer.learning_rate"))
    with pytest.raises(ConfigError, match="did you mean 'optimizer.clip_norm'"):
        train(changed, uninterrupted, allow_change=("optimizer.clip",))
    train(
        changed,
        uninterrupted,
        allow_change=("seed", "optimizer.learning_rate", "optimizer.clip_norm"),
    )  # it is finished
    train(tiny(log_every_steps=7, validation={"every_steps": 9}), uninterrupted)  # these are free


def test_the_length_is_free_where_it_changes_no_learning_rate(
    tiny: Callable[..., TrainConfig],
) -> None:
    for schedule, refusal in (
        ("constant", contextlib.nullcontext()),
        ("cosine", pytest.raises(ConfigError, match="num_epochs 4 -> 3")),
    ):
        begun, shorter = (tiny(num_epochs=num, optimizer={"schedule": schedule}) for num in (4, 3))
        with refusal:
            refuse_changes(begun, shorter, allowed=(), run="here")
    refuse_changes(begun, shorter, allowed=("num_epochs",), run="here")


@pytest.fixture
def diverges(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with diverges():` no step's loss is finite; nothing is compiled for it."""

    def step(*args: object, **kwargs: object) -> tuple[TrainState, Metrics]:
        state, metrics = train_step(*args, **kwargs)
        return state, metrics._replace(loss=jnp.float32(np.nan), is_finite=jnp.bool_(False))

    @contextlib.contextmanager
    def patched() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(train_module, "train_step", step)
            yield

    return patched


def test_a_set_in_device_memory_trains_alike(
    tiny: Callable[..., TrainConfig],
    tmp_path: pathlib.Path,
    diverges: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """As from the host, stopped and resumed as well; of a step that is not finite the samples are
    saved.
    """
    host, device = (
        tiny(data={"mel_on": "device", "residency": residency}) for residency in ("host", "device")
    )
    train(host, tmp_path / "host", stop_at_step=4)
    for step in (2, 4):
        train(device, tmp_path / "device", stop_at_step=step)
    losses = [
        [line["loss"] for line in logged_lines(tmp_path / name)] for name in ("host", "device")
    ]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
    with diverges(), pytest.raises(NonFiniteLossError) as caught:
        train(device, tmp_path / "device")
    with np.load(next((tmp_path / "device" / "nonfinite").glob("*.npz"))) as saved:
        offending = list(itertools.islice(train_batches(host), caught.value.step))[-1]
        np.testing.assert_array_equal(saved["anchor"], offending["anchor"])


def test_what_a_device_mixes_is_resumed_exactly(
    tiny: Callable[..., TrainConfig],
    tmp_path: pathlib.Path,
    diverges: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """Every distortion on, synthetic rooms and coloured noise too, whose samples the device
    makes.
    """
    everything = {
        name: 0.5
        for name in (field.name for field in dataclasses.fields(MixConfig))
        if name.endswith("_p")
    }
    config = tiny(data={"mel_on": "device", "residency": "device", "mix": MixConfig(**everything)})
    train(config, tmp_path / "whole", stop_at_step=4)
    for step in (2, 4):
        train(config, tmp_path / "parts", stop_at_step=step)
    whole, parts = (
        [line["loss"] for line in logged_lines(tmp_path / name)] for name in ("whole", "parts")
    )
    assert whole == parts
    assert np.isfinite(whole).all()
    with diverges(), pytest.raises(NonFiniteLossError):
        train(config, tmp_path / "parts")
    with np.load(next((tmp_path / "parts" / "nonfinite").glob("*.npz"))) as saved:
        assert saved["replica"].ndim == 3, "mel power, as the step saw it"


def test_phases_change_batch_and_rate(
    tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path
) -> None:
    """6 tracks: an epoch is 3 steps of 2 tracks, then 1 step of 6.

    Stopped inside the second phase, it continues bit for bit.
    """
    config = tiny(
        phases=((1, 1e-3, 4), (3, 5e-4, 12)), optimizer={"schedule": "constant", "warmup_steps": 0}
    )
    before = train_step.jitted()._cache_size()
    train(config, tmp_path / "one")
    assert train_step.jitted()._cache_size() == before + 2, "compiled once for each phase"
    lines = logged_lines(tmp_path / "one")
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3] * 3 + [5e-4] * 3)
    chance = [0.3 * np.log(7)] * 3 + [0.3 * np.log(23)] * 3
    assert all(line["loss"] > least for line, least in zip(lines, chance, strict=True))
    train(config, tmp_path / "two", stop_at_step=4)
    train(config, tmp_path / "two")
    assert [line["loss"] for line in logged_lines(tmp_path / "two")] == [
        line["loss"] for line in lines
    ]


def test_a_diverging_run_says_so_and_leaves_a_checkpoint_to_go_on_from(
    tiny: Callable[..., TrainConfig], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The advice is: lower the learning rate or set clip_norm, and resume.

    So both may change between two runs.
    """
    shutil.copytree(uninterrupted, tmp_path / "run")
    for step in (9, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    wild = tiny(
        optimizer={"learning_rate": 1e30, "clip_norm": 0.0},
        checkpoint={"every_steps": 1},
        log_every_steps=4,
    )
    with pytest.raises(
        NonFiniteLossError, match=r"the loss at step \d+ is .*optimizer\.learning_rate.*clip_norm"
    ) as caught:
        train(
            wild, tmp_path / "run", allow_change=("optimizer.learning_rate", "optimizer.clip_norm")
        )
    assert "its batch is" in str(caught.value)
    with np.load(next((tmp_path / "run" / "nonfinite").glob("*.npz"))) as saved:
        assert saved["step"] == caught.value.step
        offending = list(itertools.islice(train_batches(wild), caught.value.step))[-1]
        np.testing.assert_array_equal(saved["anchor"], offending["anchor"])
        assert saved["learning_rate"] == pytest.approx(1e30 * (caught.value.step - 1) / 10)
    state, step = saved_state(tmp_path / "run", wild)
    assert step >= 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), (
        f"the checkpoint of step {step} is not finite"
    )


def test_no_data_says_what_to_do(tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path) -> None:
    with pytest.raises(DatasetError, match=r"no prepared dataset here.*data_prep\.make_train"):
        train(tiny(data={"dir": str(tmp_path)}), tmp_path / "run")
    with pytest.raises(DatasetError, match=r"has 6 training tracks, a batch needs 32"):
        train(tiny(data={"batch_size": 64}), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a run that never began leaves nothing behind"


def test_hosts_that_do_not_come(root: pathlib.Path) -> None:
    """JAX would end it with SIGABRT and a stack."""
    program = "from confp_jax.training import mesh; mesh._JOIN_S = 1.0; mesh.join_hosts()"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert (
        done.stderr.startswith("error: --distributed: not all processes came")
        and "JAX_NUM_PROCESSES" in done.stderr
    )


def test_command_line(
    tiny: Callable[..., TrainConfig], tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    """Errors end with a reason and a status, not with a traceback.

    Wrong fields are in tests/test_config.py, a folder that cannot be written in test_never_lose.py.
    """
    runs = {
        "data": train_command(tiny(data={"dir": str(tmp_path / "nowhere")}), tmp_path / "run"),
        "flag": train_command(tiny(), tmp_path / "run", "--stop_after=2"),
        "hosts": train_command(tiny(), tmp_path / "run", "--distributed"),
    }
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": "localhost:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "2",
    }
    options = {"cwd": root, "env": environment, "stderr": subprocess.PIPE, "text": True}
    processes = {name: subprocess.Popen(command, **options) for name, command in runs.items()}
    errors = {name: process.communicate()[1] for name, process in processes.items()}
    assert {process.returncode for process in processes.values()} == {2}, errors
    assert "stop_after" in errors["flag"], errors["flag"]
    assert errors["data"].startswith(f"error: {tmp_path / 'nowhere'}: no prepared dataset here"), (
        errors["data"]
    )
    assert "python -m data_prep.make_train" in errors["data"]
    assert (
        "the processes did not come together" in errors["hosts"]
        and "JAX_NUM_PROCESSES" in errors["hosts"]
    )
    assert not any("Traceback" in error for error in errors.values()), errors
    assert not (tmp_path / "run").exists()
