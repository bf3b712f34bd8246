"""Stored vectors: a row is one fingerprint, as float16, int8 with a scale, or signs. Encodes rows
for a shard, and reads many shards as one array.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

PRECISIONS = ("float16", "int8", "binary")
_BLOCK_ROWS = 65_536  # 32 MiB of float32 at 128 dimensions


def encode(vectors: Float32[np.ndarray, "n E"], precision: str) -> np.ndarray:
    """Returns rows as they are stored.

    As "float16" they are [n, E]; as "int8" a record array [n] with a scale of its own for every
    row; as "binary" the signs, uint8 [n, E / 8]. All bits 0 are a row of zeros (silence).

    Raises:
      ValueError: a value is not finite or not in float16, or E is no multiple of 8 and the signs
        are wanted.
    """
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(
            "fingerprints contain NaN or infinite values; every later search would fail"
        )
    if precision == "float16":
        return half
    if precision == "binary":
        return _encode_signs(half)
    scale = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype(np.float16)
    divisor = np.where(scale > 0, scale.astype(np.float32), 1.0)[:, None]
    stored = np.empty(
        len(vectors), np.dtype([("scale", np.float16), ("values", np.int8, (vectors.shape[1],))])
    )
    stored["scale"] = scale
    stored["values"] = np.clip(np.rint(vectors / divisor), -127, 127)
    return stored


def _encode_signs(vectors: np.ndarray) -> np.ndarray:
    if vectors.shape[1] % 8:
        raise ValueError(
            f"signs of {vectors.shape[1]} values do not fill bytes; store such fingerprints as "
            "float16 or int8"
        )
    bits = np.packbits(vectors > 0, axis=1)
    bits[vectors.any(axis=1) & ~bits.any(axis=1), 0] = (
        1  # not a row of zeros, though none of its values is positive
    )
    return bits


def decode(stored: np.ndarray) -> Float32[np.ndarray, "n E"]:
    """Returns what `encode` wrote, as float32; signs become unit vectors."""
    if stored.dtype == np.uint8:
        dim = 8 * stored.shape[1]
        # four times as fast as indexing the table; a byte is never beyond it
        values = np.take(_sign_table(dim), stored, axis=0, mode="clip").reshape(len(stored), dim)
        values[~stored.any(axis=1)] = 0.0
        return values
    if stored.dtype.names is None:
        return stored.astype(np.float32)
    return stored["values"].astype(np.float32) * stored["scale"].astype(np.float32)[:, None]


def stored_dim(stored: np.ndarray) -> int:
    """Returns how many values a row of `stored` decodes to."""
    if stored.dtype.names is not None:
        return stored["values"].shape[1]
    return 8 * stored.shape[1] if stored.dtype == np.uint8 else stored.shape[1]


@functools.lru_cache(maxsize=4)
def _sign_table(dim: int) -> Float32[np.ndarray, "256 8"]:
    """Returns the eight values that each byte stands for."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return (np.where(bits, 1.0, -1.0) / math.sqrt(dim)).astype(np.float32)


class StoredVectors:
    """Rows of many memory-mapped shards as one array [N, E]: what is indexed is read, as float32,
    and nothing else.
    """

    def __init__(self, runs: Sequence[np.ndarray], dim: int):
        self._runs = [
            np.asarray(run) for run in runs
        ]  # plain arrays: indexing a memmap object is slow
        self._ends = np.cumsum([len(run) for run in runs], dtype=np.int64)
        self.shape = (int(self._ends[-1]) if len(runs) else 0, dim)
        self.dtype = np.dtype(np.float32)
        self.ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_binary(self) -> bool:
        """Returns whether the rows are stored as signs."""
        return bool(self._runs) and self._runs[0].dtype == np.uint8

    def __getitem__(
        self, rows: int | slice | np.ndarray | Sequence[int]
    ) -> Float32[np.ndarray, "..."]:
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            return (
                self._contiguous(first, last)
                if step == 1
                else self._gather(np.arange(first, last, step))
            )
        if np.ndim(rows) == 0:
            return self._gather(np.array([rows]))[0]
        rows = np.asarray(rows)
        return self._gather(np.flatnonzero(rows) if rows.dtype == bool else rows)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "stored vectors are decoded when they are read: an array without a copy is not to "
                "be had"
            )
        return self._contiguous(0, len(self)).astype(dtype or np.float32, copy=False)

    def blocks(
        self, num_rows: int = _BLOCK_ROWS
    ) -> Iterator[tuple[int, Float32[np.ndarray, "n E"]]]:
        """Yields all rows in order, some at a time, each block with its first row's number."""
        for first in range(0, len(self), num_rows):
            yield first, self._contiguous(first, min(first + num_rows, len(self)))

    def _contiguous(self, first: int, last: int) -> np.ndarray:
        out = np.empty((max(0, last - first), self.shape[1]), np.float32)
        number = int(np.searchsorted(self._ends, first, side="right"))
        row = first
        while row < last:
            run = self._runs[number]
            end = int(self._ends[number])
            begin = len(run) - (end - row)
            stop = len(run) - max(0, end - last)
            out[row - first : row - first + stop - begin] = decode(run[begin:stop])
            row = end
            number = number + 1
        return out

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        flat = rows.reshape(-1).astype(np.int64)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not (flat.min() >= 0 and flat.max() < len(self)):
            raise IndexError(f"a row number is beyond the last of {len(self)}")
        numbers = np.searchsorted(self._ends, flat, side="right")
        out = np.empty((len(flat), self.shape[1]), np.float32)
        order = np.argsort(numbers, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[order], prepend=-1, append=len(self._runs) + 1))
        for begin, stop in itertools.pairwise(bounds):
            chosen = order[begin:stop]
            run = self._runs[numbers[chosen[0]]]
            end = self._ends[numbers[chosen[0]]]
            out[chosen] = decode(run[flat[chosen] - (end - len(run))])
        return out.reshape(*rows.shape, self.shape[1])
