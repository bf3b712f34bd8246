"""Identifies a clip while it is being recorded: looks at what was heard again and again until it is
sure.

Each look at a growing clip may raise a false alarm. Half of the false-alarm rate is divided among
the looks, and the answer to the whole clip has the other half: so the rate holds for the clip.
"""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.segments import num_windows
from confp_jax.fingerprint.embedder import HOP_S, Embedder
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.fingerprint.query import Query, joined
from confp_jax.library.searcher import Answer, ReferenceSearcher

LONGEST_S = 12.0  # of a clip; then it is answered
ANSWER_BUDGET = 0.5  # of the false-alarm rate


@dataclasses.dataclass(frozen=True)
class Pace:
    """When a growing clip is looked at, in seconds heard."""

    first_s: float
    every_s: float

    @property
    def look_budget(self) -> float:
        """Returns the fraction of the false-alarm rate that one look may use."""
        return (1 - ANSWER_BUDGET) / (1 + (LONGEST_S - self.first_s) / self.every_s)


# Music is looked at once a fingerprint hears all that it can; calls are decided while they ring.
PACES = {"music": Pace(3.0, 1.0), "calls": Pace(1.5, 0.5)}


class GrowingClip:
    """What has been heard so far, as a query of all windows that are complete.

    Whoever feeds it makes a query of `unfingerprinted()` and gives it to `settle`, so that it can
    be done in another thread.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        longest_s: float = LONGEST_S,
        pace: Pace = PACES["music"],
    ):
        rate_hz = embedder.sample_rate_hz
        self._rate_hz = rate_hz
        self._longest = round(longest_s * rate_hz)
        self._hop = round(HOP_S * rate_hz)
        self._segment = embedder.config.audio.segment_samples
        self._margin = embedder.margin_samples
        self._pace = pace
        self._next_s = pace.first_s
        self._num_settled = 0  # windows that no more sound will change
        self.samples = np.zeros(0, np.float32)
        self._query: Query | None = None

    @property
    def heard_s(self) -> float:
        """Returns how much was heard, in seconds."""
        return len(self.samples) / self._rate_hz

    @property
    def is_due(self) -> bool:
        """Returns whether it is time to look."""
        return self.heard_s >= self._next_s

    @property
    def is_full(self) -> bool:
        """Returns whether the longest clip was heard."""
        return len(self.samples) >= self._longest

    def push(self, samples: Float32[np.ndarray, " n"]) -> None:
        """Adds what was heard next; what exceeds the longest clip is dropped."""
        self.samples = np.concatenate([self.samples, samples])[: self._longest]

    def unfingerprinted(self) -> Float32[np.ndarray, " n"] | None:
        """Returns the audio of the windows that have become complete since the last time, and of
        those that have more audio around them now; None if there are no such windows.
        """
        known = self._num_settled
        complete = len(self.samples) >= known * self._hop + self._segment
        if known and not complete:
            return None
        return self.samples[self._first_open * self._hop :]

    def settle(self, new: Query) -> None:
        """Appends the query of the audio that `unfingerprinted` returned."""
        known = self._num_settled
        if self._query is not None and known:
            own = new.part(known - self._first_open, len(new.vectors))
            new = joined([self._query.part(0, known), own])
        self._query = new
        length = self._segment + self._margin
        settled = num_windows(len(self.samples), segment_samples=length, hop_samples=self._hop)
        # What lies between the last of them and the next one is not settled yet.
        self._num_settled = max(0, min(settled, len(new.vectors)) - (1 if self._margin else 0))

    @property
    def query(self) -> Query:
        """Returns the query of all settled windows.

        Raises:
          AudioError: nothing was settled yet.
        """
        if self._query is None:
            raise AudioError("nothing was heard")
        return self._query

    def looked(self) -> None:
        """Notes a look, so that the next one is due a while later."""
        self._next_s = self.heard_s + self._pace.every_s

    @property
    def _first_open(self) -> int:
        return max(0, self._num_settled - math.ceil(self._margin / self._hop))


def identify_growing(
    searcher: ReferenceSearcher,
    blocks: Iterable[Float32[np.ndarray, " n"]],
    *,
    query: str,
    longest_s: float = LONGEST_S,
    pace: Pace = PACES["music"],
) -> Iterator[tuple[float, Answer]]:
    """Yields, for each look, how many seconds were heard and the answer to them.

    It ends with the first sure answer, or with the answer to all of the clip.

    Args:
      searcher: the database.
      blocks: mono audio at the model's rate, as it is recorded.
      query: the clip's name in the answers.
      longest_s: when to answer at the latest.
      pace: when to look.

    Raises:
      AudioError: shorter than 1 s, or silent throughout.
      DecodeError: what `blocks` raises.
    """
    clip = GrowingClip(searcher.embedder, longest_s=longest_s, pace=pace)
    for block in blocks:
        clip.push(block)
        if clip.is_full:
            break
        if clip.is_due:
            clip.looked()
            answer = _look(searcher, clip, query, pace)
            yield clip.heard_s, answer
            if answer.num_accepted:
                return
    yield clip.heard_s, _answer(searcher, clip, query, alarm_budget=ANSWER_BUDGET)


def _look(searcher: ReferenceSearcher, clip: GrowingClip, query: str, pace: Pace) -> Answer:
    try:
        return _answer(searcher, clip, query, alarm_budget=pace.look_budget)
    except AudioError:  # silence so far
        return Answer(query, "unknown", [], 0.0, notes=["silence"])


def _answer(
    searcher: ReferenceSearcher, clip: GrowingClip, query: str, *, alarm_budget: float
) -> Answer:
    began = time.perf_counter()
    samples = clip.unfingerprinted()
    if samples is not None:
        clip.settle(searcher.embedder.query(samples))
    found = searcher.search([clip.query], alarm_budget=alarm_budget)
    return searcher.answer(query, found, began=began)
