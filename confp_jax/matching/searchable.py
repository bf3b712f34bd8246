"""What is searched: tracks' fingerprints in rows, with an index over them."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from confp_jax.database import Snapshot, StoredTrack
from confp_jax.database.tracks import track_numbers
from confp_jax.fingerprint.query import Query, densified
from confp_jax.index import ExactIndex, Index, build_index

_NUM_USUAL = 256  # pairs of rows


@dataclasses.dataclass(frozen=True)
class Reference:
    """A snapshot, its index, and how its rows lie in time."""

    snapshot: Snapshot
    index: Index
    hop_s: float
    segment_s: float
    query_phases: int = 1  # how many times as densely a query's fingerprints lie

    @property
    def num_tracks(self) -> int:
        """Returns how many tracks are searched."""
        return len(self.snapshot.tracks)

    @functools.cached_property
    def first_rows(self) -> Int64[np.ndarray, " T"]:
        """First row of each track."""
        return track_numbers(self.snapshot.tracks)[1]

    @functools.cached_property
    def usual_cosine(self) -> float:
        """Returns the mean cosine of stored rows of different tracks, of some by chance."""
        rng = np.random.default_rng(0)
        num = len(self.snapshot.vectors)
        rows = rng.integers(num, size=(2, _NUM_USUAL)) if num else np.zeros((2, 0), np.int64)
        rows = rows[:, self.snapshot.row_tracks[rows[0]] != self.snapshot.row_tracks[rows[1]]]
        if not rows.size:
            return 0.0
        one, other = (self.snapshot.vectors[part].astype(np.float32) for part in rows)
        return float((one * other).sum(axis=1).mean())

    @functools.cached_property
    def num_rows(self) -> Int64[np.ndarray, " T"]:
        """Returns how many rows each track has."""
        return track_numbers(self.snapshot.tracks)[2]

    @functools.cached_property
    def lengths_s(self) -> Float64[np.ndarray, " T"]:
        """Returns how much of each track its rows cover, in seconds. Each row of a track shorter
        than a segment covers all of it.
        """
        spread_s = (self.num_rows - 1) * self.hop_s
        return np.where(self._is_short, self._durations_s, spread_s + self.segment_s)

    @functools.cached_property
    def first_middles_s(self) -> Float64[np.ndarray, " T"]:
        """Returns where in each track the middle of its first row lies; those of a track shorter
        than a segment lie about its middle, the first may lie before the track begins.
        """
        spread_s = (self.num_rows - 1) * self.hop_s
        return np.where(self._is_short, (self._durations_s - spread_s) / 2, self.segment_s / 2)

    @functools.cached_property
    def _durations_s(self) -> Float64[np.ndarray, " T"]:
        return np.array([track.duration_s for track in self.snapshot.tracks], np.float64)

    @functools.cached_property
    def _is_short(self) -> Bool[np.ndarray, " T"]:
        return self._durations_s < self.segment_s

    def query_of(self, track: int, first: int = 0, last: int | None = None) -> Query:
        """Returns rows `first` to before `last` (all, if None) of a track, as a query."""
        is_short = bool(self._is_short[track])
        segment_s = float(self._durations_s[track]) if is_short else self.segment_s
        stored = Query(self.rows_of(track)[first:last], self.hop_s, segment_s, is_short)
        return densified(stored, self.query_phases)

    def rows_of(self, track: int) -> Float32[np.ndarray, "n E"]:
        """Returns the fingerprints of one track."""
        first = self.first_rows[track]
        return self.snapshot.vectors[first : first + self.num_rows[track]].astype(np.float32)


def make_reference(
    parts: Sequence[tuple[str, Float32[np.ndarray, "n E"]]],
    *,
    hop_s: float,
    segment_s: float,
    query_phases: int = 1,
    exact: bool = False,
    durations_s: Sequence[float] = (),
) -> Reference:
    """Returns a reference in memory.

    Args:
      parts: name and fingerprints of each track.
      hop_s: between fingerprints, in seconds.
      segment_s: of audio in a fingerprint.
      query_phases: how many times as densely a query's fingerprints lie.
      exact: search exactly, however many rows there are.
      durations_s: of each track; empty: as long as its windows.
    """
    lengths = [len(vectors) for _, vectors in parts]
    first_rows = np.cumsum([0, *lengths[:-1]])
    durations_s = durations_s or [(num - 1) * hop_s + segment_s for num in lengths]
    tracks = [
        StoredTrack(
            name=name,
            path=name,
            sha256="",
            duration_s=duration_s,
            first_row=int(row),
            num_rows=num,
        )
        for (name, _), num, row, duration_s in zip(
            parts, lengths, first_rows, durations_s, strict=True
        )
    ]
    vectors = np.concatenate([vectors for _, vectors in parts])
    snapshot = Snapshot(tracks, vectors, np.repeat(np.arange(len(tracks), dtype=np.int32), lengths))
    index = ExactIndex(vectors) if exact else build_index(vectors)
    return Reference(snapshot, index, hop_s, segment_s, query_phases)


def some_tracks(reference: Reference, chosen: Sequence[int]) -> Reference:
    """Returns a reference of a few of another's tracks, in this order, searched exactly."""
    parts = [(reference.snapshot.tracks[track].name, reference.rows_of(track)) for track in chosen]
    return make_reference(
        parts,
        hop_s=reference.hop_s,
        segment_s=reference.segment_s,
        query_phases=reference.query_phases,
        exact=True,
        durations_s=[reference.snapshot.tracks[track].duration_s for track in chosen],
    )
