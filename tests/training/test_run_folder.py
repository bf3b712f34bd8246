"""A run's files in a bucket: an in-memory one, behind the same etils.epath that speaks to gs://."""

import concurrent.futures
import errno
import fcntl
import json
import os
import pathlib
import signal
import threading
import time

import numpy as np
import optax
import pytest
from etils import epath

from confp_jax.model.weights import absolute_path, complete_steps
from confp_jax.training import run_owner
from confp_jax.training.metric_log import LINES, MetricLog
from confp_jax.training.run_folder import GrowingFiles, check_writable, save_arrays
from confp_jax.training.run_owner import OWNER, RunInUseError, owned
from confp_jax.training.step import Metrics
from confp_jax.typed_config import ConfigError


def _train_a_little(workdir: epath.Path, steps: range, first_step: int) -> None:
    with (
        GrowingFiles.open(workdir, continued=(LINES,)) as files,
        MetricLog.open(
            files.local,
            num_steps=9,
            every_steps=1,
            schedule=optax.constant_schedule(0.1),
            first_step=first_step,
        ) as log,
    ):
        for step in steps:
            log.step(step, Metrics(*[np.float32(step)] * 5, is_finite=np.True_), num_segments=8)
        log.flush()
        log.flush_board()
        files.publish()


def test_the_log_of_a_bucket_run_goes_on(bucket: epath.Path) -> None:
    _train_a_little(bucket, range(1, 4), 0)
    _train_a_little(bucket, range(3, 6), 2)
    lines = [json.loads(line) for line in (bucket / LINES).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert any("tfevents" in path.name for path in (bucket / "tensorboard").iterdir())


def test_arrays_and_steps(bucket: epath.Path) -> None:
    save_arrays(bucket / "nonfinite" / "step_3.npz", {"anchor": np.arange(3)})
    with (bucket / "nonfinite" / "step_3.npz").open("rb") as file:
        np.testing.assert_array_equal(np.load(file)["anchor"], [0, 1, 2])
    for name in ("3", "12", "15.orbax-checkpoint-tmp", "9.damaged"):
        (bucket / "checkpoints" / name / "x").parent.mkdir(parents=True)
        (bucket / "checkpoints" / name / "x").write_text("")
    assert complete_steps(bucket / "checkpoints") == [3, 12]


def test_paths() -> None:
    assert str(absolute_path("gs://bucket/run")) == "gs://bucket/run"
    assert absolute_path("runs/small") == epath.Path(pathlib.Path("runs/small").absolute())


def test_a_read_only_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written to.*free its disk"):
        check_writable(epath.Path(tmp_path / "file" / "run"))


def test_hosts_that_begin_together(tmp_path: pathlib.Path) -> None:
    """Each asks whether the folder can be written to, and none removes what another is about to
    remove.
    """
    num = 8
    together = threading.Barrier(8)

    def begin(_: int) -> None:
        for _ in range(50):
            together.wait(60)
            check_writable(epath.Path(tmp_path / "run"))

    with concurrent.futures.ThreadPoolExecutor(num) as pool:
        list(pool.map(begin, range(num)))
    assert list((tmp_path / "run").iterdir()) == []


class TestOneRunAFolder:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_owner, "_RENEWED_S", 0.1)
        monkeypatch.setattr(run_owner, "_PATIENCE_S", 0.6)

    def _refused_while_held(self, folder: epath.Path) -> None:
        with owned(folder) as check:
            with pytest.raises(RunInUseError, match=r"is being trained by process \d+ on"):
                owned(folder).__enter__()
            check()
        with owned(folder):
            pass

    def test_here(self, tmp_path: pathlib.Path) -> None:
        self._refused_while_held(epath.Path(tmp_path))

    def test_in_a_bucket(self, bucket: epath.Path) -> None:
        self._refused_while_held(bucket)
        assert not (bucket / OWNER).exists()

    def test_a_file_system_without_locks(
        self,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def flock(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", flock)
        self._refused_while_held(epath.Path(tmp_path))
        assert "this file system has no locks" in capsys.readouterr().err.splitlines()[0]

    def test_a_bucket_run_that_was_killed_goes_on(self, bucket: epath.Path) -> None:
        (bucket / OWNER).write_text('{"owner": "process 1 on gone", "renewed": 7}')
        with owned(bucket) as check:
            check()

    def test_a_lost_lease_is_noticed(self, bucket: epath.Path) -> None:
        with owned(bucket) as check:
            (bucket / OWNER).write_text('{"owner": "process 2 on other", "renewed": 0}')
            time.sleep(0.5)
            with pytest.raises(RunInUseError, match="being trained by process 2 on other"):
                check()
        assert (bucket / OWNER).exists()  # the other one's

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
    def test_a_forked_child_does_not_keep_the_lock(self, tmp_path: pathlib.Path) -> None:
        with owned(epath.Path(tmp_path)):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
        try:
            with owned(epath.Path(tmp_path)):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
