"""Stands in for `gcloud`, and for `ssh`, `scp` and `uv`, in test_launch.py: records the call and
does the thing here.

A worker is a folder that is HOME for its commands, which really run; gs:// is a folder; a queued
resource is a file with the states that it will be in, one line each time it is asked for. The file
`fails` says which verbs fail next, a line each.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(os.environ["FAKE_ROOT"])
WORKERS = [ROOT / f"worker{i}" for i in range(int(os.environ["FAKE_WORKERS"]))]


def main(program: str, arguments: list[str]) -> int:
    with open(ROOT / "calls.jsonl", "a") as file:
        file.write(json.dumps([program, *arguments]) + "\n")
    if program == "uv":
        return _uv(arguments)
    if program in ("ssh", "scp"):
        return _ssh(program, arguments)
    if program == "rsync":
        return _rsync(*arguments[-2:])
    if program == "ssh-add":
        return int(os.environ.get("FAKE_AGENT", "0"))
    if arguments[0] == "storage":
        return _storage(arguments[1:])
    return _tpus(arguments[2:])


def _run(worker: pathlib.Path, command: str) -> int:
    """As on a machine of its own: another HOME, and the environment by which JAX finds its fellows
    there.
    """
    worker.mkdir(exist_ok=True)
    number = WORKERS.index(worker)
    environment = os.environ | {"HOME": str(worker)}
    if len(WORKERS) > 1 and program_of() == "gcloud":
        environment |= {
            "JAX_COORDINATOR_ADDRESS": os.environ["FAKE_COORDINATOR"],
            "JAX_NUM_PROCESSES": str(len(WORKERS)),
        }
        environment |= {"JAX_PROCESS_ID": str(number)}
    return subprocess.run(["bash", "-c", command], env=environment, check=False).returncode


def _uv(arguments: list[str]) -> int:
    """A virtual environment whose Python is this one: installing 1.5 GB is not what is tested."""
    if arguments[0] == "venv":
        folder = pathlib.Path(arguments[-1]) / "bin"
        folder.mkdir(parents=True)
        trainer = os.environ.get("FAKE_PYTHON", f'PYTHONPATH=. exec {sys.executable} "$@"')
        (folder / "python").write_text(f"#!/bin/sh\n{trainer}\n")
        (folder / "python").chmod(0o755)
    return 0


def _ssh(program: str, arguments: list[str]) -> int:
    hosts = {f"me@host{i}": worker for i, worker in enumerate(WORKERS)}
    if program == "scp":
        source, target = arguments[-2:]
        host, _, name = target.partition(":")
        hosts[host].mkdir(exist_ok=True)
        shutil.copy(source, hosts[host] / name)
        return 0
    host = next(argument for argument in arguments if argument in hosts)
    return _run(hosts[host], " ".join(arguments[arguments.index(host) + 1 :]))


def _rsync(source: str, target: str) -> int:
    host, _, folder = target.partition(":")
    worker = WORKERS[int(host.removeprefix("me@host"))]
    shutil.copytree(source, worker / folder, dirs_exist_ok=True)
    return 0


def _here(path: str) -> pathlib.Path:
    return (
        ROOT / "buckets" / path.removeprefix("gs://")
        if path.startswith("gs://")
        else pathlib.Path(path)
    )


def _storage(arguments: list[str]) -> int:
    if arguments[0] == "rsync":
        source = _here(arguments[-2])
        unwanted = [
            argument.partition("=")[2]
            for argument in arguments
            if argument.startswith("--exclude=")
        ]

        def excluded(folder: str, names: list[str]) -> list[str]:
            paths = {name: str((pathlib.Path(folder) / name).relative_to(source)) for name in names}
            return [
                name
                for name, path in paths.items()
                if any(re.match(regex, path) for regex in unwanted)
            ]

        shutil.copytree(source, _here(arguments[-1]), dirs_exist_ok=True, ignore=excluded)
    elif arguments[:2] == ["ls", "--long"]:
        for path in _here(arguments[2].removesuffix("/**")).rglob("*"):
            size = int(os.environ.get("FAKE_BYTES", path.stat().st_size))
            print(f"  {size}  2026-01-01T00:00:00Z  gs://{path.relative_to(ROOT / 'buckets')}")
    elif arguments[0] == "ls":
        folder, _, pattern = arguments[1].rpartition("/")
        print("\n".join(f"{folder}/{path.name}" for path in sorted(_here(folder).glob(pattern))))
    elif arguments[0] == "cp":
        target = _here(arguments[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        given = arguments[1]
        target.write_bytes(sys.stdin.buffer.read() if given == "-" else _here(given).read_bytes())
    elif not _here(arguments[1]).is_file():
        return _refuse("no such object")
    else:
        sys.stdout.write(_here(arguments[1]).read_text())
    return 0


def _tpus(arguments: list[str]) -> int:
    resource, (group, command, name) = ROOT / "resource", arguments[:3]
    flags = dict(argument.partition("=")[::2] for argument in arguments[3:])
    states = resource.read_text().splitlines() if resource.exists() else []
    if _fails(command):
        return _refuse("UNAVAILABLE: the service is not there")
    if command == "create":
        if states:
            return _refuse("ALREADY_EXISTS")
        resource.write_text("WAITING_FOR_RESOURCES\nACTIVE")
    elif command in ("describe", "delete") and not states:
        return _refuse("NOT_FOUND: Resource was not found")
    elif command == "describe":
        print(states[0])
        resource.write_text("\n".join(states[1:] or states))
    elif command == "delete":
        resource.unlink()
    elif states[:1] != ["ACTIVE"] or _fails("answer"):
        return _refuse("a slice that is not there answers nobody")
    elif (group, command) == ("tpu-vm", "scp"):
        for worker in WORKERS:
            worker.mkdir(exist_ok=True)
            shutil.copy(name, worker / arguments[3].partition(":")[2])
    else:
        chosen = WORKERS if flags["--worker"] == "all" else [WORKERS[int(flags["--worker"])]]
        return max(_run(worker, flags["--command"]) for worker in chosen)
    return 0


def _fails(command: str) -> bool:
    file = ROOT / "fails"
    due = file.read_text().splitlines() if file.exists() else []
    if command not in due:
        return False
    due.remove(command)
    file.write_text("\n".join(due))
    return True


def _refuse(reason: str) -> int:
    print(f"ERROR: (gcloud) {reason}", file=sys.stderr)
    return 1


def program_of() -> str:
    return pathlib.Path(sys.argv[0]).name


if __name__ == "__main__":
    sys.exit(main(program_of(), sys.argv[1:]))
