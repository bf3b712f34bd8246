"""Oracle: plain loops over tracks."""

import numpy as np
import pytest

from confp_jax.evaluation.open_set import calibrate, open_set, track_scores
from confp_jax.retrieval.embed import Decision


@pytest.fixture
def searched():
    """400 queries against 40 tracks of 1 to 5 rows: a third of the queries is close to its own track."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, size=40)
    vectors = rng.standard_normal((lengths.sum(), 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first_rows = np.cumsum(np.r_[0, lengths[:-1]])
    truth = rng.integers(0, 40, size=400)
    noise = rng.standard_normal((400, 16)).astype(np.float32) * np.where(rng.random((400, 1)) < 0.33, 0.1, 0.6)
    queries = (vectors[first_rows[truth]] + noise).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries, vectors, first_rows, lengths, truth


def test_track_scores_are_each_tracks_best_row(searched):
    queries, vectors, first_rows, lengths, _ = searched
    found = track_scores(queries, vectors, first_rows)
    for q in (0, 127, 128, 399):
        for t, (first, length) in enumerate(zip(first_rows, lengths, strict=True)):
            assert found[q, t] == pytest.approx(max(float(queries[q] @ v) for v in vectors[first : first + length]), abs=1e-5)


def test_open_set_masks_only_the_querys_own_track(searched):
    queries, vectors, first_rows, _, truth = searched
    scores = track_scores(queries, vectors, first_rows)
    decision = Decision(margin=0.2, rival_floor=0.1)
    found = open_set(scores, truth, decision)
    for q in range(0, 400, 37):
        known = sorted(scores[q], reverse=True)
        unknown = sorted((s for t, s in enumerate(scores[q]) if t != truth[q]), reverse=True)
        assert found.known[q] == pytest.approx(known[0] - max(np.mean(known[1:11]), 0.1), abs=1e-5)
        assert found.unknown[q] == pytest.approx(unknown[0] - max(np.mean(unknown[1:11]), 0.1), abs=1e-5)
        assert found.right[q] == (int(np.argmax(scores[q])) == truth[q])
    share = np.mean([right and margin >= 0.2 for right, margin in zip(found.right, found.known, strict=True)])
    assert found.accepted_right(0.2) == pytest.approx(share)
    assert found.false_alarms(0.2) == pytest.approx(np.mean(found.unknown >= 0.2))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_calibrated_threshold_keeps_the_false_alarm_rate(searched, rate):
    queries, vectors, first_rows, _, truth = searched
    scores = track_scores(queries, vectors, first_rows)
    decision = calibrate(scores, truth, false_alarm_rate=rate)
    assert decision.calibrated
    alarms = open_set(scores, truth, decision).false_alarms(decision.margin)
    assert rate - 2 / 400 <= alarms <= rate


def test_the_floor_keeps_a_thin_field_from_raising_the_margin(searched):
    """The same strangers searched among 5 of the tracks are no more often accepted than among all 40."""
    queries, vectors, first_rows, _, truth = searched
    scores = track_scores(queries, vectors, first_rows)
    decision = calibrate(scores, truth, false_alarm_rate=0.05)
    few = [t for t in range(40) if t % 8 == 0]
    strangers = ~np.isin(truth, few)
    small = open_set(np.c_[scores[strangers][:, few], np.full(strangers.sum(), -1.0)], np.full(strangers.sum(), 5), decision)
    assert small.false_alarms(decision.margin) <= 0.05
