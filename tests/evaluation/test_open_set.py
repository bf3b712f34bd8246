"""False alarms and misses of a toy whose truth is known, by plain loops; the whole commands run on
a real small set.
"""

import collections
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from rich.console import Console
from unit_vectors import normalised, unit_rows

from configs.calibrate import get_config as calibrate_config
from configs.open_set import get_config as open_set_config
from configs.queries import get_config as query_config
from confp_jax.data.records import DatasetError
from confp_jax.evaluation import open_set
from confp_jax.evaluation.calibrate import (
    Outcomes,
    calibrate,
    fit_cell,
    search_all,
    smoothed_scales,
    tracks_that_share,
)
from confp_jax.evaluation.config import CalibrationConfig, OpenSetConfig
from confp_jax.evaluation.measure.indexed_dataset import (
    EvaluationReference,
    Excerpt,
    embed_reference,
)
from confp_jax.evaluation.measure.trials import (
    Trials,
    alarm_pairs,
    curve,
    first_match,
    run_trials,
)
from confp_jax.evaluation.open_set import summary
from confp_jax.fingerprint.query import Query
from confp_jax.matching.decision import FEATURES, Decision, confidence, load_decision, tail_share
from confp_jax.matching.searchable import make_reference
from confp_jax.typed_config import ConfigError, from_mapping

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def searched() -> EvaluationReference:
    rng = np.random.default_rng(0)
    parts = [(str(10 + 2 * i), unit_rows(rng, 12)) for i in range(40)]
    return EvaluationReference(
        make_reference(parts, hop_s=0.3, segment_s=3.0, exact=True),
        np.arange(10, 90, 2),
        np.zeros(40),
    )


@pytest.fixture(scope="module")
def excerpts(searched) -> list[Excerpt]:
    """One window each, a third of them clean."""
    rng = np.random.default_rng(1)
    out = []
    for i in range(300):
        own = int(rng.integers(40))
        row = int(rng.integers(12))
        vector = (
            searched.reference.rows_of(own)[row]
            + (0.05 if i % 3 == 0 else 0.9) * unit_rows(rng, 1)[0]
        )
        query = Query(normalised(vector)[None], 0.3, 3.0)
        out.append(Excerpt("clean" if i % 3 == 0 else "noisy", 10 + 2 * own, 0.3 * row, 1.0, query))
    return out


@pytest.fixture(scope="module")
def decision(searched, excerpts) -> Decision:
    outcomes = search_all(
        excerpts, searched, 40, np.random.default_rng(2), collections.defaultdict(set), FEATURES
    )
    weights, tail = fit_cell(outcomes)
    return Decision(
        (3.0,),
        (40,),
        np.tile(weights, (2, 1, 1, 1)),
        np.tile(tail, (2, 1, 1, 1)),
        features=FEATURES,
    )


def test_a_recording_that_is_there_twice_is_no_false_alarm(searched, excerpts):
    """Track 3 once more, with noise: excerpts of either are rightly answered with the other."""
    rng = np.random.default_rng(3)
    parts = [
        (track.name, searched.reference.rows_of(i))
        for i, track in enumerate(searched.reference.snapshot.tracks)
    ]
    copy = parts[3][1] + 0.3 * unit_rows(rng, 12)
    parts.append(("90", normalised(copy)))
    twice = EvaluationReference(
        make_reference(parts, hop_s=0.3, segment_s=3.0, exact=True),
        np.arange(10, 92, 2),
        np.zeros(41),
    )
    sharing = {track: tracks_that_share(twice.reference, track) for track in range(41)}
    assert {track: others for track, others in sharing.items() if others} == {3: {40}, 40: {3}}
    own = [
        excerpt for excerpt in excerpts if excerpt.track_id == 16 and excerpt.condition == "clean"
    ]
    outcomes = search_all(own, twice, 41, rng, sharing, FEATURES)
    assert len(own) and outcomes.right.all() and not len(outcomes.unknown)


def test_measured_against_plain_loops(searched, excerpts, decision):
    """Single windows: a track's score is its best row's cosine, or a little more between two
    rows.
    """
    trials = run_trials(excerpts, searched, decision, QUIET)
    for excerpt, right, error_s in zip(excerpts, trials.right, trials.offset_error_s, strict=True):
        query = excerpt.query.vectors[0]
        cosines = [float((searched.reference.rows_of(t) @ query).max()) for t in range(40)]
        if sorted(cosines)[-1] - sorted(cosines)[-2] > 0.15:
            assert right == (np.argmax(cosines) == (excerpt.track_id - 10) // 2)
        assert np.isnan(error_s) == (not right)
    assert trials.right[::3].all() and np.nanmedian(trials.offset_error_s[::3]) < 0.05
    assert (trials.known_logit >= trials.unknown_logit - 1.0).all()
    assert (trials.known_rate[::3] < 1e-3).mean() > 0.9


def test_the_offset_of_a_stretched_excerpt_is_right_at_its_middle(searched, decision):
    """One window tells nothing of the tempo: found is where a window of the original's tempo with
    that middle begins.
    """
    window = Query(searched.reference.rows_of(7)[4][None], 0.3, 3.0)
    stretched = [
        Excerpt("stretch", 24, 0.3 * 4 + 1.5 * (1 - tempo), tempo, window)
        for tempo in (0.7, 1.0, 1.3)
    ]
    trials = run_trials(stretched, searched, decision, QUIET)
    assert trials.right.all() and (trials.offset_error_s < 0.05).all()
    middle_of_30_s = dataclasses.replace(
        searched, starts_s=np.full(40, 100.0)
    )  # the index holds a long track's middle
    later = [dataclasses.replace(one, start_s=one.start_s + 100) for one in stretched]
    np.testing.assert_allclose(
        run_trials(later, middle_of_30_s, decision, QUIET).offset_error_s,
        trials.offset_error_s,
        atol=1e-6,
    )


def test_masking_is_removing(searched, excerpts, decision):
    """An unknown query is answered as if its track had never been added."""
    trials = run_trials(excerpts[:10], searched, decision, QUIET)
    for excerpt, logit in zip(excerpts[:10], trials.unknown_logit, strict=True):
        kept = [t for t in range(40) if 10 + 2 * t != excerpt.track_id]
        parts = [(str(t), searched.reference.rows_of(t)) for t in kept]
        reference = make_reference(parts, hop_s=0.3, segment_s=3.0, exact=True)
        _, _, (_, expected) = first_match(excerpt.query, reference, decision)
        assert logit == pytest.approx(
            expected, abs=0.35
        )  # the hits of the masked track leave a little less room


def trials_of(right, known, unknown, tracks) -> Trials:
    known = np.array(known, float)
    unknown = np.array(unknown, float)
    tail = np.array([0.0, 1.0])
    error_s = np.where(right, 0.1, np.nan)
    others = np.array(tracks) + 1
    rates = tail_share(known, tail), tail_share(unknown, tail)
    own = np.array(tracks)
    return Trials(
        own,
        np.array(right),
        rates[0],
        known,
        rates[1],
        unknown,
        others,
        error_s,
        np.where(right, own, others),
        error_s,
    )


def test_shares_intervals_and_bounds():
    rng = np.random.default_rng(0)
    right = rng.random(2_000) < 0.9
    tracks = np.repeat(np.arange(50), 40)
    trials = trials_of(right, rng.normal(6, 2, 2_000), rng.normal(-2, 2, 2_000), tracks)
    found = summary(trials, OpenSetConfig(false_alarm_rate=0.001))
    threshold = np.log(0.05 / 0.001)
    assert found["accepted_right"] == pytest.approx(
        np.mean(right & (trials.known_logit >= threshold))
    )
    assert found["false_alarms"] == pytest.approx(np.mean(trials.unknown_logit >= threshold))
    low, high = found["false_alarms_interval"]
    assert low < found["false_alarms"] < high <= found["false_alarms_upper_95"]
    assert (found["tracks"], found["excerpts"]) == (50, 2_000)
    assert found["offset_median_ms"] == pytest.approx(100)
    expected = np.mean(
        np.r_[(confidence(trials.known_logit) - right) ** 2, confidence(trials.unknown_logit) ** 2]
    )
    assert found["brier"] == pytest.approx(expected)


def test_excerpts_of_one_track_are_no_independent_trials():
    """All alarms in one track of fifty: the interval is far wider than that of as many scattered
    ones.
    """
    unknown = np.full(2_000, -5.0)
    unknown[:40] = 9.0
    one = summary(
        trials_of([True] * 2_000, [9.0] * 2_000, unknown, np.repeat(np.arange(50), 40)),
        OpenSetConfig(),
    )
    scattered = summary(
        trials_of([True] * 2_000, [9.0] * 2_000, unknown, np.arange(2_000) % 50), OpenSetConfig()
    )
    assert one["false_alarms"] == scattered["false_alarms"] == 0.02
    assert one["false_alarms_upper_95"] > 1.5 * scattered["false_alarms_upper_95"]


def test_who_is_taken_for_whom(searched):
    unknown = np.full(40, -5.0)
    unknown[[3, 3 + 20, 7]] = 9.0
    trials = trials_of([True] * 40, [9.0] * 40, unknown, np.arange(40) % 20)
    assert alarm_pairs(trials, searched, 0.001) == [(16, 18, 2), (24, 26, 1)]


def test_without_an_alarm_the_bound_is_not_zero():
    found = summary(
        trials_of([True] * 3_000, [9.0] * 3_000, [-5.0] * 3_000, np.arange(3_000) % 88),
        OpenSetConfig(),
    )
    assert found["false_alarms"] == 0 and found["false_alarms_upper_95"] == pytest.approx(0.001)


def test_the_curve_falls():
    rng = np.random.default_rng(0)
    points = np.array(
        curve(
            trials_of(
                [True] * 500, rng.normal(4, 2, 500), rng.normal(-2, 2, 500), np.arange(500) % 20
            )
        )
    )
    assert (np.diff(points[:, 0]) >= 0).all() and (np.diff(points[:, 1]) <= 0).all()


def test_a_cells_regression_tells_known_from_unknown():
    rng = np.random.default_rng(0)
    known = rng.normal([0.9, 0.3, 0], 0.05, (400, 3))
    unknown = rng.normal([0.6, 0.05, 0], 0.05, (400, 3))
    weights, tail = fit_cell(Outcomes(known, np.ones(400, bool), unknown))
    logits = np.r_[known, unknown] @ weights[1:] + weights[0]
    assert (logits[:400] > 0).mean() > 0.97 and (logits[400:] < 0).mean() > 0.97
    assert np.mean(logits[400:] >= tail[0]) == pytest.approx(0.05, abs=0.01)


@pytest.fixture(scope="module")
def queries(music_dir, tmp_path_factory) -> pathlib.Path:
    values = query_config("all").to_dict() | {
        "music_dir": str(music_dir),
        "noise_dir": str(EXAMPLES / "noise"),
        "ir_dir": str(EXAMPLES / "ir"),
        "out": str(tmp_path_factory.mktemp("queries") / "set"),
        "excerpts_per_track": 2,
        "segment_s": 6.0,
        "num_workers": 1,
        "conditions": ("clean", "background_5db", "stretch_115"),
    }
    from data_prep.config import QueryConfig
    from data_prep.make_queries import make_queries

    make_queries(from_mapping(QueryConfig, values), QUIET)
    return pathlib.Path(values["out"])


def test_calibrate_then_measure_on_real_clips(checkpoint, prepared, queries, tmp_path):
    """The two commands one after the other, with an untrained model: the file is found beside the
    weights and used.
    """
    from confp_jax.fingerprint.embedder import load_encoder

    values = calibrate_config().to_dict() | {
        "model": str(checkpoint),
        "index": str(prepared),
        "queries": str(queries),
    }
    values |= {
        "lengths_s": (3.0, 5.9),
        "num_tracks": (1, 4),
        "most_excerpts": 24,
        "cache": str(tmp_path / "cache"),
    }
    made = calibrate(from_mapping(CalibrationConfig, values), QUIET)
    assert (
        made.lengths_s == (3.0, 5.9)
        and made.num_tracks == (1, 4, 8)
        and np.isfinite(made.weights).all()
    )
    with pytest.raises(ConfigError, match=r"excerpts of 6.0 s.*segment_s=10.0"):
        calibrate(from_mapping(CalibrationConfig, values | {"lengths_s": (9.9,)}), QUIET)
    of_three = from_mapping(
        CalibrationConfig, values | {"lengths_s": (3.0,), "most_tracks": 3, "most_excerpts": 12}
    )
    assert calibrate(of_three, QUIET).num_tracks == (1, 3)  # its excerpts are of these three
    (checkpoint / "decision.json").write_text(made.to_json())
    try:
        encoder = load_encoder(checkpoint)
        assert load_decision(encoder.folder, encoder.weights_hash).calibrated
        values = open_set_config().to_dict() | {
            "model": str(checkpoint),
            "index": str(prepared),
            "queries": str(queries),
        }
        config = from_mapping(
            OpenSetConfig,
            values | {"conditions": ("clean", "stretch_115"), "lengths_s": (3.0, 0.0)},
        )
        found = open_set.run(
            dataclasses.replace(config, cache=str(tmp_path / "cache")), tmp_path / "out"
        )
    finally:
        (checkpoint / "decision.json").unlink()
    assert [row["condition"] for row in found["results"]] == ["clean", "stretch_115", "all"] * 2
    assert found["results"][2]["excerpts"] == 32
    assert found["results"][0]["top1"] >= 0.7
    written = json.loads((tmp_path / "out" / "open_set.json").read_text())
    assert len(written["curves"]) == 2
    assert (tmp_path / "out" / "open_set.png").stat().st_size > 10_000


def test_kept_fingerprints_are_those_of_the_model(checkpoint, prepared, tmp_path):
    from confp_jax.fingerprint.embedder import load_encoder

    encoder = load_encoder(checkpoint)
    first = embed_reference(encoder, str(prepared), ("test",), QUIET, cache=str(tmp_path))
    again = embed_reference(encoder, str(prepared), ("test",), QUIET, cache=str(tmp_path))
    np.testing.assert_array_equal(
        first.reference.snapshot.vectors, again.reference.snapshot.vectors
    )
    assert len(list(tmp_path.rglob("*.npy"))) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"lengths_s": (3.0, 1.0)}, {"lengths_s": (0.5, 3.0)}, {"lengths_s": ()}, {"num_tracks": (0,)}],
)
def test_a_calibration_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=.*must"):
        from_mapping(CalibrationConfig, calibrate_config().to_dict() | wrong)


def test_query_sets_that_cannot_be(queries, tmp_path):
    with pytest.raises(DatasetError, match="queries is empty"):
        open_set.run(OpenSetConfig(), tmp_path)
    with pytest.raises(
        DatasetError, match="two query sets have one name"
    ):  # one's curves would stand for both
        open_set.run(OpenSetConfig(queries=f"{queries},{queries}"), tmp_path)
    with pytest.raises(DatasetError, match="no query set has the condition 'reverb'"):
        open_set.run(OpenSetConfig(queries=str(queries.parent), conditions=("reverb",)), tmp_path)


def test_one_length_s_scale_leans_on_its_neighbours():
    scales = np.array([1.0, 1.0, 16.0, 1.0, 1.0])[None, :, None]
    np.testing.assert_allclose(smoothed_scales(scales)[0, :, 0], [1, 2, 4, 2, 1])
    same = np.array([2.0, 3.0])[None, None]
    np.testing.assert_allclose(smoothed_scales(np.repeat(same, 4, axis=1)), np.repeat(same, 4, 1))
