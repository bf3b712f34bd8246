"""Run by test_machine: prepares one small dataset again and again, each time killed a step later,
and finished afterwards.

    python killed_preparation.py CONFIG.json FOLDER EVERY

A step is a file opened for writing, a rename, or a folder made: Python's audit events. Each
attempt is a fork that is ended by SIGKILL at its step; another fork then finishes the work. Prints
one JSON line for each attempt: step, killed, same.
"""

import json
import os
import pathlib
import shutil
import signal
import sys

from rich.console import Console

from confp_jax.typed_config import from_mapping
from data_prep.config import PrepareConfig
from data_prep.make_train import prepare

_EVENTS = {"os.rename", "os.mkdir", "open"}


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file that counts, by name; a cached sound's header holds the time at which it was
    written.
    """
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        str(p.relative_to(folder)): b"" if p.suffix == ".wav" else p.read_bytes() for p in files
    }


def run(config: PrepareConfig, kill_at: int | None) -> bool:
    """Prepares in a fork; true if that was killed."""
    pid = os.fork()
    if pid == 0:
        steps = 0

        def count(event: str, arguments: tuple) -> None:
            nonlocal steps
            if event in _EVENTS and (
                event != "open" or "w" in str(arguments[1]) or (arguments[2] or 0) & os.O_CREAT
            ):
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        if kill_at is not None:
            sys.addaudithook(count)
        try:
            prepare(config, Console(quiet=True))
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the preparation failed")
    return os.WIFSIGNALED(status)


def main(config_file: str, folder: str, every: str) -> None:
    """All steps, every `every`-th of them."""
    values = json.loads(pathlib.Path(config_file).read_text())
    whole = pathlib.Path(folder) / "whole"
    out = pathlib.Path(folder) / "out"
    prepare(
        from_mapping(PrepareConfig, values | {"out": str(whole)}), Console(quiet=True)
    )  # here: forks find all imported
    expected = contents(whole)
    config = from_mapping(PrepareConfig, values | {"out": str(out)})
    step = 1
    killed = True
    while killed:
        shutil.rmtree(out, ignore_errors=True)
        killed = run(config, step)
        run(config, step // 2 + 1)  # and once more on the way back
        run(config, None)
        print(
            json.dumps({"step": step, "killed": killed, "same": contents(out) == expected}),
            flush=True,
        )
        step += int(every)


if __name__ == "__main__":
    main(*sys.argv[1:])
