"""The preparation as a process: killed and started again, and errors on its command line."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TextIO

import numpy as np
import psutil
import pytest
from rich.console import Console
from shard_bytes import shard_bytes

from confp_jax.data.clips import ClipSource
from data_prep.config import PrepareConfig
from data_prep.make_train import prepare


def _command(config: PrepareConfig, *more: str) -> list[str]:
    names = ("name", "music_dir", "noise_dir", "ir_dir", "out", "num_replicas", "tracks_per_shard")
    values = [f"--config.{name}={getattr(config, name)}" for name in names]
    return [
        sys.executable,
        "-m",
        "data_prep.make_train",
        "--config=configs/prepare.py",
        *values,
        *more,
    ]


def _notes(out: pathlib.Path) -> list[pathlib.Path]:
    return list(out.glob(".shards/*.json"))


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen, stderr: TextIO) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            stderr.seek(0)
            raise AssertionError(
                f"no unfinished shard beside finished ones; status {process.returncode}: "
                f"{stderr.read()}"
            )
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _assert_gone(processes: list[psutil.Process]) -> None:
    """Workers notice that their parent is gone and end; a zombie that nobody has buried yet counts
    as gone.
    """
    deadline = time.monotonic() + 20
    while alive := [process for process in processes if _is_alive(process)]:
        if time.monotonic() > deadline:
            for process in alive:
                process.kill()
            raise AssertionError(f"processes run on without their parent: {alive}")
        time.sleep(0.1)


def test_killed_and_started_again(
    prepared: pathlib.Path,
    prepare_config: Callable[..., PrepareConfig],
    tmp_path: pathlib.Path,
    root: pathlib.Path,
) -> None:
    """SIGKILL in the middle, twice, with and without worker processes: in the end every byte is as
    without.
    """
    out = tmp_path / "out"
    config = prepare_config(out)
    rng = np.random.default_rng(
        int.from_bytes(os.urandom(4))
    )  # a moment of its own in every run of this test
    for num_workers, num_more in ((2, 0), (1, 1)):
        goal = len(_notes(out)) + num_more
        with open(
            tmp_path / "stderr", "w+"
        ) as stderr:  # no pipe: a worker that lives on would hold its end open
            command = _command(config, f"--config.num_workers={num_workers}")
            process = subprocess.Popen(command, cwd=root, stderr=stderr)
            try:
                _wait_for(
                    lambda goal=goal: list(out.glob("*.part")) != [] and len(_notes(out)) >= goal,
                    process,
                    stderr,
                )
                time.sleep(rng.uniform(0, 0.15))
                workers = psutil.Process(process.pid).children(recursive=True)
            finally:
                process.kill()
                process.wait()
        assert process.returncode == -signal.SIGKILL, "it was done before the kill"
        _assert_gone(workers)
        with pytest.raises(ValueError, match="no prepared dataset"):
            ClipSource(out, "training")  # unfinished is not taken for finished
    finished = {note.stem: (out / note.stem).stat().st_mtime_ns for note in _notes(out)}
    assert 0 < len(finished) < 8
    prepare(config, Console(quiet=True))
    assert shard_bytes(out) == shard_bytes(prepared)
    assert (out / "confp.json").read_text() == (prepared / "confp.json").read_text()
    assert not list(out.rglob("*.part"))
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished, (
        "finished shards are not made again"
    )


def test_command_line(
    prepare_config: Callable[..., PrepareConfig], tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    """Errors end with a reason and a status, not with a traceback."""
    config = prepare_config(tmp_path / "out")
    runs = {
        "field": _command(config, "--config.num_replica=3"),
        "folder": _command(config, f"--config.music_dir={tmp_path / 'nowhere'}"),
    }
    processes = {
        name: subprocess.Popen(c, cwd=root, stderr=subprocess.PIPE, text=True)
        for name, c in runs.items()
    }
    errors = {name: process.communicate()[1] for name, process in processes.items()}
    assert {name: process.returncode for name, process in processes.items()} == {
        "field": 2,
        "folder": 2,
    }, errors
    assert "num_replicas" in errors["field"].split("num_replica", 1)[1], errors["field"]
    assert errors["folder"].startswith(f"error: {tmp_path / 'nowhere'}: no such folder"), errors[
        "folder"
    ]
    assert not any("Traceback" in error for error in errors.values()), errors
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*array_record*"))
