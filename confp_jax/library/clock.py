"""The time of day at the places of a recording or a stream."""

import datetime
import time
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

_DRIFT_S = 0.25
_MOST_ANCHORS = 1_000  # of a stream: what is looked up lies in its last minutes


class Moments:
    """At what time of day a place of a recording was heard, by the clock while it came in, or by
    the time at which it began.
    """

    def __init__(self, sample_rate_hz: int, *, start: datetime.datetime | None, is_live: bool):
        self._rate_hz = sample_rate_hz
        self._is_live = is_live and start is None
        # (place in s, moment of its beginning): one more where the stream stood still
        self._anchors: list[tuple[float, float]] = []
        if start is not None:
            self._anchors = [(0.0, start.timestamp())]

    @classmethod
    def beginning(cls, sample_rate_hz: int, moment_s: float) -> "Moments":
        """Returns those of a recording that began at a moment in seconds since 1970."""
        start = datetime.datetime.fromtimestamp(moment_s, datetime.UTC)
        return cls(sample_rate_hz, start=start, is_live=False)

    def seen(
        self, blocks: Iterable[Float32[np.ndarray, " n"]]
    ) -> Iterator[Float32[np.ndarray, " n"]]:
        """Passes blocks on and notes when they came."""
        num = 0
        for block in blocks:
            if self._is_live:
                self._note(num / self._rate_hz, time.time() - len(block) / self._rate_hz)
            num += len(block)
            yield block

    def _note(self, place_s: float, moment_s: float) -> None:
        if self._anchors:
            place, moment = self._anchors[-1]
            if abs(moment + place_s - place - moment_s) < _DRIFT_S:
                return
        self._anchors.append((place_s, moment_s))
        del self._anchors[:-_MOST_ANCHORS]

    def at(self, place_s: float) -> str:
        """Returns the moment in ISO 8601 with the zone's offset; "" where it is not known."""
        moment = self.seconds_at(place_s)
        return "" if moment is None else iso(moment, "seconds")

    def seconds_at(self, place_s: float) -> float | None:
        """Returns the moment in seconds since 1970; None where it is not known."""
        before = [anchor for anchor in self._anchors if anchor[0] <= place_s] or self._anchors[:1]
        if not before:
            return None
        place, moment = before[-1]
        return moment + place_s - place


def iso(moment_s: float, precision: str = "milliseconds") -> str:
    """Returns a moment in seconds since 1970 as ISO 8601 with this machine's zone."""
    moment = datetime.datetime.fromtimestamp(moment_s).astimezone()
    return moment.isoformat(timespec=precision)
