"""Damage in stored rows: noticed where they are used, before an answer or a copy is made of them.

One flipped bit can make a float the largest of all, which wins every inner product, and a sector
of zeros reads as silence. Whenever a shard is opened, the checksum of each block of its rows is
therefore compared, and rows of floats are looked at: they are finite and of unit length, or zero
(silence). A shard without such checksums (an older version wrote it) can only be compared as a
whole file, which is done before rows are copied.
"""

import dataclasses
import functools
import pathlib
import zlib

import numpy as np
from jaxtyping import Bool, Float32, Int64

from confp_jax.database.shards import file_sha256
from confp_jax.database.vectors import decode

_SUM_ROWS = 32  # in a block with a checksum of its own: 10 s of audio
_BLOCK_ROWS = 4_096  # decoded at a time: they stay in the processor's cache
_SQUARED_LENGTHS = (0.8, 1.25)  # int8 rounds most: to within 2 %
_Version = tuple[int, int, int]  # of a file; a shard is never written again
_seen: dict[tuple[pathlib.Path, _Version, bytes], np.ndarray] = {}


@dataclasses.dataclass(frozen=True)
class Checksums:
    """What a shard was when it was written: of the file, and of its rows (b"" if not known)."""

    sha256: str
    blocks: bytes = b""


def block_checksums(stored: np.ndarray) -> bytes:
    """Returns the CRC-32 of every block of rows, four bytes each, little-endian."""
    return _block_sums(stored).astype("<u4").tobytes()


def _block_sums(stored: np.ndarray) -> np.ndarray:
    plain = np.ascontiguousarray(stored)  # a view of a memory map, as an array
    content = plain.reshape(-1).view(np.uint8).data
    step = _SUM_ROWS * (len(content) // max(1, len(plain)))
    places = range(0, len(content), max(1, step))
    return np.array([zlib.crc32(content[first : first + step]) for first in places], np.uint32)


def damaged_rows(
    path: pathlib.Path, stored: np.ndarray, checksums: Checksums
) -> Int64[np.ndarray, " D"]:
    """Returns the rows of a shard that must not be used, in order; a file is looked at once."""
    key = path, _version(path), checksums.blocks
    if key not in _seen:
        found = [_changed_rows(path, stored, checksums)]
        if stored.dtype != np.uint8:  # signs are unit vectors whatever they are
            for first in range(0, len(stored), _BLOCK_ROWS):
                rows = decode(stored[first : first + _BLOCK_ROWS])
                found.append(first + np.flatnonzero(~is_sound(rows)))
        _seen[key] = np.unique(np.concatenate(found))
    return _seen[key]


def _changed_rows(path: pathlib.Path, stored: np.ndarray, checksums: Checksums) -> np.ndarray:
    expected = np.frombuffer(checksums.blocks, "<u4")
    if not has_block_checksums(checksums, len(stored)):
        return np.zeros(0, np.int64)
    found = _block_sums(stored)
    if len(found) != len(expected):  # its rows have another length
        return np.arange(len(stored))
    changed = np.flatnonzero(found != expected)
    if not len(changed) or is_as_written(path, checksums.sha256):  # the checksums are damaged
        return np.zeros(0, np.int64)
    rows = (changed[:, None] * _SUM_ROWS + np.arange(_SUM_ROWS)).reshape(-1)
    return rows[rows < len(stored)]


def has_block_checksums(checksums: Checksums, num_rows: int) -> bool:
    """Returns whether each block of a shard of so many rows has a checksum."""
    return len(checksums.blocks) == 4 * -(-num_rows // _SUM_ROWS)


def rows_not_to_copy(
    path: pathlib.Path, stored: np.ndarray, checksums: Checksums
) -> Int64[np.ndarray, " D"]:
    """Returns the rows that may not be as they were written: a copy would get a new, valid
    checksum.
    """
    known = has_block_checksums(checksums, len(stored))
    if not known and not is_as_written(path, checksums.sha256):
        return np.arange(len(stored))
    return damaged_rows(path, stored, checksums)


def is_sound(vectors: Float32[np.ndarray, "n E"]) -> Bool[np.ndarray, " n"]:
    """Returns which vectors can be fingerprints: finite and of unit length, or zero (silence)."""
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("ne,ne->n", vectors, vectors)
    low, high = _SQUARED_LENGTHS
    return (squared == 0) | ((squared >= low) & (squared <= high))


def touched(rows: Int64[np.ndarray, " D"], first: int, num: int) -> bool:
    """Returns whether one of `num` rows from `first` on is among `rows`, which are in order."""
    return bool(np.searchsorted(rows, first) < np.searchsorted(rows, first + num))


def is_as_written(path: pathlib.Path, sha256: str) -> bool:
    """Returns whether a shard's file has the checksum that it was written with; a file is read
    once.
    """
    return _sha256(path, _version(path)) == sha256


@functools.lru_cache(maxsize=65_536)
def _sha256(path: pathlib.Path, version: _Version) -> str:
    return file_sha256(path)


def _version(path: pathlib.Path) -> _Version:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
