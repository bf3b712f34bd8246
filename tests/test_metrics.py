"""Hit rates against a count by hand, intervals against scipy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from confp_jax.metrics import (
    HitRates,
    bootstrap_interval,
    hit_rates,
    mcnemar_exact,
    wilson_interval,
)

# Multiples of 50 ms: they meet the limits of 150 and 500 ms exactly, and often.
_PLACES_MS = st.integers(0, 40).map(lambda n: 50 * n)
_RESULT = st.tuples(st.integers(0, 2), _PLACES_MS)


@given(
    results=st.integers(1, 4).flatmap(
        lambda k: st.lists(
            st.tuples(st.lists(_RESULT, min_size=k, max_size=k), _RESULT), min_size=1, max_size=8
        )
    ),
    k=st.integers(1, 4),
)
def test_hit_rates_are_a_plain_count(results: list, k: int) -> None:
    exact = near = track = 0
    for found, (true_track, true_ms) in results:
        right_ms = [abs(ms - true_ms) for number, ms in found[:k] if number == true_track]
        exact += any(ms <= 150 for ms in right_ms)
        near += any(ms <= 500 for ms in right_ms)
        track += bool(right_ms)
    num = len(results)
    rates = hit_rates(
        np.array([[number for number, _ in found] for found, _ in results]),
        np.array([[ms / 1000 for _, ms in found] for found, _ in results]),
        np.array([number for _, (number, _) in results]),
        np.array([ms / 1000 for _, (_, ms) in results]),
        k=k,
    )
    assert rates == HitRates(exact / num, near / num, track / num, num)


def test_hit_rates_at_the_limits() -> None:
    """A hop of 150 ms on float32 seconds is a hit, one of 151 ms is not."""
    true_s = np.array([0.3, 0.3, 29.7, 29.7])
    found_s = np.array([[0.45], [0.451], [29.85], [30.2]], np.float32)
    rates = hit_rates(np.zeros((4, 1), int), found_s, np.zeros(4, int), true_s)
    assert (rates.exact, rates.near, rates.track) == (0.5, 1.0, 1.0)


def test_no_queries() -> None:
    with pytest.raises(ValueError, match="no queries"):
        hit_rates(np.zeros((0, 1), int), np.zeros((0, 1)), np.zeros(0, int), np.zeros(0))


@given(st.integers(1, 5000).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_wilson_interval(counts: tuple[int, int]) -> None:
    hits, num = counts
    expected = scipy.stats.binomtest(hits, num).proportion_ci(
        confidence_level=0.95, method="wilson"
    )
    low, high = wilson_interval(hits / num, num, z=scipy.stats.norm.ppf(0.975))
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= low <= hits / num + 1e-12
    assert hits / num - 1e-12 <= high <= 1


def test_wilson_s_default_is_95_percent() -> None:
    expected = scipy.stats.binomtest(440, 500).proportion_ci(method="wilson")
    assert wilson_interval(0.88, 500) == (
        pytest.approx(expected.low, abs=1e-5),
        pytest.approx(expected.high, abs=1e-5),
    )


def test_no_trials() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0.5, 0)


def test_the_paired_test_is_scipys_binomial_test():
    from scipy.stats import binomtest

    for only_first, only_second in [(0, 0), (10, 0), (3, 9), (25, 25), (7, 41)]:
        num = only_first + only_second
        expected = binomtest(only_first, num).pvalue if num else 1.0
        assert mcnemar_exact(only_first, only_second) == pytest.approx(expected)
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 3)


def test_the_bootstrap_agrees_with_the_spread_of_group_means():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 5)
    values = np.repeat(rng.random(400) < 0.3, 5)  # the five of a group are one trial
    low, high = bootstrap_interval(values, groups)
    half = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.005)
