"""One training run a folder: a lock of the file system, or a lease where there is none, as in a
bucket.
"""

import contextlib
import json
import pathlib
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import jax
from etils import epath

from confp_jax.errors import UserError
from confp_jax.files import RUN_LOCK, one_process, this_process
from confp_jax.texts import parse_json
from confp_jax.training.mesh import on_any_process

OWNER = "run.owner"
_RENEWED_S = 10.0
_PATIENCE_S = 45.0  # without a renewal: the owner was killed


class RunInUseError(UserError):
    """Another process trains in this run's folder."""


@contextlib.contextmanager
def owned(workdir: epath.Path) -> Iterator[Callable[[], None]]:
    """Holds a run's folder for this process, or for all processes of this run.

    Yields what raises RunInUseError where the folder was lost since: to be called before a save.

    Raises:
      RunInUseError: another run holds it.
    """
    with contextlib.ExitStack() as held:
        refused = None
        lost = threading.Event()
        if jax.process_index() == 0:
            try:
                held.enter_context(_held(workdir, lost))
            except RunInUseError as error:
                refused = error
        if on_any_process(refused is not None):
            raise refused or RunInUseError(f"{workdir} is being trained by another run")

        def check() -> None:
            if lost.is_set():
                raise _in_use(workdir, _by(workdir / OWNER))

        yield check


@contextlib.contextmanager
def _held(workdir: epath.Path, lost: threading.Event) -> Iterator[None]:
    if "://" in str(workdir):
        with _leased(workdir, lost):
            yield
        return
    lock = pathlib.Path(workdir / RUN_LOCK)
    with one_process(lock, lambda by: _in_use(workdir, by), keep=True) as is_held:
        if is_held:
            yield
            return
        print(
            f"{workdir}: this file system has no locks; a lease in {OWNER} keeps other runs out",
            file=sys.stderr,
        )
        with _leased(workdir, lost):
            yield


@contextlib.contextmanager
def _leased(workdir: epath.Path, lost: threading.Event) -> Iterator[None]:
    """An owner's object that is renewed while the run lasts. No clocks are compared: an object that
    does not change for a while has lost its owner.
    """
    path = workdir / OWNER
    owner = f"{this_process()} ({uuid.uuid4().hex})"
    _wait_until_free(workdir, path)
    _renew(path, owner, 0)
    time.sleep(_RENEWED_S / 5)  # whoever else took it at this moment has written by now
    if _owner(path) != owner:
        raise _in_use(workdir, _by(path))
    stop = threading.Event()
    arguments = (path, owner, stop, lost)
    renewing = threading.Thread(target=_keep, args=arguments, name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        if _owner(path) == owner:
            path.unlink(missing_ok=True)


def _wait_until_free(workdir: epath.Path, path: epath.Path) -> None:
    before = _read(path)
    end = time.monotonic() + _PATIENCE_S
    if before:
        print(f"{path} is there: looking whether its owner lives", file=sys.stderr)
    while before and time.monotonic() < end:
        time.sleep(_RENEWED_S / 10)
        now = _read(path)
        if now and now != before:
            raise _in_use(workdir, _by(path))
        before = now


def _keep(path: epath.Path, owner: str, stop: threading.Event, lost: threading.Event) -> None:
    number = 0
    while not stop.wait(_RENEWED_S):
        number += 1
        with contextlib.suppress(OSError):  # the bucket may answer the next time
            if _owner(path) not in ("", owner):
                lost.set()
                return
            _renew(path, owner, number)


def _renew(path: epath.Path, owner: str, number: int) -> None:
    path.write_text(json.dumps({"owner": owner, "renewed": number}))


def _read(path: epath.Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _by(path: epath.Path) -> str:
    owner = _owner(path)
    return f" by {owner}" if owner else ""


def _owner(path: epath.Path) -> str:
    try:
        return str(parse_json(_read(path))["owner"])
    except (ValueError, KeyError, TypeError):
        return ""


def _in_use(workdir: epath.Path, by: str) -> RunInUseError:
    return RunInUseError(
        f"{workdir} is being trained{by}; wait until that run ends, stop it, or name another "
        "--workdir"
    )
