"""The measured rows of the benchmark's tables: shares in [0, 1], each with its interval."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from confp_jax.evaluation.measure.query_results import KINDS, Outcomes, joined
from confp_jax.matching.decision import confidence
from confp_jax.metrics import bootstrap_interval, mcnemar_exact, wilson_interval

_NUM_BINS = 10  # of the reliability diagram

RATES = (0.001, 0.01)  # of false alarms, at which "right and accepted" is counted


@dataclasses.dataclass(frozen=True)
class Share:
    """A mean over runs with two 95 % intervals: Wilson's of one run's queries, and by bootstrap
    over tracks.
    """

    share: float
    wilson: tuple[float, float]
    bootstrap: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float]:
        """Returns the interval by bootstrap; Wilson's where that has no width (all or none were
        hits).
        """
        return self.bootstrap if self.bootstrap[0] < self.bootstrap[1] else self.wilson


@dataclasses.dataclass(frozen=True)
class ConditionRow:
    """A condition at one length of query.

    `top1` and `top5` are by the first fingerprint alone and exact search.
    """

    condition: str
    length_s: float
    num_queries: int  # of one run
    num_tracks: int
    num_runs: int
    top1: dict[str, Share]  # of KINDS
    top5: dict[str, float]
    index_top1: dict[str, float]  # by the approximate index
    matched: Share  # right track first, by the program's matching of the whole excerpt
    accepted: dict[str, Share]  # right and accepted, of RATES
    false_alarms: dict[str, Share]  # of RATES, with the own track taken out
    offset_median_ms: float | None
    offset_p90_ms: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same queries of the first run: whether one's top-1 track hits are more than
    luck.
    """

    condition: str
    length_s: float
    num_queries: int
    only_first: int
    only_second: int
    p_value: float  # McNemar's exact test, two-sided, of the queries as if they were independent
    difference: float  # of the shares, first minus second
    interval: tuple[
        float, float
    ]  # its 95 %, by bootstrap over tracks: the excerpts of one are not independent


def condition_row(
    condition: str, length_s: float, runs: Sequence[Outcomes], *, num_bootstraps: int, seed: int
) -> ConditionRow:
    """Returns the row of a condition from its runs."""
    whole = joined(runs)
    num = len(runs[0].track_ids)

    def share(values: Bool[np.ndarray, " Q"]) -> Share:
        mean = float(np.mean(values))
        interval = bootstrap_interval(
            values, whole.track_ids, num_bootstraps=num_bootstraps, seed=seed
        )
        return Share(mean, wilson_interval(mean, num), interval)

    trials = whole.trials
    errors_s = trials.offset_error_s[trials.right]
    return ConditionRow(
        condition,
        length_s,
        num,
        len(np.unique(whole.track_ids)),
        len(runs),
        {kind: share(whole.hits(kind, k=1)) for kind in KINDS},
        {kind: float(whole.hits(kind, k=5).mean()) for kind in KINDS},
        {kind: float(whole.hits(kind, k=1, search="index").mean()) for kind in KINDS},
        share(trials.right),
        {f"{rate:g}": share(trials.accepted_right(rate)) for rate in RATES},
        {f"{rate:g}": share(trials.false_alarms(rate)) for rate in RATES},
        float(1000 * np.median(errors_s)) if len(errors_s) else None,
        float(1000 * np.quantile(errors_s, 0.9)) if len(errors_s) else None,
    )


def compare(
    condition: str,
    length_s: float,
    first: Outcomes,
    second: Outcomes,
    *,
    num_bootstraps: int,
    seed: int,
) -> Comparison:
    """Tests two models' outcomes of the same queries as pairs.

    Args:
      condition: the queries' condition.
      length_s: of a query, in seconds.
      first: outcomes of one model.
      second: outcomes of the other.
      num_bootstraps: how many times tracks are drawn again.
      seed: of these draws.

    Raises:
      ValueError: the two models were measured on different queries.
    """
    if not np.array_equal(first.rows, second.rows):
        raise ValueError(f"{condition}: the two models were measured on different queries")
    one = first.hits("track", k=1)
    other = second.hits("track", k=1)
    only = int((one & ~other).sum()), int((other & ~one).sum())
    difference = one.astype(np.float64) - other
    interval = bootstrap_interval(
        difference, first.track_ids, num_bootstraps=num_bootstraps, seed=seed
    )
    return Comparison(
        condition,
        length_s,
        len(one),
        *only,
        mcnemar_exact(*only),
        float(difference.mean()),
        interval,
    )


def calibration(outcomes: Sequence[Outcomes]) -> tuple[list[tuple[float, float, int]], float]:
    """Returns the reliability diagram, (mean confidence, share right, queries) of each bin, and the
    expected calibration error.

    Each query counts twice, once with its track in the index and once without, as in the
    calibration: half are unknown.
    """
    whole = joined(outcomes).trials
    sure = confidence(np.r_[whole.known_logit, whole.unknown_logit])
    right = np.r_[whole.right, np.zeros(len(whole.right), bool)]
    place = np.minimum((sure * _NUM_BINS).astype(int), _NUM_BINS - 1)
    bins = [
        (float(sure[place == i].mean()), float(right[place == i].mean()), int((place == i).sum()))
        for i in range(_NUM_BINS)
        if (place == i).any()
    ]
    return bins, float(sum(num * abs(mean - share) for mean, share, num in bins) / len(sure))
