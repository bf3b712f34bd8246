"""A query: what a recording is searched by."""

import dataclasses
import functools
import itertools
import operator
import threading
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.fingerprint.fingerprints import Fingerprints

TELLS_TEMPO_S = 1.5  # windows spread over less are too close together to estimate the tempo


def _none(*shape: int) -> Float32[np.ndarray, "..."]:
    return np.zeros(shape, np.float32)


@dataclasses.dataclass(frozen=True)
class Query(Fingerprints):
    """The windows of a recording that is searched for: its own, and those that a database does not
    store.

    `edge_windows` are those that see a part of it: K begin before it, K end after it.

    `sped_up` are the windows of the same audio played `SPEEDUP` times as fast. Only a query that
    fills a window but is too short to estimate its tempo has them.

    A query of a model with a projection is dense: `between[p, i]` begins (p + 1) / (P + 1) of a
    hop after `vectors[i]`, and is zero where the audio has ended. If the model has a conformer too,
    these are the projection's alone, and `by_conformer` gives the same query as the conformer alone
    hears it. Its windows are as long as makes their products with stored fingerprints the cosines
    of the conformer's parts.
    """

    edge_windows: Float32[np.ndarray, "2 K E"] = dataclasses.field(
        default_factory=lambda: _none(2, 0, 0)
    )
    sped_up: "Query | None" = None
    between: Float32[np.ndarray, "P N E"] = dataclasses.field(
        default_factory=lambda: _none(0, 0, 0)
    )
    by_conformer: "Later | None" = None

    @property
    def num_edge_windows(self) -> int:
        """Returns how many edge windows lie at either end."""
        return self.edge_windows.shape[1]

    @property
    def has_edge_windows(self) -> bool:
        """Returns whether it has edge windows."""
        return self.num_edge_windows > 0

    @property
    def tells_tempo(self) -> bool:
        """Returns whether its windows spread far enough to estimate the tempo."""
        return not self.is_partial and (len(self.vectors) - 1) * self.hop_s >= TELLS_TEMPO_S

    @property
    def loud_s(self) -> float:
        """Returns the duration without the windows of silence, in seconds."""
        if self.is_partial:
            return self.duration_s
        return self.duration_s - self.num_silent * self.hop_s

    def part(self, first: int, last: int) -> "Query":
        """Returns the windows from `first` to before `last`; with what only a whole query has, if
        these are all.
        """
        vectors = self.vectors[first:last]
        whole = self if len(vectors) == len(self.vectors) else self.plain()
        return dataclasses.replace(
            whole,
            vectors=vectors,
            between=self.between[:, first:last],
            by_conformer=self.by_conformer and self.by_conformer.part(first, last),
        )

    def plain(self) -> "Query":
        """Returns the same without what only a whole query has: edge windows and `sped_up`."""
        return dataclasses.replace(
            self,
            edge_windows=self.edge_windows[:, :0],
            sped_up=None,
            by_conformer=self.by_conformer and self.by_conformer.plain(),
        )


class _Once:
    """Computes a query when it is asked for, once."""

    def __init__(self, compute: Callable[[], Query]):
        self._compute = compute
        self._found: Query | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Query:
        with self._lock:
            if self._found is None:
                found = self._compute()
                self._compute = lambda: found  # lets go of the audio
                self._found = found
            return self._found


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Windows `first` to before `last` of a query that is computed later."""

    source: _Once
    first: int
    last: int
    is_plain: bool = False

    def __call__(self) -> Query:
        query = self.source()
        return (query.plain() if self.is_plain else query).part(self.first, self.last)

    @property
    def num_windows(self) -> int:
        return self.last - self.first

    def part(self, first: int, last: int) -> "_Piece":
        """Returns fewer of the windows; `first` may lie before them, and `last` behind."""
        return dataclasses.replace(
            self,
            first=self.first + max(first, 0),
            last=self.first + min(last, self.num_windows),
        )


class Later:
    """A query that is computed when it is asked for: many are answered without it. Of a stream's
    only the pieces that are still searched are held, with their audio until they are computed.
    """

    def __init__(self, pieces: Sequence[_Piece]):
        self.pieces = tuple(pieces)

    @classmethod
    def of(cls, compute: Callable[[], Query], num_windows: int) -> "Later":
        """Returns what `compute` gives, which has `num_windows`."""
        return cls([_Piece(_Once(compute), 0, num_windows)])

    def __call__(self) -> Query:
        """Returns the query."""
        return joined([piece() for piece in self.pieces])

    def __add__(self, other: "Later") -> "Later":
        return Later(self.pieces + other.pieces)

    def part(self, first: int, last: int) -> "Later":
        """Returns the windows from `first` to before `last`, as `Query.part` does."""
        ends = itertools.accumulate(piece.num_windows for piece in self.pieces)
        parts = []
        for piece, end in zip(self.pieces, ends, strict=True):
            begin = end - piece.num_windows
            if begin < last and end > first:
                parts.append(piece.part(first - begin, last - begin))
        return Later(parts)

    def plain(self) -> "Later":
        """Returns the same without what only a whole query has."""
        return Later([dataclasses.replace(piece, is_plain=True) for piece in self.pieces])


def joined(parts: Sequence[Query]) -> Query:
    """Returns consecutive parts of one query as one."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    last = parts[-1]
    both = first.edge_windows.shape == last.edge_windows.shape
    edge_windows = (
        np.stack([first.edge_windows[0], last.edge_windows[1]])
        if both
        else first.edge_windows[:, :0]
    )
    return dataclasses.replace(
        first.plain(),
        vectors=np.concatenate([part.vectors for part in parts]),
        edge_windows=edge_windows,
        between=np.concatenate([part.between for part in parts], axis=1),
        by_conformer=_joined_later([part.by_conformer for part in parts]),
    )


def _joined_later(parts: Sequence[Later | None]) -> Later | None:
    given = [part for part in parts if part is not None]
    return functools.reduce(operator.add, given) if len(given) == len(parts) else None


def densified(query: Query, num_phases: int) -> Query:
    """Returns a query made of stored fingerprints as one of a model that has `num_phases`: those
    between two lie in between them.
    """
    if num_phases == 1:
        return query
    vectors = query.vectors
    following = np.concatenate([vectors[1:], vectors[-1:]])
    parts = (np.arange(1, num_phases) / num_phases)[:, None, None]
    between = ((1 - parts) * vectors + parts * following).astype(np.float32)
    between /= np.maximum(np.linalg.norm(between, axis=-1, keepdims=True), 1e-12)
    between[:, -1:] = 0.0
    return dataclasses.replace(query, between=between)
