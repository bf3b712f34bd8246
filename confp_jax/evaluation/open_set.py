"""False alarms against misses: every query is searched with its own track and without it."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, Int64

from confp_jax.retrieval.embed import Decision
from confp_jax.retrieval.match import NUM_RIVALS, margin

_FEW_TRACKS = 15


@dataclasses.dataclass(frozen=True)
class OpenSet:
    """Margins of queries whose track is in the index ("known", with whether the best track is right) and is not ("unknown")."""

    known: Float32[np.ndarray, " Q"]
    right: Bool[np.ndarray, " Q"]
    unknown: Float32[np.ndarray, " Q"]

    def accepted_right(self, threshold: float) -> float:
        """Share of queries that are answered, and rightly."""
        return float((self.right & (self.known >= threshold)).mean())

    def false_alarms(self, threshold: float) -> float:
        """Share of unknown queries that are answered."""
        return float((self.unknown >= threshold).mean())


def track_scores(
    queries: Float32[np.ndarray, "Q E"], vectors: Float32[np.ndarray, "N E"], first_rows: Int64[np.ndarray, " T"]
) -> Float32[np.ndarray, "Q T"]:
    """Every track's best cosine, by exact search; a track's rows begin at `first_rows` and stand together."""
    out = np.empty((len(queries), len(first_rows)), np.float32)
    for first in range(0, len(queries), 128):
        out[first : first + 128] = np.maximum.reduceat(queries[first : first + 128] @ vectors.T, first_rows, axis=1)
    return out


def open_set(scores: Float32[np.ndarray, "Q T"], truth: Int64[np.ndarray, " Q"], decision: Decision) -> OpenSet:
    """Margins with each query's own track in the index, and with it masked."""
    known = np.array([margin(np.sort(row)[::-1], decision) for row in scores], np.float32)
    masked = scores.copy()
    masked[np.arange(len(scores)), truth] = -1.0
    unknown = np.array([margin(np.sort(row)[::-1], decision) for row in masked], np.float32)
    return OpenSet(known, scores.argmax(axis=1) == truth, unknown)


def calibrate(
    scores: Float32[np.ndarray, "Q T"], truth: Int64[np.ndarray, " Q"], *, false_alarm_rate: float, seed: int = 0
) -> Decision:
    """Margin and rival floor that `false_alarm_rate` of the unknown queries reach, in the whole index and in a small one.

    The margin is set on the whole index. In a database of few tracks the field of rivals is thin, and a stranger's margin
    grows by itself; the floor is set so that no more strangers pass among `_FEW_TRACKS` random tracks than among all.
    """
    masked = scores.copy()
    masked[np.arange(len(scores)), truth] = -1.0
    best, field = _best_and_field(masked)
    threshold = float(np.quantile(best - field, 1 - false_alarm_rate, method="higher")) + 5e-5
    rng = np.random.default_rng(seed)
    few = rng.permuted(np.tile(np.arange(scores.shape[1]), (len(scores), 1)), axis=1)[:, :_FEW_TRACKS]
    best, field = _best_and_field(np.take_along_axis(masked, few, axis=1))
    needed = np.where(best - field >= threshold, best - threshold, 0.0)
    floor = float(np.quantile(needed, 1 - false_alarm_rate, method="higher")) + 5e-5
    return Decision(margin=round(threshold, 4), rival_floor=round(floor, 4), calibrated=True)


def _best_and_field(scores: Float32[np.ndarray, "Q T"]) -> tuple[np.ndarray, np.ndarray]:
    ranked = np.sort(scores, axis=1)[:, ::-1]
    return ranked[:, 0], ranked[:, 1 : 1 + NUM_RIVALS].mean(axis=1)
