"""Shard files: written once, flushed before they are named, checked by their checksum."""

import contextlib
import errno
import hashlib
import os
import pathlib
import time

import numpy as np
from jaxtyping import Int64

from confp_jax import locks
from confp_jax.database.records import DatabaseError
from confp_jax.files import is_disk_full

# Smaller shards are read, not mapped: a process may hold only some 65,000 maps.
_MAPPED_BYTES = 1 << 20
_NEW_S = 3600.0
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


def write_shard(path: pathlib.Path, stored: np.ndarray) -> str:
    """Writes rows durably under their final name; returns the file's SHA-256.

    Raises:
      DatabaseError: the disk is full; nothing is left of the file.
    """
    partial = path.with_name(path.name + ".part")
    try:
        partial.unlink(missing_ok=True)  # of a writer that died, or a link to elsewhere
        with open(partial, "x+b") as file:
            np.save(file, stored, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        partial.rename(path)
        flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise write_error(path.parent, error) from error
    return sha256


def write_error(folder: pathlib.Path, error: OSError | RuntimeError) -> DatabaseError:
    """Returns the error to raise for one that writing into `folder` ended in."""
    if is_disk_full(error):
        return disk_full(folder)
    return DatabaseError(
        f"{folder} cannot be written ({error}); is it there, writable, and is there space on the "
        "disk?"
    )


def disk_full(folder: pathlib.Path) -> DatabaseError:
    """Returns the error that says so."""
    return DatabaseError(
        f"{folder}: the disk is full; all that was committed is safe: free some space and run the "
        "same command again"
    )


def open_shard(path: pathlib.Path, num_rows: int) -> np.ndarray:
    """Returns the shard's rows as they are stored, memory-mapped unless small.

    Raises:
      FileNotFoundError: it is not there; a reader whose catalogue is out of date may try again.
      DatabaseError: it is damaged.
    """
    try:
        mapped = path.stat().st_size >= _MAPPED_BYTES
        rows = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise DatabaseError(f"{path} is damaged ({error}); {REMEDY}") from error
    if not _is_stored(rows):
        raise DatabaseError(f"{path} is damaged ({rows.dtype} {rows.shape}); {REMEDY}")
    if len(rows) != num_rows:
        raise DatabaseError(f"{path} holds {len(rows)} rows instead of {num_rows}; {REMEDY}")
    return rows


def _is_stored(rows: np.ndarray) -> bool:
    """Returns whether this is what `encode` makes."""
    if rows.dtype.names is not None:
        return rows.ndim == 1 and rows.dtype.names == ("scale", "values")
    return rows.ndim == 2 and rows.dtype in (np.float16, np.uint8)


REMEDY = "restore it from a copy, or see `confp verify` for the tracks to remove and add again"


def file_sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_folder(folder: pathlib.Path) -> None:
    """Makes the names in a folder durable, where the file system can (FAT and some network disks
    cannot, as SQLite has it for its own files).
    """
    descriptor = locks.open_folder(folder)
    if descriptor is None:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(descriptor)


def live_runs(ranges: Int64[np.ndarray, "T 3"]) -> list[tuple[int, int, int]]:
    """Merges (shard, first_row, num_rows) in order where the next one continues it: few runs,
    however many tracks.
    """
    if not len(ranges):
        return []
    shard, first, num = ranges.T
    goes_on = (shard[1:] == shard[:-1]) & (first[1:] == first[:-1] + num[:-1])
    starts = np.concatenate([[0], np.flatnonzero(~goes_on) + 1])
    lengths = np.add.reduceat(num, starts)
    return list(zip(shard[starts].tolist(), first[starts].tolist(), lengths.tolist(), strict=True))


def is_held(folder: pathlib.Path) -> bool:
    """Returns whether a process that lives has locked it: it builds an index in there without the
    writer's lock. Where folders cannot be locked (NFS), one that is new counts as held.
    """
    try:
        handle = locks.open_folder(folder)
        made_s = folder.stat().st_mtime
    except FileNotFoundError:  # it has just been given up
        return False
    if handle is None:
        return time.time() - made_s < _NEW_S
    try:
        locks.take(handle)
    except BlockingIOError:
        return True
    except OSError:
        return time.time() - made_s < _NEW_S
    finally:
        os.close(handle)
    return False
