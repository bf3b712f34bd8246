"""Files that are whole or not there, folders that one process at a time works in, and what a full
disk looks like.
"""

import contextlib
import errno
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from confp_jax import locks
from confp_jax.errors import UserError

RUN_LOCK = "run.lock"  # in the folder that a long run writes to
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: pathlib.Path, content: str | Callable[[Any], object]) -> pathlib.Path:
    """Writes a file that stands under its name only when it is complete. Missing folders are made.

    Args:
      path: the file.
      content: text (written as UTF-8), or what is called with the open binary file.

    Returns:
      The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        if isinstance(content, str):
            file.write(content.encode())
        else:
            content(file)
    partial.replace(path)
    return path


@contextlib.contextmanager
def one_process(
    path: pathlib.Path, in_use: Callable[[str], UserError], *, keep: bool = False
) -> Iterator[bool]:
    """Holds the lock file `path` until left, which says who holds it. A killed process holds none.

    Args:
      path: the file. Missing folders are made.
      in_use: makes the error from " by process N on HOST", "" where that is not known.
      keep: whether the file stays when it is not held any more.

    Yields:
      Whether it is held: a file system may have no locks.

    Raises:
      UserError: another process holds it; what `in_use` made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked_file(path, in_use) as file:
        if file is None:
            yield False
            return
        try:
            with contextlib.suppress(OSError):  # who it is is a courtesy: the disk may be full
                file.truncate(0)
                os.write(file.fileno(), this_process().encode())
            yield True
        finally:
            if not keep:
                with contextlib.suppress(PermissionError):  # Windows keeps a file that is open
                    path.unlink(missing_ok=True)
            # Explicitly: a forked child shares the lock, and may outlive this process's file.
            locks.release(file)


@contextlib.contextmanager
def _locked_file(path: pathlib.Path, in_use: Callable[[str], UserError]) -> Iterator[TextIO | None]:
    """Opens and locks a file; None where the file system has no locks."""
    while True:
        with open(path, "a+", encoding="utf-8", errors="replace") as file:
            try:
                locks.take(file)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read(200).strip()
                raise in_use(f" by {owner}" if owner else "") from error
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                yield None
                return
            if _is_the_same(path, file):  # else whoever held it has removed it: once more
                yield file
                return


def _is_the_same(path: pathlib.Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def this_process() -> str:
    """Returns what names this process to the owner of another."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def is_disk_full(error: Exception) -> bool:
    """Returns whether an error says that there is no space left, or no more is allowed."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL
