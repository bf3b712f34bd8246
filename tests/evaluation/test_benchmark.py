"""The whole benchmark on real clips; an untrained encoder still finds an undistorted excerpt that starts on the grid."""

import csv
import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
from rich.console import Console

from configs.benchmark import get_config as benchmark_config
from configs.queries import get_config as query_config
from confp_jax.config import ConfigError, from_mapping
from confp_jax.data.clips import ClipSource
from confp_jax.data.records import Clip, DatasetError
from confp_jax.evaluation import benchmark
from confp_jax.evaluation.benchmark import BenchmarkConfig, run
from confp_jax.evaluation.compression import principal_axes
from confp_jax.evaluation.export import read_pexeso
from confp_jax.evaluation.failures import Sounds
from confp_jax.evaluation.open_set import Trials
from confp_jax.evaluation.outcomes import Outcomes, Searched
from confp_jax.evaluation.query_sets import dataset_id, find_query_sets
from confp_jax.evaluation.reference import EvaluationReference, one_of_each
from confp_jax.evaluation.rows import calibration, compare, condition_row
from confp_jax.evaluation.scale import fill_up, scale_rows
from confp_jax.evaluation.shift_curve import make_curve
from confp_jax.retrieval.reference import make_reference
from data_prep.config import QueryConfig
from data_prep.make_queries import CONDITIONS, make_queries, query_sets

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
NAMES = ("clean", "shift_40", "stretch_85", "background_5db")


def make_set(music_dir, out, **overrides):
    values = query_config("all").to_dict() | {
        "music_dir": str(music_dir),
        "noise_dir": str(EXAMPLES / "noise"),
        "ir_dir": str(EXAMPLES / "ir"),
        "out": str(out),
        "excerpts_per_track": 2,
        "num_workers": 1,
        "conditions": NAMES,
    }
    for config in query_sets(from_mapping(QueryConfig, values | overrides)):
        make_queries(config, Console(quiet=True))
    return pathlib.Path(out)


@pytest.fixture(scope="module")
def queries(music_dir, tmp_path_factory):
    """Two excerpts of each of eight tracks."""
    return make_set(music_dir, tmp_path_factory.mktemp("queries") / "set")


def config_of(model, prepared, queries, **overrides):
    values = benchmark_config("quick").to_dict() | {"checkpoint": str(model), "index": str(prepared), "queries": str(queries)}
    values |= {"index_splits": ("training", "validation", "test"), "conditions": (), "most_queries": 0, "systems": ()}
    values |= {"num_failures": 2, "shift_tracks": 1, "num_bootstraps": 200, "compression": True, "system_conditions": ()}
    return from_mapping(BenchmarkConfig, values | overrides)


@pytest.fixture(scope="module")
def done(checkpoint, prepared, queries, tmp_path_factory):
    """One run of all four conditions, and its folder."""
    out = tmp_path_factory.mktemp("results")
    return run(config_of(checkpoint, prepared, queries), out), out


def test_the_rows_and_every_file_are_written(done):
    results, out = done
    rows = {row.condition: row for row in results.rows[0]}
    assert list(rows) == list(NAMES)
    assert rows["clean"].top1["track"].share >= 0.9 and rows["clean"].num_queries == 16 and rows["clean"].num_tracks == 8
    for row in rows.values():
        exact, near, track = (row.top1[kind].share for kind in ("exact", "near", "track"))
        assert exact <= near <= track <= row.top5["track"]
        assert row.index_top1 == {kind: share.share for kind, share in row.top1.items()}  # few rows: the index is exact as well
        low, high = row.matched.bootstrap
        assert low <= row.matched.share <= high
    written = json.loads((out / "results.json").read_text())
    assert [row["condition"] for row in written["rows"][0]] == list(NAMES)
    assert (out / "hit_rates.png").stat().st_size > 10_000
    assert "| clean |" in (out / "results.md").read_text()


def test_a_row_a_query_agrees_with_the_rows(done, queries):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    results, out = done
    with open(out / "queries.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * 16
    table = pyarrow.read_table(out / "queries.parquet").to_pylist()
    assert [row["condition"] for row in table] == [line["condition"] for line in lines]
    for row in results.rows[0]:
        own = [line for line in table if line["condition"] == row.condition]
        assert np.mean([line["top1_exact"] for line in own]) == pytest.approx(row.top1["exact"].share)
        assert np.mean([line["accepted_right_0.01"] for line in own]) == pytest.approx(row.accepted["0.01"].share)
    truth = {(row, clip.track_id): clip for row, clip in enumerate(ClipSource(queries, "stretch_85"))}
    for line in (line for line in table if line["condition"] == "stretch_85"):
        clip = truth[line["row"], line["track_id"]]
        assert line["start_s"] == pytest.approx(clip.start_s + 1.5 * (1 - 0.85), abs=1e-3)


def test_the_report_is_one_file_with_all_in_it(done):
    page = (done[1] / "report.html").read_text()
    assert page.count("<html") == 1 and "Table 2" in page and "98.4 (100.0)" in page  # the paper's shift of 40 %
    assert page.count("data:image/png;base64,") >= 6
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page) and "<script" not in page and "url(" not in page
    assert "Environment and command" in page and dataclasses.asdict(done[0])["index_id"] in page


def test_smaller_fingerprints_lose_hits_and_the_whole_loses_none(done):
    results, _ = done
    rows = {(row.dim, row.precision): row for row in results.compression}
    clean = next(row for row in results.rows[0] if row.condition == "clean")
    whole = rows[max(dim for dim, _ in rows), "float32"]
    assert whole.track["clean"] == clean.top1["track"].share and whole.exact["clean"] == clean.top1["exact"].share
    for (dim, precision), row in rows.items():
        assert (
            row.bytes_per_hour
            == 12_000 * {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 2, "binary": dim // 8}[precision]
        )
    assert rows[32, "binary"].track["background_5db"] < whole.track["background_5db"]


def test_of_copies_the_held_out_one_is_searched(make_dataset):
    """The other may run at another speed: a query would not lie in it where the truth says."""
    clips = {split: [Clip(i, r, 1.0, 0.0, np.full(9, 10 * i + r, "<i2")) for i in ids for r in (0, 1)]
             for split, ids in {"training": (3, 4, 5), "test": (6, 7)}.items()}  # fmt: skip
    folder = make_dataset(clips)
    (folder / "manifest.json").write_text(json.dumps({"shards": []}))
    before = dataset_id(folder, ("training", "test"))
    (folder / "duplicates.json").write_text(json.dumps({"groups": [[3, 7], [4, 5]]}))
    found = one_of_each(folder, ("training", "test"))
    assert [(one.group, one.source.row(one.record).track_id, one.source.row(one.record).replica) for one in found] == [
        (3, 7, 0), (4, 4, 0), (6, 6, 0),
    ]  # fmt: skip
    assert dataset_id(folder, ("training", "test")) != before
    assert Sounds.of(folder, ("training", "test")).part(3, 0.0, 1.0)[0] * 32768 == 70


def test_larger_indexes_are_in_the_results(checkpoint, prepared, music_dir, tmp_path):
    asked = make_set(music_dir, tmp_path / "set", split="training", conditions=("clean", "background_5db"))
    out = tmp_path / "out"
    results = run(config_of(checkpoint, prepared, asked, distractors=(100, 3000), compression=False, shift_tracks=0), out)
    clean = next(row for row in results.rows[0] if row.condition == "clean")
    exact = [row for row in results.scale if row.search == "exact"]
    assert [row.num_rows for row in exact] == sorted({row.num_rows for row in exact}) and exact[-1].num_rows == 3000
    real = next(row for row in exact[::-1] if not row.num_synthetic)
    assert real.num_rows == 3000 - exact[-1].num_synthetic and exact[0].num_rows < real.num_rows
    assert real.track["clean"] == clean.top1["track"].share and real.exact["clean"] == clean.top1["exact"].share
    assert all(row.query_ms > 0 for row in results.scale)
    assert len(json.loads((out / "scale.json").read_text())) == len(results.scale)
    assert "3,000 (2,817 synthetic)" in (out / "report.html").read_text()


def test_distractors_take_hits_away():
    """Queries of five of ten tracks, so noisy that a random vector of 20,000 is sometimes nearer than the true one."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = make_reference([(str(i), rows[30 * i : 30 * i + 30].astype(np.float32)) for i in range(10)], hop_s=0.3, segment_s=3.0)
    asked = rng.permutation(150)[:100]
    queries = rows[asked] + rng.normal(scale=0.2, size=(100, 16))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    one = dataclasses.replace(
        outcomes_of([True] * 100, asked // 30), queries=queries.astype(np.float32), segment_s=0.3 * (asked % 30)
    )
    searched = Searched(None, EvaluationReference(made, np.arange(10)), {}, None)
    found = [row for row in scale_rows(searched, {"clean": one}, (200, 1000, 19_000), seed=0) if row.search == "exact"]
    assert [(row.num_rows, row.num_synthetic) for row in found] == [(150, 0), (300, 0), (1000, 700), (19_000, 18_700)]
    shares = [row.track["clean"] for row in found]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.9 > shares[-1] > 0.1
    assert [row.exact["clean"] for row in found] == pytest.approx(shares, abs=0.05)


def test_distractors_lie_near_real_rows_of_other_tracks():
    rng = np.random.default_rng(0)
    rows = np.zeros((6000, 64), np.float32)
    rows[:200] = rng.normal(size=(200, 64))
    rows[:200] /= np.linalg.norm(rows[:200], axis=1, keepdims=True)
    real, again = rows[:200].copy(), rows.copy()
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


def test_a_second_report_measures_nothing_and_is_the_same(done, checkpoint, prepared, queries, monkeypatch):
    results, out = done
    before = (out / "results.json").read_bytes(), (out / "queries.csv").read_bytes()

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(benchmark, "embed_reference", never)
    monkeypatch.setattr(benchmark, "measure_condition", never)
    assert run(config_of(checkpoint, prepared, queries), out).rows == results.rows
    assert before == ((out / "results.json").read_bytes(), (out / "queries.csv").read_bytes())
    with pytest.raises(AssertionError, match="measured again"):  # other queries are other content
        run(config_of(checkpoint, prepared, queries, most_queries=4), out)


def test_a_fresh_run_gives_the_same_to_the_last_digit(done, checkpoint, prepared, queries, tmp_path):
    """And an interrupted one goes on with the conditions that are left."""
    _, out = done
    run(config_of(checkpoint, prepared, queries, conditions=("background_5db",), shift_tracks=0), tmp_path)
    kept = list((tmp_path / "cache" / "outcomes").iterdir())
    run(config_of(checkpoint, prepared, queries), tmp_path)
    assert kept[0] in (tmp_path / "cache" / "outcomes").iterdir()
    assert (tmp_path / "results.json").read_bytes() == (out / "results.json").read_bytes()
    assert (tmp_path / "queries.csv").read_bytes() == (out / "queries.csv").read_bytes()


def test_systems_stand_beside_each_other_and_a_bad_one_stops_nobody(checkpoint, prepared, queries, tmp_path):
    config = config_of(checkpoint, prepared, queries, conditions=("clean",), systems=("ours",), system_queries=6, shift_tracks=0)
    config = dataclasses.replace(
        config, command=dataclasses.replace(config.command, name="olaf", index="no-such-olaf {files}", query="olaf {query}")
    )
    results = run(config, tmp_path)
    ours, olaf = results.systems
    assert ours.track.share >= 0.8 and ours.num_queries == 6 and ours.index_num_bytes > 1000 and ours.query_median_ms > 0
    assert olaf.track is None and "no-such-olaf is not installed" in olaf.trouble
    assert "no-such-olaf is not installed" in (tmp_path / "report.html").read_text()


def test_runs_of_several_seeds_and_lengths(checkpoint, prepared, music_dir, tmp_path):
    folder = make_set(music_dir, tmp_path / "sets", conditions=("clean",), seeds=(0, 1), lengths_s=(2.0, 4.0))
    found = find_query_sets(str(folder))
    assert [(one.length_s, one.seed) for one in found] == [(2.0, 0), (2.0, 1), (4.0, 0), (4.0, 1)]
    results = run(config_of(checkpoint, prepared, folder, shift_tracks=0), tmp_path / "out")
    assert [(row.length_s, row.num_runs, row.num_queries) for row in results.rows[0]] == [(2.0, 2, 16), (4.0, 2, 16)]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "by length of query" in page and "Right track first by sequence matching" in page


def test_what_others_matched_can_be_read(done, checkpoint, prepared, queries, tmp_path):
    out = done[1]
    truth = read_pexeso(out / "annotations.csv")
    assert len(truth) == 64 and all(len(found) == 1 for found in truth.values())
    with open(out / "queries.csv", newline="") as file:
        line = next(csv.DictReader(file))
    (found,) = truth[f"{line['query_set']}-{line['condition']}-{line['row']}"]
    assert found.track == line["track_id"] and abs(found.offset_s - float(line["start_s"])) < 1
    config = config_of(checkpoint, prepared, queries, matches=f"us={out / 'annotations.csv'}", shift_tracks=0)
    rows = run(dataclasses.replace(config, cache=str(out / "cache")), tmp_path / "out").systems
    assert [row.condition for row in rows] == list(NAMES) and all(row.track.share == 1 for row in rows)
    (tmp_path / "other.csv").write_text("reference_id,query_id\n7,of-another-set\n")
    with pytest.raises(DatasetError, match="none of its 1 query_ids is a query of"):
        run(dataclasses.replace(config, cache=str(out / "cache"), matches=f"us={tmp_path / 'other.csv'}"), tmp_path / "out")
    (tmp_path / "bad.csv").write_text("reference_id,query_id,reference_begin,query_begin\n7,q,soon,0\n")
    with pytest.raises(DatasetError, match=r"bad.csv, line 2"):
        read_pexeso(tmp_path / "bad.csv")


def outcomes_of(right, tracks, sure=None):
    """Made-up outcomes: the right track first where `right`."""
    right, tracks, zeros = np.array(right), np.array(tracks), np.zeros(len(right))
    found = np.where(right, tracks, tracks + 1)
    logit = np.where(right, 4.0, -4.0) if sure is None else sure
    trials = Trials(tracks, right, zeros, logit, zeros + 1, zeros - 9, tracks + 1, zeros, found, zeros)
    places = found[:, None], zeros[:, None]
    queries = np.zeros((len(right), 4), np.float32)
    return Outcomes(np.arange(len(right)), tracks, zeros, zeros + 1, zeros, queries, *places, zeros[:, None], *places, trials)


def test_several_runs_are_a_mean_with_the_interval_of_one():
    tracks = np.repeat(np.arange(20), 5)
    runs = [outcomes_of(np.arange(100) < 80, tracks), outcomes_of(np.arange(100) < 60, tracks)]
    row = condition_row("clean", 3.0, runs, num_bootstraps=500, seed=0)
    assert row.top1["track"].share == pytest.approx(0.7) and row.num_runs == 2 and row.num_queries == 100
    assert row.top1["track"].wilson == pytest.approx((0.604, 0.781), abs=0.001)  # of 70 in 100: Wilson's formula by hand
    low, high = row.top1["track"].bootstrap
    assert low < 0.55 and high > 0.83  # whole tracks fail: wider than independent trials


def test_two_models_are_compared_in_pairs():
    first, second = outcomes_of([True] * 12 + [False] * 3, np.arange(15)), outcomes_of([True] * 2 + [False] * 13, np.arange(15))
    told = compare("clean", 3.0, first, second)
    assert (told.only_first, told.only_second) == (10, 0) and told.p_value == pytest.approx(2 / 2**10)


def test_calibration_error_of_a_known_case():
    """80 % sure and right in 60 %; the unknown are as sure of nothing."""
    sure = np.full(50, np.log(0.8 / 0.2))
    bins, error = calibration([outcomes_of(np.arange(50) < 30, np.arange(50), sure)])
    assert [num for _, _, num in bins] == [50, 50]
    assert bins[1][:2] == (pytest.approx(0.8), pytest.approx(0.6)) and error == pytest.approx(0.1, abs=0.001)


def test_the_crossing_lies_where_the_means_are_equal():
    shifts = [0.0, 0.1, 0.2, 0.3]
    own, following = np.array([[1.0, 0.9, 0.5, 0.1]] * 3), np.array([[0.1, 0.5, 0.9, 1.0]] * 3)
    assert make_curve(shifts, own, following).crossing_s == pytest.approx(0.15)
    assert make_curve(shifts, own, own - 1).crossing_s is None


def test_query_records_tell_the_truth(queries, music_dir):
    """A clean excerpt is the decoded file's samples at its start; a shifted start lies 120 ms off the grid."""
    from confp_jax.audio.decode import decode
    from data_prep.folder import read_tracks

    paths = {track.track_id: track.path for track in read_tracks(music_dir)}
    for clip in ClipSource(queries, "clean"):
        whole = decode(paths[clip.track_id], sample_rate_hz=16_000).samples
        begin = round(clip.start_s * 16_000)
        np.testing.assert_allclose(clip.samples / 32767, whole[begin : begin + 48_000], atol=2 / 32768)
    for clip in ClipSource(queries, "shift_40"):
        off_grid = clip.start_s / 0.3 - round(clip.start_s / 0.3)
        assert abs(abs(off_grid) - 0.4) < 1e-3
    for clip in ClipSource(queries, "stretch_85"):
        assert clip.rate == pytest.approx(0.85)
        assert len(clip.samples) == 48_000
    for clip in ClipSource(queries, "background_5db"):
        (draw,) = json.loads(clip.draws)
        assert draw["transform"] == "AddBackgroundNoise" and draw["snr_db"] == pytest.approx(5)
        assert draw["noise_file_path"].startswith("test/")  # never the training part


def test_every_condition_has_a_distinct_name_and_does_something():
    distortions = [condition for name, condition in CONDITIONS.items() if name != "clean"]
    assert len({repr(c) for c in distortions}) == len(distortions)
    assert CONDITIONS["clean"] not in distortions


def test_bad_input_is_told_of(checkpoint, prepared, queries, make_dataset, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match="no prepared dataset here"):
        run(config_of(checkpoint, prepared, tmp_path / "nothing"), out)
    with pytest.raises(DatasetError, match="queries is empty"):
        run(config_of(checkpoint, prepared, ""), out)
    with pytest.raises(DatasetError, match="no query set has the condition 'backgroud_5db'"):
        run(config_of(checkpoint, prepared, queries, conditions=("backgroud_5db",)), out)
    with pytest.raises(DatasetError, match=r"queries' track \d+ is not in the index"):
        run(config_of(checkpoint, prepared, queries, index_splits=("test",), shift_tracks=0), out)
    with pytest.raises(ConfigError, match="unknown system 'audfprin'; did you mean 'audfprint'"):
        run(config_of(checkpoint, prepared, queries, systems=("audfprin",)), out)
    (tmp_path / "music.db").mkdir()
    (tmp_path / "music.db" / "catalogue.sqlite").touch()
    with pytest.raises(DatasetError, match="is a database of fingerprints"):
        dataset_id(tmp_path / "music.db", ("test",))
    with pytest.raises(DatasetError, match="no query set.*segment_s"):
        find_query_sets(str(make_dataset({"clean": [Clip(1, 0, 1.0, 0.0, np.ones(48_000, np.int16))]}, num_replicas=0)))


def test_queries_at_another_rate_are_refused(checkpoint, prepared, music_dir, tmp_path):
    folder = make_set(music_dir, tmp_path / "set", conditions=("clean",), sample_rate_hz=8_000, excerpts_per_track=1)
    with pytest.raises(DatasetError, match="8000 Hz, the model hears 16000 Hz"):
        run(config_of(checkpoint, prepared, folder, shift_tracks=0), tmp_path / "out")
