"""A fake cloud in a folder, for launch/tpu.sh and launch/gpu.sh: fake_gcloud.py stands in for their
programs.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

DATA = "gs://bucket/data"
_FAKE = pathlib.Path(__file__).with_name("fake_gcloud.py")


class Cloud:
    """`run` is a command of a launch script, `calls` what it asked for."""

    def __init__(
        self,
        folder: pathlib.Path,
        root: pathlib.Path,
        *,
        script: str = "tpu.sh",
        num_workers: int = 2,
        **variables: str,
    ):
        self.folder = folder
        self.root = root
        self._script = script
        tools = folder / "bin"
        tools.mkdir()
        for name in ("gcloud", "uv", "ssh", "scp", "ssh-add", "rsync"):
            (tools / name).write_text(f"#!{sys.executable}\n{_FAKE.read_text()}")
            (tools / name).chmod(0o755)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self._environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "FAKE_ROOT": str(folder),
        }
        self._environment |= {
            "FAKE_WORKERS": str(num_workers),
            "FAKE_COORDINATOR": f"localhost:{port}",
            "POLL_S": "0.2",
        }
        self._environment |= variables

    def run(self, *arguments: str, status: int = 0) -> str:
        command = [str(self.root / "launch" / self._script), *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=500
        )
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout + done.stderr

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker*/train.log")))

    def wait(self, word: str, *, num: int) -> None:
        """Until `num` workers have written `word`."""
        deadline = time.monotonic() + 400
        while sum(word in path.read_text() for path in self.folder.glob("worker*/train.log")) < num:
            assert time.monotonic() < deadline and (
                "failed with" not in self.logs() or "failed with" in word
            ), self.logs()
            time.sleep(0.2)
