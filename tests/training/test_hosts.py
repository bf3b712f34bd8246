"""Two hosts: launch/tpu.sh starts two real processes that train together, are preempted, and
continue as one, two or none.
"""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest
from command_flags import command_flags
from fake_cloud import DATA, Cloud

from confp_jax.config import TrainConfig
from confp_jax.training.train import train


def _losses(workdir: pathlib.Path) -> dict[int, float]:
    lines = [
        json.loads(line)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert len(lines) == len({line["step"] for line in lines}), "one writer, and no step twice"
    return {line["step"]: line["loss"] for line in lines}


def test_two_hosts_then_one_then_two(
    tiny: Callable[..., TrainConfig],
    prepared: pathlib.Path,
    tmp_path: pathlib.Path,
    root: pathlib.Path,
    variables: dict[str, str],
    uninterrupted: pathlib.Path,
) -> None:
    """The losses are those of one process that was never stopped: hosts cut their rows of the same
    batches.

    Each host has half of the training shards only, the process that continues alone all of them.
    Begun with another run's encoder; without dropout and masks, which are drawn by row: two hosts
    hold a batch's rows in another order. What is left is rounding.
    """
    still = {"num_frequency_masks": 0, "num_time_masks": 0}
    config = tiny(
        encoder={"dropout": 0.0},
        spec_augment=still,
        validation={"every_steps": 12},
        init_from=str(uninterrupted),
    )
    cloud = Cloud(tmp_path, root, SHARES="2", **variables)
    workdir = tmp_path / "run"
    shutil.copytree(prepared, tmp_path / "buckets" / "bucket" / "data")
    cloud.run("create")
    cloud.run("setup")
    for number in 0, 1:
        assert _shards(tmp_path / f"worker{number}") == [number, number + 2, number + 4]
    cloud.run("train", *command_flags(config), "--stop_at_step=3")
    cloud.wait("finished", num=2)
    assert sorted(_losses(workdir)) == [1, 2, 3]

    config = dataclasses.replace(config, data=dataclasses.replace(config.data, num_shares=2))
    train(config, workdir, stop_at_step=6)

    _preempt_and_resume(cloud, tmp_path)

    train(config, tmp_path / "alone")
    expected = _losses(tmp_path / "alone")
    assert sorted(_losses(workdir)) == sorted(expected) == list(range(1, 13))
    np.testing.assert_allclose(
        [_losses(workdir)[step] for step in expected], list(expected.values()), rtol=2e-3
    )
    validated = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        for run in (workdir, tmp_path / "alone")
    ]
    assert validated[0]["validation_track_top1"] == validated[1]["validation_track_top1"]
    verbs = [
        call[3:5] if call[1] == "compute" else call[1:3]
        for call in cloud.calls()
        if call[0] == "gcloud"
    ]
    assert verbs.count(["queued-resources", "create"]) == verbs.count(["tpu-vm", "scp"]) == 2


def _shards(worker: pathlib.Path) -> list[int]:
    """The numbers of the training shards that a host holds."""
    files = sorted((worker / "data").glob("*-training.array_record-*"))
    return [int(path.name.split("-")[-3]) for path in files]


def _preempt_and_resume(cloud: Cloud, folder: pathlib.Path) -> None:
    """Takes the machines away after step 6, and trains on new ones to step 12."""
    for worker in folder.glob("worker*"):
        shutil.rmtree(worker)
    (folder / "resource").write_text("SUSPENDED")
    cloud.run("resume", "--stop_at_step=12")
    cloud.wait("finished", num=2)
    assert "resumed from step 6" in cloud.logs()
    assert "finished" in cloud.run("watch")
    deadline = time.monotonic() + 30
    while (
        cloud.run("status").count("not running") < 2
    ):  # a process that ended may be waiting for its parent
        assert time.monotonic() < deadline


@pytest.mark.slow
def test_stop_makes_both_hosts_save_the_same_step(
    tiny: Callable[..., TrainConfig],
    prepared: pathlib.Path,
    tmp_path: pathlib.Path,
    root: pathlib.Path,
    variables: dict[str, str],
) -> None:
    config = tiny(num_epochs=100_000, checkpoint={"every_steps": 1_000_000}, log_every_steps=5)
    cloud = Cloud(tmp_path, root, **variables)
    workdir = tmp_path / "run"
    shutil.copytree(prepared, tmp_path / "buckets" / "bucket" / "data")
    for command in (["create"], ["setup"], ["train", *command_flags(config)]):
        cloud.run(*command)
    cloud.wait("step 10/", num=1)
    cloud.run("stop")
    saved = [line for line in cloud.logs().splitlines() if "the same command continues" in line]
    assert len(saved) == 2 and saved[0] == saved[1], cloud.logs()
    assert (workdir / "checkpoints" / saved[0].split()[1]).is_dir()


def test_gpu_host(prepared: pathlib.Path, tmp_path: pathlib.Path, root: pathlib.Path) -> None:
    """setup, train, status, logs and stop over ssh; the trainer refuses its settings, and is not
    tried again.
    """
    cloud = Cloud(
        tmp_path,
        root,
        script="gpu.sh",
        num_workers=1,
        HOSTS="me@host0",
        DATA=DATA,
        WORKDIR=str(tmp_path / "run"),
    )
    shutil.copytree(prepared, tmp_path / "buckets" / "bucket" / "data")
    cloud.run("setup")
    assert (tmp_path / "worker0" / "data").is_dir()
    assert ["uv", "pip"] in [call[:2] for call in cloud.calls()]
    assert "started" in cloud.run(
        "train",
        "--config=configs/fma.py:tiny",
        "--config.data.batch_size=63",
        "--config.name=a b'c",
    )
    deadline = time.monotonic() + 300
    while "failed with status 2" not in cloud.logs():
        assert time.monotonic() < deadline, cloud.logs()
        time.sleep(0.2)
    assert "error: data.batch_size=63 (or that of a phase) is no multiple" in cloud.run("logs")
    while "not running" not in cloud.run(
        "status"
    ):  # a process that ended may be waiting for its parent
        assert time.monotonic() < deadline
        time.sleep(0.2)
    cloud.run("stop")
