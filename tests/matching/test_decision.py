"""The decision's regressions against scipy, its tails against their distribution, its table by
hand.
"""

import dataclasses
import json

import numpy as np
import pytest
import scipy.optimize

from confp_jax.matching.decision import (
    FEATURES,
    TAIL_SHARE,
    Decision,
    DecisionError,
    confidence,
    features,
    fit_logistic,
    fit_tail,
    load_decision,
    tail_share,
    uncalibrated,
)
from confp_jax.matching.ranking import Ranking


def ranking_of(scores: list[float], tempos: list[float] | None = None) -> Ranking:
    num = len(scores)
    tempo = np.array(tempos or [1.0] * num)
    return Ranking(
        np.arange(num),
        np.array(scores, np.float32),
        np.zeros(num),
        tempo,
        np.array(scores, np.float32)[:, None],
    )


def a_decision(**overrides) -> Decision:
    rng = np.random.default_rng(0)
    values = {
        "weights": rng.normal(size=(2, 2, 3, 1 + len(FEATURES))),
        "tails": rng.uniform(0.1, 1, (2, 2, 3, 2)),
    }
    return Decision(
        (3.0, 12.0),
        (1, 10, 1000),
        **values,
        weights_hash="abc",
        **{"features": FEATURES} | overrides,
    )


class TestLogistic:
    def test_equals_scipys_minimiser(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(400, 3)) * [1.0, 0.1, 20.0] + [0.0, 3.0, -5.0]
        right = rng.random(400) < confidence(values @ [1.0, 5.0, 0.05] - 14.0)
        mean = values.mean(axis=0)
        deviation = values.std(axis=0)

        def loss(w):
            z = (values - mean) / deviation @ w[1:] + w[0]
            return np.mean(np.logaddexp(0, z) - right * z) + 0.5e-3 * np.sum(w[1:] ** 2)

        best = scipy.optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
        expected = np.r_[best[0] - np.sum(best[1:] * mean / deviation), best[1:] / deviation]
        np.testing.assert_allclose(fit_logistic(values, right), expected, rtol=1e-3, atol=1e-3)

    def test_what_can_be_told_apart_without_error_stays_finite(self):
        values = np.r_[np.zeros((50, 1)), np.ones((50, 1))]
        weights = fit_logistic(values, values[:, 0] > 0.5)
        p = confidence(values @ weights[1:] + weights[0])
        assert np.isfinite(weights).all() and p[0] < 0.1 and p[-1] > 0.9

    def test_the_confidence_is_a_probability(self):
        np.testing.assert_allclose(
            confidence(np.array([-1e4, 0.0, np.log(3), 1e4])), [0, 0.5, 0.75, 1]
        )


class TestFeatures:
    def test_the_field_is_the_ten_after_the_next(self):
        scores = [0.9, 0.8, *np.linspace(0.6, 0.5, 10), 0.1]
        (first,) = features(ranking_of(scores, [1.1] + [1.0] * 12))
        # One window: its evidence is its cosine without 0.08, the score here; the usual deviation
        # weighs as much as two more tracks of the cohort.
        evidence = np.maximum(np.array(scores) - 0.08, 0)
        cohort = evidence[2:]
        deviation = np.sqrt((np.square(cohort - cohort.mean()).sum() + 2 * 0.025**2) / 13)
        prominences = (evidence - cohort.mean()) / deviation
        standouts = [max(prominences[i], (scores[i] - 0.55) / 0.025) for i in range(2)]
        expected = [0.9, 0.9 - 0.55, np.log(1.1), prominences[0], standouts[0]]
        assert first == pytest.approx(expected, abs=1e-4)
        second = features(ranking_of(scores), first=2)[1]
        expected = [0.8, 0.8 - 0.55, 0.0, prominences[1], standouts[1]]
        assert second == pytest.approx(expected, abs=1e-4)

    def test_windows_that_agree_are_more_prominent_than_chance(self):
        """The evidence of one window in four at 0.4 beats all four at the chance of 0.08."""
        cosines = np.full((12, 4), 0.08, np.float32)
        cosines[1:, 0] = 0.12
        cosines[0, 3] = 0.4
        ranking = dataclasses.replace(ranking_of(cosines.mean(axis=1)), cosines=cosines)
        assert features(ranking, names=("prominence",))[0, 0] == pytest.approx(
            (0.08 - 0.01) / np.sqrt(2 * 0.025**2 / 4 / 12), rel=1e-4
        )

    def test_by_name(self):
        ranking = ranking_of([0.9, 0.8, 0.6, 0.5])
        everything = dict(zip(FEATURES, features(ranking)[0], strict=True))
        assert features(ranking, names=("tempo", "score"))[0].tolist() == [
            everything["tempo"],
            everything["score"],
        ]

    @pytest.mark.parametrize(
        ("scores", "margin"), [([0.8], 0.8), ([0.8, 0.5], 0.3), ([0.8, 0.5, 0.3], 0.5)]
    )
    def test_a_small_cohort(self, scores, margin):
        assert features(ranking_of(scores))[0, 1] == pytest.approx(margin, abs=1e-6)

    def test_the_same_recording_twice_does_not_lower_the_margin(self):
        field = [0.5] * 12
        once = features(ranking_of([0.9, *field]))
        twice = features(ranking_of([0.9, 0.9, *field]))
        np.testing.assert_allclose(once[:, :3], twice[:, :3])
        assert twice[0, 3] == pytest.approx(once[0, 3], rel=0.05), "one fewer in the cohort"

    def test_nothing_was_found(self):
        assert features(ranking_of([]), first=5).shape == (0, len(FEATURES))

    def test_the_margin_counts_where_it_stands_out_more(self):
        """In usual deviations of 0.025: where the evidence of the cohort differs more than that."""
        cohort = np.tile([0.0, 0.2], 15)
        scores = np.array([0.6, 0.1, *cohort])
        cosines = np.repeat(scores[:, None].astype(np.float32), 4, axis=1)
        both = ("prominence", "standout")
        wide = dataclasses.replace(ranking_of(scores), cosines=cosines)
        prominence, standout = features(wide, names=both)[0]
        assert prominence < 10 and standout == pytest.approx(0.5 / 0.025, rel=1e-5)
        cosines[2:] = 0.1
        narrow = dataclasses.replace(ranking_of([0.6, *[0.1] * 31]), cosines=cosines)
        prominence, standout = features(narrow, names=both)[0]
        assert standout == prominence > 100

    @pytest.mark.parametrize("scores", [[0.9], [0.9, 0.9]])
    def test_without_a_cohort_the_usual_deviation_is_taken(self, scores):
        (first,) = features(ranking_of(scores), names=("prominence",))
        assert first[0] == pytest.approx(0.84 / 0.025, rel=1e-4)


class TestTail:
    def test_an_exponential_tail_is_found_and_read_off(self):
        rng = np.random.default_rng(0)
        logits = np.where(
            rng.random(50_000) < 0.2, rng.exponential(0.7, 50_000), -rng.random(50_000) * 3
        )
        tail = fit_tail(logits)
        assert tail[1] == pytest.approx(0.7, rel=0.05)
        for rate in (0.02, 0.001):
            threshold = tail[0] + tail[1] * np.log(TAIL_SHARE / rate)
            assert np.mean(logits >= threshold) == pytest.approx(rate, rel=0.25)
            assert tail_share(np.array([threshold]), tail)[0] == pytest.approx(rate)

    def test_below_the_tail_nothing_is_accepted(self):
        assert tail_share(
            np.array([-3.0, 0.99, 1.0, 2.0]), np.array([1.0, 0.5])
        ).tolist() == pytest.approx([1, 1, TAIL_SHARE, TAIL_SHARE * np.exp(-2)])


class TestTable:
    def test_linear_in_the_logarithms_and_constant_beyond(self):
        decision = a_decision()
        ranking = ranking_of([0.9, 0.5, 0.4, 0.3])
        values = features(ranking)[0]

        def logit(length_s, num_tracks, **kind):
            return decision.judge(ranking, length_s=length_s, num_tracks=num_tracks, **kind).logits[
                0
            ]

        def cell(length, size, kind=0):
            return (
                decision.weights[kind, length, size, 1:] @ values
                + decision.weights[kind, length, size, 0]
            )

        assert logit(3.0, 10) == pytest.approx(cell(0, 1))
        assert logit(6.0, 10) == pytest.approx((cell(0, 1) + cell(1, 1)) / 2)
        assert logit(12.0, 100) == pytest.approx((cell(1, 1) + cell(1, 2)) / 2)
        assert logit(1.0, 1) == pytest.approx(cell(0, 0))
        assert logit(99.0, 10**6) == pytest.approx(cell(1, 2))
        assert logit(3.0, 10, has_edge_windows=True) == pytest.approx(cell(0, 1, 1))

    def test_tails_of_a_database(self):
        decision = a_decision()
        measured = np.add(decision.tail(length_s=12.0, num_tracks=10), [1.0, 0.0])
        new = decision.with_tails([12.0], measured[None], num_tracks=10)
        for size in (1, 10, 1000):
            np.testing.assert_allclose(new.tail(length_s=12.0, num_tracks=size), measured)
        moved = new.tail(length_s=3.0, num_tracks=10) - decision.tail(length_s=3.0, num_tracks=10)
        np.testing.assert_allclose(moved, [1.0, 0.0], atol=1e-12)
        np.testing.assert_allclose(
            new.tails[1, :, 1] - decision.tails[1, :, 1], [[1.0, 0.0]] * 2, atol=1e-12
        )

    def test_a_file_and_back(self, tmp_path):
        decision = a_decision()
        (tmp_path / "decision.json").write_text(decision.to_json())
        found = load_decision(tmp_path, "abc")
        assert (found.lengths_s, found.num_tracks, found.weights_hash, found.calibrated) == (
            (3.0, 12.0),
            (1, 10, 1000),
            "abc",
            True,
        )
        np.testing.assert_allclose(found.weights, decision.weights, atol=1e-4)

    def test_no_file_is_a_guess(self, tmp_path):
        assert not load_decision(tmp_path, "abc").calibrated

    def test_a_decision_over_fewer_features_is_read(self, tmp_path):
        """Those of before 2026-12 know no prominence."""
        old = a_decision(features=FEATURES[:3])
        old = dataclasses.replace(old, weights=old.weights[..., :4])
        (tmp_path / "decision.json").write_text(old.to_json())
        found = load_decision(tmp_path, "abc")
        ranking = ranking_of([0.9, 0.5, 0.4, 0.3])
        expected = old.weights[0, 0, 0, 1:] @ features(ranking)[0, :3] + old.weights[0, 0, 0, 0]
        assert found.judge(ranking, length_s=3.0, num_tracks=1).logits[0] == pytest.approx(
            expected, abs=1e-3
        )
        judged = uncalibrated().judge(ranking_of([0.9, 0.3, 0.3, 0.3]), length_s=5.0, num_tracks=4)
        assert confidence(judged.logits)[0] > 0.99 and judged.alarm_rates[0] < 0.001
        judged = uncalibrated().judge(ranking_of([0.5, 0.45, 0.4, 0.4]), length_s=5.0, num_tracks=4)
        assert confidence(judged.logits)[0] < 0.1 and judged.alarm_rates[0] > 0.01

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ('{"margin": 0.1245, "rival_floor": 0.6195, "calibrated": true}', "version 1"),
            ("{", "damaged"),
            ('"text"', "damaged"),
            (json.dumps({"version": 3, "features": ["score", "margin", "tempo"]}), "version 3"),
            (json.dumps({"version": 4, "features": ["score", "margin", "tempo"]}), "damaged"),
        ],
    )
    def test_what_cannot_be_read_says_how_to_make_it(self, tmp_path, content, says):
        (tmp_path / "decision.json").write_text(content)
        with pytest.raises(DecisionError, match=f"{says}.*confp_jax.evaluation.calibrate"):
            load_decision(tmp_path, "abc")

    def test_of_other_weights(self, tmp_path):
        (tmp_path / "decision.json").write_text(a_decision().to_json())
        with pytest.raises(
            DecisionError,
            match="made for the weights abc, these are xyz.*confp_jax.evaluation.calibrate",
        ):
            load_decision(tmp_path, "xyz")


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [1, 2]},
        {"weights": [[1], [2, 3]]},
        {"lengths_s": ["x", 3.0]},
        {"lengths_s": [12.0, 3.0]},
        {"num_tracks": [0, 1, 2]},
        {"tails": None},
        {"identity": None, "weights": "x"},
    ],
)
def test_a_table_that_is_none_is_refused_by_name(change):
    text = json.dumps(json.loads(a_decision().to_json()) | change)
    with pytest.raises(DecisionError, match="here is damaged"):
        Decision.from_json(text, source="here")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("field", ["weights", "tails"])
def test_numbers_that_are_not_finite_are_refused(field, number):
    values = json.loads(a_decision().to_json())
    values[field][0][0][0][0] = 12345.5
    with pytest.raises(DecisionError, match="not finite"):
        Decision.from_json(json.dumps(values).replace("12345.5", number), source="here")
