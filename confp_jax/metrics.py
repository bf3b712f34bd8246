"""Hit rates and their intervals: validation and the benchmark use the same."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int

EXACT_S = 0.150  # half a hop of 300 ms
NEAR_S = 0.500


@dataclasses.dataclass(frozen=True)
class HitRates:
    """Proportions of queries, in [0, 1], whose truth is among the best k results.

    docs/research/paper.md, "a hit", defines the three.
    """

    exact: float
    near: float
    track: float
    num_queries: int


def hit_rates(
    found_tracks: Int[np.ndarray, "Q K"],
    found_s: Float[np.ndarray, "Q K"],
    true_tracks: Int[np.ndarray, " Q"],
    true_s: Float[np.ndarray, " Q"],
    *,
    k: int = 1,
) -> HitRates:
    """Returns exact (right track within 150 ms), near (500 ms) and track hits among the first `k`
    results.

    Args:
      found_tracks: of each query's results, best first.
      found_s: where each result lies in its track, in seconds.
      true_tracks: the right track of each query.
      true_s: where it lies there, in seconds.
      k: how many results count.

    Raises:
      ValueError: there are no queries.
    """
    if len(true_tracks) == 0:
        raise ValueError("no queries: a hit rate of nothing is not defined")
    right = found_tracks[:, :k] == true_tracks[:, None]
    distance_s = np.abs(found_s[:, :k] - true_s[:, None])
    # A hop of exactly 150 ms away must not fall out by a rounding in the last bit.
    exact, near = (_share(right & (distance_s <= limit + 1e-6)) for limit in (EXACT_S, NEAR_S))
    return HitRates(exact, near, _share(right), len(true_tracks))


def wilson_interval(share: float, num: int, *, z: float = 1.96) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion in [0, 1] seen in `num` trials.

    Raises:
      ValueError: there is no trial.
    """
    if num <= 0:
        raise ValueError(f"num={num}: an interval needs at least one trial")
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    values: Float[np.ndarray, " Q"] | Bool[np.ndarray, " Q"],
    groups: Int[np.ndarray, " Q"],
    *,
    num_bootstraps: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the 95 % interval of a mean by drawing groups (tracks) with all their values: those
    of one are no independent trials.
    """
    _, inverse = np.unique(groups, return_inverse=True)
    sums = np.bincount(inverse, weights=values)
    counts = np.bincount(inverse)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (num_bootstraps, len(counts)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value that two systems hit equally often, from the queries that only one of them
    hit (McNemar, exact).

    Raises:
      ValueError: a number is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(
            f"only_first={only_first} and only_second={only_second} count queries; neither can be "
            "negative"
        )
    num = only_first + only_second
    least = min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(num, i) for i in range(least + 1)) / 2**num)


def _share(hits: Bool[np.ndarray, "Q K"]) -> float:
    return float(hits.any(axis=1).mean())
