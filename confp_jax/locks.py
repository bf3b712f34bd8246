"""Locks between processes, and what of files differs between POSIX and Windows.

POSIX has flock, for files and folders. Windows locks a range of bytes of a file, and no folder can
be opened; what is asked of a folder there answers that there are no locks.
"""

import errno
import importlib
import os
import pathlib
from typing import IO, Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None
msvcrt: Any = None if fcntl else importlib.import_module("msvcrt")

HAS_FLOCK = fcntl is not None
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # for os.open: fails where the name is a link
_LOCKED_BYTE = 1 << 30  # behind whatever is written in a lock file: others may read that
_WINDOWS_BUSY = (errno.EACCES, errno.EDEADLK)


def take(file: IO | int) -> None:
    """Takes a file's lock, or a folder's, without waiting for it.

    Raises:
      BlockingIOError: another process has it.
      OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    try:
        _windows(file, msvcrt.LK_NBLCK)
    except OSError as error:
        if error.errno in _WINDOWS_BUSY:
            raise BlockingIOError(errno.EAGAIN, "another process has the lock") from error
        raise


def release(file: IO | int) -> None:
    """Gives a lock back that was taken: a child that was forked meanwhile has it, too."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        _windows(file, msvcrt.LK_UNLCK)


def open_folder(folder: pathlib.Path) -> int | None:
    """Opens a folder, to lock it or to make its names durable; None where that cannot be done.

    Raises:
      FileNotFoundError: there is none.
    """
    if not HAS_FLOCK:
        folder.stat()
        return None
    return os.open(folder, os.O_RDONLY)


def _windows(file: IO | int, how: int) -> None:
    """Locks the byte at a place of its own; where the file stands does not change."""
    descriptor = file if isinstance(file, int) else file.fileno()
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, how, 1)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)
