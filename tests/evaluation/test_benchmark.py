"""The whole benchmark on real clips; an untrained encoder still finds an undistorted excerpt that
starts on the grid.
"""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from small_benchmarks import NAMES, config_of, make_set

from confp_jax.data.clips import ClipSource
from confp_jax.data.records import DatasetError
from confp_jax.evaluation import benchmark
from confp_jax.evaluation.benchmark import run
from confp_jax.evaluation.report.export import read_pexeso

pytestmark = pytest.mark.usefixtures("plain_pictures")  # but those of `done`, which comes first


@pytest.fixture(scope="module")
def done(checkpoint, prepared, queries, tmp_path_factory):
    """One run of all four conditions, and its folder."""
    out = tmp_path_factory.mktemp("results")
    return run(config_of(checkpoint, prepared, queries), out), out


@pytest.fixture(scope="module")
def cache(done) -> str:
    """What that run has measured, and what later tests add: most differ from it in one setting."""
    return str(done[1] / "cache")


def test_the_rows_and_every_file_are_written(done):
    results, out = done
    rows = {row.condition: row for row in results.rows[0]}
    assert list(rows) == list(NAMES)
    assert (
        rows["clean"].top1["track"].share >= 0.9
        and rows["clean"].num_queries == 16
        and rows["clean"].num_tracks == 8
    )
    for row in rows.values():
        exact, near, track = (row.top1[kind].share for kind in ("exact", "near", "track"))
        assert exact <= near <= track <= row.top5["track"]
        assert row.index_top1 == {
            kind: share.share for kind, share in row.top1.items()
        }  # few rows: the index is exact as well
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
        assert np.mean([line["top1_exact"] for line in own]) == pytest.approx(
            row.top1["exact"].share
        )
        assert np.mean([line["accepted_right_0.01"] for line in own]) == pytest.approx(
            row.accepted["0.01"].share
        )
    truth = {
        (row, clip.track_id): clip for row, clip in enumerate(ClipSource(queries, "stretch_85"))
    }
    for line in (line for line in table if line["condition"] == "stretch_85"):
        clip = truth[line["row"], line["track_id"]]
        assert line["start_s"] == pytest.approx(clip.start_s + 1.5 * (1 - 0.85), abs=1e-3)


def test_the_report_is_one_file_with_all_in_it(done):
    page = (done[1] / "report.html").read_text()
    assert (
        page.count("<html") == 1 and "Table 2" in page and "98.4 (100.0)" in page
    )  # the paper's shift of 40 %
    assert (
        page.count("data:image/png;base64,") >= 6 and page.count("was mistaken for ") == 2 * 2
    )  # as caption and as alt
    assert (
        not re.search(r"""(src|href)=["'](?!data:|#)""", page)
        and "<script" not in page
        and "url(" not in page
    )
    assert "Environment and command" in page and dataclasses.asdict(done[0])["index_id"] in page


def test_a_window_is_most_like_itself(done):
    """Figure 4 begins at the window itself and ends at the next one on the grid."""
    shift = done[0].shift
    assert shift.own[0] == pytest.approx((1, 1, 1), abs=1e-5) and shift.following[
        -1
    ] == pytest.approx((1, 1, 1), abs=1e-5)
    assert shift.own[-1][1] < 1 and shift.own[-1][1] == pytest.approx(
        shift.following[0][1], abs=1e-6
    )


def test_smaller_fingerprints_lose_hits_and_the_whole_loses_none(done):
    results, _ = done
    rows = {(row.dim, row.axes, row.precision): row for row in results.compression}
    clean = next(row for row in results.rows[0] if row.condition == "clean")
    (whole,) = (
        row for row in results.compression if (row.axes, row.precision) == ("all", "float32")
    )
    assert (
        whole.track["clean"] == clean.top1["track"].share
        and whole.exact["clean"] == clean.top1["exact"].share
    )
    for (dim, _, precision), row in rows.items():
        assert (
            row.bytes_per_hour
            == 12_000
            * {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 2, "binary": dim // 8}[
                precision
            ]
        )
    for axes in ("principal", "first"):
        assert rows[32, axes, "binary"].track["background_5db"] < whole.track["background_5db"]


def test_larger_indexes_are_in_the_results(checkpoint, prepared, music_dir, cache, tmp_path):
    asked = make_set(
        music_dir, tmp_path / "set", split="training", conditions=("clean", "background_5db")
    )
    out = tmp_path / "out"
    results = run(
        config_of(
            checkpoint,
            prepared,
            asked,
            distractors=(100, 3000),
            compression=False,
            shift_tracks=0,
            cache=cache,
        ),
        out,
    )
    clean = next(row for row in results.rows[0] if row.condition == "clean")
    exact = [row for row in results.scale if row.search == "exact"]
    assert [row.num_rows for row in exact] == sorted({row.num_rows for row in exact}) and exact[
        -1
    ].num_rows == 3000
    real = next(row for row in exact[::-1] if not row.num_synthetic)
    assert real.num_rows == 3000 - exact[-1].num_synthetic and exact[0].num_rows < real.num_rows
    assert (
        real.track["clean"] == clean.top1["track"].share
        and real.exact["clean"] == clean.top1["exact"].share
    )
    assert all(row.query_ms > 0 for row in results.scale)
    assert len(json.loads((out / "scale.json").read_text())) == len(results.scale)
    assert "3,000 (2,817 synthetic)" in (out / "report.html").read_text()


def test_a_second_report_measures_nothing_and_is_the_same(
    done, checkpoint, prepared, queries, monkeypatch
):
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


def test_a_fresh_run_gives_the_same_to_the_last_digit(
    done, checkpoint, prepared, queries, tmp_path
):
    """And an interrupted one continues with the conditions that are left."""
    _, out = done
    run(
        config_of(checkpoint, prepared, queries, conditions=("background_5db",), shift_tracks=0),
        tmp_path,
    )
    (kept,) = (tmp_path / "cache" / "outcomes").iterdir()
    written = kept.stat().st_mtime_ns
    run(config_of(checkpoint, prepared, queries), tmp_path)
    assert kept.stat().st_mtime_ns == written
    assert (tmp_path / "results.json").read_bytes() == (out / "results.json").read_bytes()
    assert (tmp_path / "queries.csv").read_bytes() == (out / "queries.csv").read_bytes()


def test_systems_stand_beside_each_other_and_a_bad_one_stops_nobody(
    checkpoint, prepared, queries, cache, tmp_path
):
    config = config_of(
        checkpoint,
        prepared,
        queries,
        conditions=("clean",),
        systems=("ours",),
        system_queries=6,
        compression=False,
        shift_tracks=0,
        cache=cache,
    )
    config = dataclasses.replace(
        config,
        command=dataclasses.replace(
            config.command, name="olaf", index="no-such-olaf {files}", query="olaf {query}"
        ),
    )
    results = run(config, tmp_path)
    ours, olaf = results.systems
    assert (
        ours.track.share >= 0.8
        and ours.num_queries == 6
        and ours.index_num_bytes > 1000
        and ours.query_median_ms > 0
    )
    assert olaf.track is None and "no-such-olaf is not installed" in olaf.trouble
    assert "no-such-olaf is not installed" in (tmp_path / "report.html").read_text()
    with open(tmp_path / "system_queries.csv", newline="") as file:
        told = list(csv.DictReader(file))
    assert [row["system"] for row in told] == ["ours"] * 6
    assert sum(row["found_track"] == row["track_id"] for row in told) == round(6 * ours.track.share)
    assert sum(abs(float(row["found_s"]) - float(row["start_s"])) <= 0.15 for row in told) >= round(
        6 * ours.exact
    )


def test_conditions_that_no_small_table_shows(checkpoint, prepared, queries, cache, tmp_path):
    config = config_of(
        checkpoint,
        prepared,
        queries,
        conditions=("stretch_85",),
        distractors=(1000,),
        shift_tracks=0,
        cache=cache,
    )
    results = run(config, tmp_path)
    assert (results.compression, results.scale) == ((), ()) and (tmp_path / "report.html").is_file()


def test_two_models_side_by_side(checkpoint, other_checkpoint, prepared, queries, cache, tmp_path):
    chosen = {
        "conditions": ("clean", "background_5db"),
        "systems": ("ours",),
        "system_conditions": ("clean",),
        "system_queries": 6,
        "cache": cache,
    }
    config = config_of(
        checkpoint,
        prepared,
        queries,
        compare=str(other_checkpoint),
        compression=False,
        shift_tracks=0,
        **chosen,
    )
    results = run(config, tmp_path)
    assert len({weights_hash for _, weights_hash, _ in results.models}) == len(results.rows) == 2
    for told, one, other in zip(results.comparisons, *results.rows, strict=True):
        assert told.difference == pytest.approx(one.top1["track"].share - other.top1["track"].share)
        assert told.only_first - told.only_second == round(told.difference * told.num_queries)
    assert [row.system for row in results.systems] == ["ours", "compared"]
    page = (tmp_path / "report.html").read_text()
    assert "Two models" in page and "points (95 % by bootstrap over tracks)" in page


def test_what_others_matched_can_be_read(done, checkpoint, prepared, queries, cache, tmp_path):
    out = done[1]
    truth = read_pexeso(out / "annotations.csv")
    assert len(truth) == 64 and all(len(found) == 1 for found in truth.values())
    with open(out / "queries.csv", newline="") as file:
        line = next(csv.DictReader(file))
    (found,) = truth[f"{line['query_set']}-{line['condition']}-{line['row']}"]
    assert found.track == line["track_id"] and abs(found.offset_s - float(line["start_s"])) < 1
    config = config_of(
        checkpoint,
        prepared,
        queries,
        matches=f"us={out / 'annotations.csv'}",
        shift_tracks=0,
        cache=cache,
    )
    rows = run(config, tmp_path / "out").systems
    assert [row.condition for row in rows] == list(NAMES) and all(
        row.track.share == 1 for row in rows
    )
    (tmp_path / "other.csv").write_text("reference_id,query_id\n7,of-another-set\n")
    with pytest.raises(DatasetError, match="none of its 1 query_ids is a query of"):
        run(dataclasses.replace(config, matches=f"us={tmp_path / 'other.csv'}"), tmp_path / "out")
    (tmp_path / "bad.csv").write_text(
        "reference_id,query_id,reference_begin,query_begin\n7,q,soon,0\n"
    )
    with pytest.raises(DatasetError, match=r"bad.csv, line 2"):
        read_pexeso(tmp_path / "bad.csv")
