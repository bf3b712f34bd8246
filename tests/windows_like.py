"""Runs `confp` as on Windows: no fcntl and no resource, msvcrt instead, locks that nobody else can
read through, folders that cannot be opened, files that stay while they are open or mapped.

    python windows_like.py ARGUMENT... [ -- ARGUMENT... ]   # commands, one after the other
"""

import errno
import fcntl
import os
import pathlib
import signal
import subprocess  # noqa: F401 - asks for msvcrt, and would be Windows's own
import sys
import types


def become_windows() -> None:
    """Changes this process; before anything of the program is imported."""
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK, msvcrt.LK_UNLCK = 2, 0

    def locking(descriptor: int, how: int, num: int) -> None:
        if num != 1 or os.lseek(descriptor, 0, os.SEEK_CUR) < 1 << 20:
            raise AssertionError("a byte that others read is locked")
        try:
            flag = fcntl.LOCK_UN if how == msvcrt.LK_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.flock(descriptor, flag)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    msvcrt.locking = locking
    sys.modules |= {"fcntl": None, "resource": None, "msvcrt": msvcrt}
    for name in ("O_NOFOLLOW", "O_DIRECTORY", "getuid", "geteuid"):
        delattr(os, name)
    del signal.SIGHUP
    _keep_what_is_open()


def _keep_what_is_open() -> None:
    really_open, really_remove = os.open, os.unlink

    def open_(path, *arguments, **options):
        if isinstance(path, str | os.PathLike) and pathlib.Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really_open(path, *arguments, **options)

    def unlink(path, **options):
        if not options and _is_in_use(os.path.realpath(path)):
            raise PermissionError(errno.EACCES, "used by another process", str(path))
        return really_remove(path, **options)

    os.open = open_
    os.unlink = os.remove = unlink


def _is_in_use(path: str) -> bool:
    opened = pathlib.Path("/proc/self/fd").iterdir()
    mapped = pathlib.Path("/proc/self/maps").read_text()
    return any(os.path.realpath(link) == path for link in opened) or path in mapped


def main() -> int:
    """Returns the exit status of the first command that fails."""
    become_windows()
    from confp_jax.cli import main as confp

    commands: list[list[str]] = [[]]
    for argument in sys.argv[1:]:
        if argument == "--":
            commands.append([])
        else:
            commands[-1].append(argument)
    for command in commands:
        status = confp(command)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
