"""A command with a limit of time, and what it cost.

Peak memory is the kernel's figure for the command and what it started and waited for. A process
inherits the figure of the one that starts it, which here may hold gigabytes: so a small
interpreter that runs this very file stands in between.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

_LAST_CHARACTERS = 600
_LOOK_S = 1.0


@dataclasses.dataclass(frozen=True)
class Ran:
    """`status` is the exit status, negative for a signal; None: it was ended at its limit of
    time.
    """

    status: int | None
    wall_s: float
    peak_bytes: int
    stdout: str
    stderr: str

    @property
    def trouble(self) -> str:
        """Why it is no success, or nothing."""
        if self.status == 0:
            return ""
        last = " ".join(self.stderr.split())[-_LAST_CHARACTERS:]
        if self.status is None:
            return (
                f"it was ended after {self.wall_s:.0f} s, beyond its "
                f"limit{'; it last said: ' + last if last else ''}"
            )
        how = f"signal {-self.status}" if self.status < 0 else f"status {self.status}"
        return f"it ended with {how}{': ' + last if last else ''}"


class Grows(NamedTuple):
    """A file that a command writes to while it works: one that does not grow for so long means that
    it hangs.
    """

    path: pathlib.Path
    within_s: float


def run_bounded(
    argv: Sequence[str],
    *,
    limit_s: float,
    grows: Grows | None = None,
) -> Ran:
    """Runs a command without a shell; at the limit, or where it hangs, it is killed with all that
    it started.

    Raises:
      FileNotFoundError: there is no such program.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report, out, err = (pathlib.Path(scratch) / name for name in ("report", "stdout", "stderr"))
        began = time.perf_counter()
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            launcher = [sys.executable, "-I", "-S", __file__, str(report), *argv]
            child = subprocess.Popen(  # noqa: S603 (an argument list, no shell)
                launcher,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                _wait(child, limit_s, grows)
            finally:
                _end(child)
        wall_s = time.perf_counter() - began
        texts = [path.read_bytes().decode(errors="replace") for path in (out, err)]
        if not report.is_file():
            return Ran(None, wall_s, 0, *texts)
        found = json.loads(report.read_text())
        if found["status"] is None:
            raise FileNotFoundError(f"{argv[0]} cannot be run: {found['error']}")
        return Ran(found["status"], wall_s, found["peak_bytes"], *texts)


def _wait(child: subprocess.Popen, limit_s: float, grows: Grows | None) -> None:
    """Waits until it ends, or must be ended."""
    until = time.monotonic() + limit_s
    size = 0
    grown_at = time.monotonic()
    while time.monotonic() < until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(min(_LOOK_S if grows else limit_s, max(0.0, until - time.monotonic())))
            return
        if grows is None:
            return
        now = grows.path.stat().st_size if grows.path.is_file() else 0
        if now != size:
            size = now
            grown_at = time.monotonic()
        elif time.monotonic() - grown_at > grows.within_s:
            return


def _end(child: subprocess.Popen) -> None:
    """All of its session, also what outlives a command that has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _die_with(parent: int) -> None:
    """Ends the group when who started it has gone: a limit around this one kills the parent
    only.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _launch(report: str, argv: Sequence[str]) -> None:
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    found: dict[str, object] = {"status": None}
    try:
        found["status"] = subprocess.call(argv)  # noqa: S603
        found["peak_bytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    except OSError as error:
        found["error"] = str(error)
    partial = pathlib.Path(report + ".part")
    partial.write_text(json.dumps(found))
    partial.rename(report)


if __name__ == "__main__":
    _launch(sys.argv[1], sys.argv[2:])
