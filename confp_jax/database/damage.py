"""Damage in stored rows: noticed where they are used, before an answer or a copy is made of them.

One flipped bit can make a float the largest of all, which wins every inner product. Rows of floats
are therefore looked at whenever a shard is opened: they are finite and of unit length, or zero
(silence). Signs are unit vectors whatever bit flips, so of these the checksum is compared. Before
rows are copied into a new file, which gets a new checksum, every shard's checksum is compared.
"""

import functools
import pathlib

import numpy as np
from jaxtyping import Bool, Float32, Int64

from confp_jax.database.shards import file_sha256
from confp_jax.database.vectors import decode

_BLOCK_ROWS = 65_536
_SQUARED_LENGTHS = (0.8, 1.25)  # int8 rounds most: to within 2 %
_Version = tuple[int, int, int]  # of a file; a shard is never written again
_seen: dict[tuple[pathlib.Path, _Version], np.ndarray] = {}


def damaged_rows(path: pathlib.Path, stored: np.ndarray) -> Int64[np.ndarray, " D"]:
    """Returns the rows of a shard that cannot be fingerprints; a file is looked at once."""
    key = path, _version(path)
    if key not in _seen:
        found = [np.zeros(0, np.int64)]
        for first in range(0, len(stored), _BLOCK_ROWS):
            rows = decode(stored[first : first + _BLOCK_ROWS])
            found.append(first + np.flatnonzero(~is_sound(rows)))
        _seen[key] = np.concatenate(found)
    return _seen[key]


def is_sound(vectors: Float32[np.ndarray, "n E"]) -> Bool[np.ndarray, " n"]:
    """Which vectors can be fingerprints: finite and of unit length, or zero (silence)."""
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("ne,ne->n", vectors, vectors)
    low, high = _SQUARED_LENGTHS
    return (squared == 0) | ((squared >= low) & (squared <= high))


def is_as_written(path: pathlib.Path, sha256: str) -> bool:
    """Whether a shard's file has the checksum that it was written with; a file is read once."""
    return _sha256(path, _version(path)) == sha256


@functools.lru_cache(maxsize=65_536)
def _sha256(path: pathlib.Path, version: _Version) -> str:
    return file_sha256(path)


def _version(path: pathlib.Path) -> _Version:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
