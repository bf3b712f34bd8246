"""What the tables are made of, against cases worked out by hand."""

import dataclasses

import numpy as np
import pytest
from unit_vectors import normalised, unit_rows

from confp_jax.database import Database, ModelId, NewTrack
from confp_jax.evaluation.measure.compression import as_stored, principal_axes
from confp_jax.evaluation.measure.indexed_dataset import EvaluationReference
from confp_jax.evaluation.measure.query_results import Outcomes, Searched
from confp_jax.evaluation.measure.scale import fill_up, scale_rows
from confp_jax.evaluation.measure.shift_curve import make_curve
from confp_jax.evaluation.measure.summary import calibration, compare, condition_row
from confp_jax.evaluation.measure.trials import Trials
from confp_jax.matching.searchable import make_reference


def outcomes_of(right, tracks, sure=None):
    """Made-up outcomes: the right track first where `right`."""
    right, tracks, zeros = np.array(right), np.array(tracks), np.zeros(len(right))
    found = np.where(right, tracks, tracks + 1)
    logit = np.where(right, 4.0, -4.0) if sure is None else sure
    trials = Trials(
        tracks, right, zeros, logit, zeros + 1, zeros - 9, tracks + 1, zeros, found, zeros
    )
    places = found[:, None], zeros[:, None]
    queries = np.zeros((len(right), 4), np.float32)
    return Outcomes(
        np.arange(len(right)),
        tracks,
        zeros,
        zeros + 1,
        zeros,
        queries,
        *places,
        zeros[:, None],
        *places,
        trials,
    )


def test_distractors_take_hits_away():
    """Queries of five of ten tracks, so noisy that a random vector of 20,000 is sometimes nearer
    than the true one.
    """
    rng = np.random.default_rng(0)
    rows = unit_rows(rng, 300, 16)
    made = make_reference(
        [(str(i), rows[30 * i : 30 * i + 30]) for i in range(10)],
        hop_s=0.3,
        segment_s=3.0,
    )
    asked = rng.permutation(150)[:100]
    queries = rows[asked] + rng.normal(scale=0.2, size=(100, 16))
    queries = normalised(queries)
    one = dataclasses.replace(
        outcomes_of([True] * 100, asked // 30),
        queries=queries,
        segment_s=0.3 * (asked % 30),
    )
    searched = Searched(None, EvaluationReference(made, np.arange(10), np.zeros(10)), {}, None)
    found = [
        row
        for row in scale_rows(searched, {"clean": one}, (200, 1000, 19_000), seed=0)
        if row.search == "exact"
    ]
    assert [(row.num_rows, row.num_synthetic) for row in found] == [
        (150, 0),
        (300, 0),
        (1000, 700),
        (19_000, 18_700),
    ]
    shares = [row.track["clean"] for row in found]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.9 > shares[-1] > 0.1
    assert [row.exact["clean"] for row in found] == pytest.approx(shares, abs=0.05)


def test_distractors_lie_near_real_rows_of_other_tracks():
    rng = np.random.default_rng(0)
    rows = np.zeros((6000, 64), np.float32)
    rows[:200] = unit_rows(rng, 200)
    real = rows[:200].copy()
    again = rows.copy()
    for one in (rows, again):
        fill_up(one, first_other=50, num_real=200, seed=3)
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(rows[:200], real)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    nearest = rows[200:] @ real.T
    assert (nearest.argmax(axis=1) >= 50).mean() > 0.99 and 0.75 < nearest.max(axis=1).mean() < 0.87


def test_principal_axes_keep_what_lies_in_them():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 16))).astype(np.float32)
    axes = principal_axes(rows)
    np.testing.assert_allclose(axes.T @ axes, np.eye(16), atol=1e-5)
    np.testing.assert_allclose(rows @ axes[:, :3] @ axes[:, :3].T, rows, atol=1e-3)


def test_several_runs_are_a_mean_with_the_interval_of_one():
    tracks = np.repeat(np.arange(20), 5)
    runs = [outcomes_of(np.arange(100) < 80, tracks), outcomes_of(np.arange(100) < 60, tracks)]
    row = condition_row("clean", 3.0, runs, num_bootstraps=500, seed=0)
    assert (
        row.top1["track"].share == pytest.approx(0.7)
        and row.num_runs == 2
        and row.num_queries == 100
    )
    assert row.top1["track"].wilson == pytest.approx(
        (0.604, 0.781), abs=0.001
    )  # of 70 in 100: Wilson's formula by hand
    low, high = row.top1["track"].bootstrap
    assert low < 0.55 and high > 0.83  # whole tracks fail: wider than independent trials


def test_two_models_are_compared_in_pairs():
    hits = [True] * 12 + [False] * 3, [True] * 2 + [False] * 13
    first, second = (outcomes_of(right, np.arange(15)) for right in hits)
    told = compare("clean", 3.0, first, second, num_bootstraps=500, seed=0)
    assert (told.only_first, told.only_second) == (10, 0) and told.p_value == pytest.approx(
        2 / 2**10
    )
    assert (
        told.difference == pytest.approx(10 / 15)
        and 0.3 < told.interval[0] < told.difference < told.interval[1] < 0.9
    )
    of_five = [outcomes_of(right, np.arange(15) // 3) for right in hits]
    wide = compare("clean", 3.0, *of_five, num_bootstraps=500, seed=0)
    assert (
        wide.interval[1] - wide.interval[0] > told.interval[1] - told.interval[0]
    )  # five tracks say less than fifteen


def test_calibration_error_of_a_known_case():
    """80 % sure and right in 60 %; the unknown are as sure of nothing."""
    sure = np.full(50, np.log(0.8 / 0.2))
    bins, error = calibration([outcomes_of(np.arange(50) < 30, np.arange(50), sure)])
    assert [num for _, _, num in bins] == [50, 50]
    assert bins[1][:2] == (pytest.approx(0.8), pytest.approx(0.6)) and error == pytest.approx(
        0.1, abs=0.001
    )


def test_too_little_confidence_is_an_error_like_too_much():
    """20 % sure and right in 60 %, beside unknown queries that are as sure of nothing."""
    sure = np.full(50, np.log(0.2 / 0.8))
    _, error = calibration([outcomes_of(np.arange(50) < 30, np.arange(50), sure)])
    assert error == pytest.approx(0.2, abs=0.001)


def test_errors_of_places_are_of_the_right_tracks():
    right = np.arange(101) < 81
    outcomes = outcomes_of(right, np.arange(101))
    errors_s = np.where(right, np.arange(101) / 100, 9.0)
    trials = dataclasses.replace(outcomes.trials, offset_error_s=errors_s)
    runs = [dataclasses.replace(outcomes, trials=trials)]
    row = condition_row("clean", 3.0, runs, num_bootstraps=10, seed=0)
    assert (row.offset_median_ms, row.offset_p90_ms) == pytest.approx((400.0, 720.0))


def test_the_crossing_lies_where_the_means_are_equal():
    shifts = [0.0, 0.1, 0.2, 0.3]
    own = np.array([[1.0, 0.9, 0.5, 0.1]] * 3)
    following = np.array([[0.1, 0.5, 0.9, 1.0]] * 3)
    assert make_curve(shifts, own, following).crossing_s == pytest.approx(0.15)
    assert make_curve(shifts, own, own - 1).crossing_s is None


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
def test_smaller_rows_are_what_a_database_gives_back(tmp_path, precision):
    rows = unit_rows(3, 50, 16)
    database = Database.create(tmp_path / "db", ModelId("m", "0", 0.3), precision=precision)
    database.add([NewTrack("a", "a.wav", "0" * 64, 1.0, rows)])
    expected = np.asarray(database.snapshot().vectors)
    found, num_bytes = as_stored(rows, precision)
    np.testing.assert_array_equal(found, expected)
    assert num_bytes == {"float16": 32, "int8": 18, "binary": 2}[precision]
