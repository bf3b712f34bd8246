"""The files of a database folder: which are the program's own, and that none is a link.

A database is a folder that people copy and share. Nothing in it is followed out of it, and nothing
that this program did not make is deleted.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterator
from typing import BinaryIO

from confp_jax import locks
from confp_jax.database.records import BusyError, DatabaseError
from confp_jax.database.shards import is_held

_SHARD = re.compile(r"[0-9]{6,}\.npy")
_GENERATION = re.compile(r"[a-z]+-[0-9a-f]{16}")
_UNFINISHED_SHARD = re.compile(r"[0-9]{6,}\.npy\.part")
_UNFINISHED_GENERATION = re.compile(r"[0-9a-f]{32}\.part")
_UNFINISHED_CATALOGUE = re.compile(r"catalogue\.sqlite\.[0-9a-f]{32}\.part(-wal|-shm|-journal)?")
_PARTS = ("catalogue.sqlite", "vectors", "index", "lock")


def shard_name(shard: int) -> str:
    """Returns the file name of a shard."""
    return f"{shard:06d}.npy"


def refuse_links(folder: pathlib.Path) -> None:
    """Raises DatabaseError where a part of a database folder is a symbolic link."""
    for name in _PARTS:
        if (folder / name).is_symlink():
            raise DatabaseError(
                f"{folder / name} is a symbolic link, which may lead anywhere; put the real "
                "file or folder in its place (the database folder as a whole may be a link)"
            )


def shard_path(folder: pathlib.Path, file: str) -> pathlib.Path:
    """Returns the path of a shard that the catalogue names.

    Raises:
      DatabaseError: this program gives no such name, or the file is a link.
    """
    path = folder / "vectors" / file
    if not _SHARD.fullmatch(file):
        raise DatabaseError(
            f"{folder} names a shard {file!r}, which is no name of a shard; restore the catalogue "
            "from a copy"
        )
    if path.is_symlink():
        raise DatabaseError(f"{path} is a symbolic link; put the real file in its place")
    return path


def generation_path(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the folder of a search index that the catalogue names; None if this program gives no
    such name.
    """
    path = folder / "index" / name
    return path if _GENERATION.fullmatch(name) and not path.is_symlink() else None


def delete_strays(folder: pathlib.Path, shards: Collection[str], generation: str | None) -> None:
    """Deletes the files of this program that no commit knows; leaves everything else alone.
    Windows keeps what a process has open: a later call deletes it.
    """
    strays = [
        path
        for path in (folder / "vectors").iterdir()
        if (_SHARD.fullmatch(path.name) and path.name not in shards)
        or _UNFINISHED_SHARD.fullmatch(path.name)
    ]
    strays += filter(
        lambda path: _UNFINISHED_CATALOGUE.fullmatch(path.name), folder.glob("catalogue.sqlite.*")
    )
    for path in filter(_is_file, strays):
        with contextlib.suppress(PermissionError):
            path.unlink()
    for path in (folder / "index").glob("*"):
        ours = _GENERATION.fullmatch(path.name) or _UNFINISHED_GENERATION.fullmatch(path.name)
        is_folder = path.is_dir() and not path.is_symlink()
        if ours and is_folder and path.name != generation and not is_held(path):
            shutil.rmtree(path, ignore_errors=True)


def make_folder(folder: pathlib.Path) -> None:
    """Makes the folder of a new database.

    Raises:
      DatabaseError: it holds something else, or cannot be made.
    """
    is_free = folder.is_dir() and all(is_leftover(path) for path in folder.iterdir())
    if folder.exists() and not is_free:
        check_new(folder)
        raise DatabaseError(f"{folder} exists and is no fingerprint database; choose another name")
    try:
        (folder / "vectors").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"{folder} cannot be made ({error.strerror}); choose a place where you may write"
        ) from error


def check_new(folder: pathlib.Path) -> None:
    """Checks that no other process has made a database there meanwhile.

    Raises:
      DatabaseError: one has.
    """
    if (folder / "catalogue.sqlite").exists():
        raise DatabaseError(f"{folder}: another process has just made it; try again")


def is_leftover(path: pathlib.Path) -> bool:
    """Returns whether a process that died while making a database may have left this."""
    if path.is_symlink():
        return False
    empty = path.name == "vectors" and path.is_dir() and not any(path.iterdir())
    is_lock = path.name == "lock" and path.is_file()
    return empty or is_lock or _UNFINISHED_CATALOGUE.fullmatch(path.name) is not None


@contextlib.contextmanager
def writer_lock(folder: pathlib.Path) -> Iterator[None]:
    """Holds the writer's lock until left.

    Raises:
      DatabaseError: another process is writing, the lock cannot be opened, or the file system has
        no locks.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | locks.NO_LINKS, 0o666)
    except OSError as error:
        raise DatabaseError(
            f"{folder / 'lock'} cannot be opened ({error.strerror}); a writer needs it: it is an "
            "empty file of the database's own"
        ) from error
    with open(descriptor, "r+b", buffering=0) as lock:
        _take(folder, lock)
        # The number is a courtesy: on a full disk one must be able to remove tracks.
        with contextlib.suppress(OSError):
            lock.truncate(0)
            lock.seek(0)
            lock.write(f"{os.getpid()}\n".encode())
        try:
            yield
        finally:  # a child that was forked meanwhile has the same lock and would keep it
            locks.release(lock)


def _take(folder: pathlib.Path, lock: BinaryIO) -> None:
    try:
        locks.take(lock)
    except BlockingIOError as error:
        number = lock.read(20).decode(errors="replace").strip()
        who = f" (number {number})" if number.isdecimal() else ""
        raise BusyError(
            f"{folder}: another process is writing to it{who}; wait for it to finish"
        ) from error
    except OSError as error:
        raise DatabaseError(
            f"{folder}: this file system has no locks ({error.strerror}), so two writers could "
            "meet; put the database on a local disk"
        ) from error


def _is_file(path: pathlib.Path) -> bool:
    return path.is_file() and not path.is_symlink()
