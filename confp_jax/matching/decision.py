"""When the best match counts: a probability that it is right, and a threshold set by the rate of
false alarms.

A recording that is not in the database also has a nearest track, so the cosine alone does not
decide. What decides is how far the best track stands out from its cohort, the tracks that are
ranked below it. A logistic regression over a few such features gives the confidence. There is one
for each length of query and each size of database, with values in between interpolated (linearly in
the logarithms), and a separate one for queries with edge windows: the mean of more windows scatters
less. The same table holds how the regression's logit is distributed over queries that are not in
the database: beyond the value that one in twenty exceeds, the tail is exponential, so the threshold
for any rate of false alarms follows from it.

`python -m confp_jax.evaluation.calibrate` makes the table for a model; `confp calibrate DB` refits
the tail to a database.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from confp_jax.errors import UserError
from confp_jax.matching.ranking import Ranking
from confp_jax.texts import parse_json

VERSION = 4
FEATURES = ("score", "margin", "tempo", "prominence", "standout")
_GUESSED_FEATURES = ("score", "margin", "tempo")  # of a checkpoint that nobody has calibrated
TAIL_SHARE = 0.05  # of the unknown queries lie beyond the tail's start
FALSE_ALARM_RATE = 0.001
_LEAST_SCALE = 0.05
_RIDGE = 1e-3  # of the logistic regression
_NEWTON_STEPS = 30


class DecisionError(UserError):
    """A calibration that cannot be used; the message says how to calibrate again."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Log odds that each match is right, and how often an unknown query reaches as much."""

    logits: Float64[np.ndarray, " T"]
    alarm_rates: Float64[np.ndarray, " T"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """Regressions and tails by length of query and number of tracks; `calibrated` is False for a
    mere guess.
    """

    lengths_s: tuple[float, ...]
    num_tracks: tuple[int, ...]
    weights: Float64[
        np.ndarray, "2 L N F+1"
    ]  # of queries without edge windows, with them; bias first
    tails: Float64[np.ndarray, "2 L N 2"]  # where the tail starts, its scale
    weights_hash: str = ""  # of the model; stored as `identity`
    calibrated: bool = True
    features: tuple[str, ...] = _GUESSED_FEATURES  # what the weights are of

    def judge(
        self,
        ranking: Ranking,
        *,
        length_s: float,
        num_tracks: int,
        has_edge_windows: bool = False,
        first: int = 1,
    ) -> Judgement:
        """The first `first` matches of a query of `length_s` (not counting silence) in a database
        of `num_tracks`.
        """
        at = self._weights_at(length_s, num_tracks)
        weights = np.tensordot(at, self.weights[int(has_edge_windows)], 2)
        tail = np.tensordot(at, self.tails[int(has_edge_windows)], 2)
        logits = features(ranking, names=self.features, first=first) @ weights[1:] + weights[0]
        return Judgement(logits, tail_share(logits, tail))

    def tail(self, *, length_s: float, num_tracks: int) -> Float64[np.ndarray, " 2"]:
        """Returns the start and scale of the tail of unknown queries without edge windows."""
        return np.tensordot(self._weights_at(length_s, num_tracks), self.tails[0], 2)

    def with_tails(
        self, lengths_s: Sequence[float], tails: Float64[np.ndarray, "K 2"], *, num_tracks: int
    ) -> "Decision":
        """Returns the same regressions with tails measured on one database of `num_tracks` at these
        (ascending) lengths.

        Measured are those of queries without edge windows; the others, and those of other
        lengths, move as that of the nearest measured length does.
        """
        sizes = _linear(np.log(self.num_tracks), math.log(max(num_tracks, 1)))
        own = np.tensordot(self.tails, sizes, ([2], [0]))
        before = np.array(
            [self.tail(length_s=length, num_tracks=num_tracks) for length in lengths_s]
        )
        moved = [
            np.interp(np.log(self.lengths_s), np.log(lengths_s), (tails - before)[:, i])
            for i in range(2)
        ]
        new = own + np.stack(moved, axis=1)
        new[..., 1] = np.maximum(new[..., 1], _LEAST_SCALE)
        return dataclasses.replace(
            self, tails=np.repeat(new[:, :, None], len(self.num_tracks), axis=2)
        )

    def _weights_at(self, length_s: float, num_tracks: int) -> Float64[np.ndarray, "L N"]:
        """Returns how much each cell of the table counts: bilinear in the logarithms, constant
        beyond the table.
        """
        lengths = _linear(np.log(self.lengths_s), math.log(max(length_s, 1e-3)))
        return np.outer(lengths, _linear(np.log(self.num_tracks), math.log(max(num_tracks, 1))))

    def to_json(self) -> str:
        """Returns what `from_json` reads back."""
        values = dataclasses.asdict(self) | {"version": VERSION}
        values["identity"] = values.pop("weights_hash")
        values |= {name: np.round(values[name], 4).tolist() for name in ("weights", "tails")}
        return json.dumps(values) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "Decision":
        """Returns the inverse of `to_json`.

        Raises:
          DecisionError: damaged, or written by another version.
        """
        remedy = "calibrate again with `python -m confp_jax.evaluation.calibrate`"
        try:
            values = parse_json(text)
            version = values.pop("version", 1)
            names = tuple(values.pop("features", ()))
            if version != VERSION or not names or not set(names) <= set(FEATURES):
                raise DecisionError(
                    f"{source} is a calibration of version {version} over {names}, this program "
                    f"reads version {VERSION} over some of {FEATURES}; {remedy}"
                )
            decision = cls(
                tuple(map(float, values["lengths_s"])),
                tuple(map(int, values["num_tracks"])),
                np.array(values["weights"], np.float64),
                np.array(values["tails"], np.float64),
                weights_hash=str(values["identity"]),
                calibrated=bool(values["calibrated"]),
                features=names,
            )
        except DecisionError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise DecisionError(f"{source} is damaged ({error}); {remedy}") from error
        wrong = decision.what_is_wrong()
        if wrong:
            raise DecisionError(f"{source} is damaged ({wrong}); {remedy}")
        return decision

    def what_is_wrong(self) -> str:
        """Returns why the table cannot be used, "" if it can."""
        grid = len(self.lengths_s), len(self.num_tracks)
        if self.weights.shape != (2, *grid, len(self.features) + 1):
            return f"weights of shape {self.weights.shape}"
        if self.tails.shape != (2, *grid, 2) or 0 in grid:
            return f"tails of shape {self.tails.shape}"
        for name in ("lengths_s", "num_tracks"):
            values = getattr(self, name)
            if not np.isfinite(values).all() or min(values) <= 0 or (np.diff(values) <= 0).any():
                return f"{name} do not rise from above 0"
        if not (np.isfinite(self.weights).all() and np.isfinite(self.tails).all()):
            return "a weight or a tail is not finite"
        return "" if (self.tails[..., 1] > 0).all() else "a tail's scale is not above 0"


def uncalibrated() -> Decision:
    """Returns a guess for a checkpoint that nobody has calibrated: a margin of 0.2 is even odds,
    0.3 is beyond one alarm in 1,000.
    """
    weights = np.array([-8.0, 0.0, 40.0, 0.0])
    tails = np.array([-2.0, 1.5])
    return Decision(
        (3.0,),
        (1,),
        np.tile(weights, (2, 1, 1, 1)),
        np.tile(tails, (2, 1, 1, 1)),
        calibrated=False,
    )


def load_decision(folder: pathlib.Path | None, weights_hash: str) -> Decision:
    """Returns the calibration beside the weights, or a guess for a checkpoint that has none yet.

    Raises:
      DecisionError: damaged, of another version, or made for other weights than those of
        `weights_hash`.
    """
    file = folder / "decision.json" if folder else None
    if file is None or not file.is_file():
        return uncalibrated()
    text = file.read_bytes().decode("utf-8", errors="replace")  # it may lie in a bucket
    decision = Decision.from_json(text, source=str(file))
    if decision.weights_hash != weights_hash:
        raise DecisionError(
            f"{file} was made for the weights {decision.weights_hash}, these are {weights_hash}; "
            "calibrate again with `python -m confp_jax.evaluation.calibrate`"
        )
    return decision


def features(
    ranking: Ranking, *, names: Sequence[str] = FEATURES, first: int = 1
) -> Float64[np.ndarray, "T F"]:
    """Returns the named FEATURES of the first `first` matches.

    score: the match's. margin: its excess over the mean score of the cohort, the ten tracks after
      the second (the second may be the same recording once more). tempo: how far it is from the
      original's, |ln tempo|. prominence: by how many deviations of the cohort its evidence stands
      out (`Ranking.prominence`). standout: the prominence, or the margin in usual deviations where
      that is more (`Ranking.standout`).
    """
    score = ranking.scores[:first].astype(np.float64)
    margin = score - ranking.cohort_mean
    values = {
        "score": score,
        "margin": margin,
        "tempo": np.abs(np.log(ranking.tempos[:first])),
        "prominence": ranking.prominence(first),
        "standout": ranking.standout(first),
    }
    return np.stack([values[name] for name in names], axis=1)


def tail_share(
    logits: Float64[np.ndarray, " Q"], tail: Float64[np.ndarray, " 2"]
) -> Float64[np.ndarray, " Q"]:
    """Returns the share of unknown queries that reach each logit: 1 below the tail, where nothing
    is accepted.
    """
    start, scale = tail
    return np.where(logits < start, 1.0, TAIL_SHARE * np.exp(-(logits - start) / scale))


def fit_tail(unknown: Float64[np.ndarray, " Q"]) -> Float64[np.ndarray, " 2"]:
    """Returns the start and scale of the upper tail of unknown queries' logits: exponential beyond
    its start (peaks over threshold).
    """
    start = float(np.quantile(unknown, 1 - TAIL_SHARE))
    beyond = unknown[unknown > start] - start
    return np.array([start, max(float(beyond.mean()) if len(beyond) else 0.0, _LEAST_SCALE)])


def fit_logistic(
    values: Float64[np.ndarray, "Q F"], right: np.ndarray
) -> Float64[np.ndarray, " F+1"]:
    """Returns weights (bias first) of a logistic regression by Newton's method.

    Minimises the mean cross-entropy plus `_RIDGE` / 2 times the squared weights of the standardised
    features.
    """
    mean = values.mean(axis=0)
    deviation = values.std(axis=0) + 1e-9
    design = np.c_[np.ones(len(values)), (values - mean) / deviation]
    penalty = np.diag([0.0, *[_RIDGE] * values.shape[1]])
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = confidence(design @ weights)
        gradient = design.T @ (p - right) / len(p) + penalty @ weights
        curvature = (
            (design * (p * (1 - p))[:, None]).T @ design / len(p)
            + penalty
            + 1e-9 * np.eye(len(weights))
        )
        weights = weights - np.clip(np.linalg.solve(curvature, gradient), -5, 5)
    scaled = weights[1:] / deviation
    return np.r_[weights[0] - scaled @ mean, scaled]


def confidence(logits: Float64[np.ndarray, " Q"]) -> Float64[np.ndarray, " Q"]:
    """Logits to probabilities."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _linear(grid: Float64[np.ndarray, " G"], value: float) -> Float64[np.ndarray, " G"]:
    """Returns weights of the grid's points for linear interpolation at `value`."""
    return np.array([np.interp(value, grid, row) for row in np.eye(len(grid))])
