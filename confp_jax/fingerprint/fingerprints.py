"""Fingerprints of one recording, in order."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.errors import UserError

TELLS_TEMPO_S = 1.5  # windows spread over less tell nothing of the tempo


class AudioError(UserError):
    """Audio that cannot be fingerprinted; the message says why and what would do."""


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """Fingerprints at a constant hop. A window of silence has the zero vector: it is similar to
    nothing.

    Audio shorter than a segment is in all of its windows, each of which holds it at another place
    and sees nothing beyond it. Those of a query have overhanging windows beside them, which see a
    part of it: K begin before it, K end after it. One that fills a window but is too short to tell
    its tempo also has those of what it sounds like played `SPEEDUP` times as fast.

    Those of a model with a projection are dense in a query: `between[p, i]` begins (p + 1) / (P +
    1) of a hop after `vectors[i]`, and is zero where the audio has ended. If it has a conformer
    too, `by_conformer[p, i]` is what that alone gives, p = 0 for `vectors`, so long that its
    product with a stored fingerprint is the cosine of the conformer's parts.
    """

    vectors: Float32[np.ndarray, "N E"]
    hop_s: float
    segment_s: float  # of audio in a window
    is_partial: bool = False  # the audio is shorter than a window
    edge_windows: Float32[np.ndarray, "2 K E"] = dataclasses.field(
        default_factory=lambda: np.zeros((2, 0, 0), np.float32)
    )
    faster: "Fingerprints | None" = None
    between: Float32[np.ndarray, "P N E"] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0, 0), np.float32)
    )
    by_conformer: Float32[np.ndarray, "P N E"] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0, 0), np.float32)
    )

    @property
    def num_silent(self) -> int:
        """How many windows were silent."""
        return int((~self.vectors.any(axis=1)).sum())

    @property
    def has_edge_windows(self) -> bool:
        """Whether it has windows that overhang."""
        return self.edge_windows.shape[1] > 0

    @property
    def tells_tempo(self) -> bool:
        """Whether its windows spread far enough to be found apart."""
        return not self.is_partial and (len(self.vectors) - 1) * self.hop_s >= TELLS_TEMPO_S

    @property
    def duration_s(self) -> float:
        """Of the audio that the windows hold."""
        return (
            self.segment_s
            if self.is_partial
            else (len(self.vectors) - 1) * self.hop_s + self.segment_s
        )

    @property
    def loud_s(self) -> float:
        """The same without the windows of silence."""
        return (
            self.duration_s if self.is_partial else self.duration_s - self.num_silent * self.hop_s
        )

    def part(self, first: int, last: int) -> "Fingerprints":
        """The windows from `first` to before `last`; what only a whole query has, if these are
        all.
        """
        vectors = self.vectors[first:last]
        whole = self if len(vectors) == len(self.vectors) else self.plain()
        between, by_conformer = self.between[:, first:last], self.by_conformer[:, first:last]
        return dataclasses.replace(
            whole, vectors=vectors, between=between, by_conformer=by_conformer
        )

    @property
    def conformer_alone(self) -> "Fingerprints | None":
        """The same as the conformer alone hears it; None for a model that has only one part."""
        if not len(self.by_conformer):
            return None
        some = self.by_conformer[
            :: max(1, len(self.by_conformer) // 2)
        ]  # it changes slowly: two to a hop are enough
        return Fingerprints(some[0], self.hop_s, self.segment_s, self.is_partial, between=some[1:])

    def plain(self) -> "Fingerprints":
        """The same without what only a whole query has."""
        return dataclasses.replace(self, edge_windows=self.edge_windows[:, :0], faster=None)


def joined(parts: Sequence[Fingerprints]) -> Fingerprints:
    """Consecutive fingerprints of one recording as one."""
    if len(parts) == 1:
        return parts[0]
    first, last = parts[0], parts[-1]
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
        by_conformer=np.concatenate([part.by_conformer for part in parts], axis=1),
    )


def densified(stored: Fingerprints, num_phases: int) -> Fingerprints:
    """Returns stored fingerprints as a query of a model that has `num_phases`: those between two
    lie in between them.
    """
    if num_phases == 1:
        return stored
    vectors = stored.vectors
    following = np.concatenate([vectors[1:], vectors[-1:]])
    parts = (np.arange(1, num_phases) / num_phases)[:, None, None]
    between = ((1 - parts) * vectors + parts * following).astype(np.float32)
    between /= np.maximum(np.linalg.norm(between, axis=-1, keepdims=True), 1e-12)
    between[:, -1:] = 0.0
    return dataclasses.replace(stored, between=between)
