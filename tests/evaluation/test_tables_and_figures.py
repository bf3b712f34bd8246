"""What each table says of made-up rows, cell by cell; what each figure draws of them."""

import dataclasses

import numpy as np
import pytest

from confp_jax.evaluation.measure.compression import CompressionRow
from confp_jax.evaluation.measure.scale import ScaleRow
from confp_jax.evaluation.measure.shift_curve import ShiftCurve
from confp_jax.evaluation.measure.summary import Comparison, ConditionRow, Share
from confp_jax.evaluation.report import figures, tables
from confp_jax.evaluation.report.published import TABLE_3
from confp_jax.evaluation.systems.results import SystemRow


def share_of(value: float) -> Share:
    return Share(value, (0.0, 1.0), (value - 0.05, value + 0.05))


def row_of(condition: str, track: float = 0.8, *, length_s: float = 3.0) -> ConditionRow:
    """Exact hits a quarter below the track's, near ones an eighth; ten points more in top-5."""
    hits = {"exact": 0.75 * track, "near": 0.875 * track, "track": track}
    return ConditionRow(
        condition,
        length_s,
        num_queries=40,
        num_tracks=20,
        num_runs=2,
        top1={kind: share_of(value) for kind, value in hits.items()},
        top5={kind: value + 0.1 for kind, value in hits.items()},
        index_top1={kind: value - 0.01 for kind, value in hits.items()},
        matched=share_of(track + 0.1),
        accepted={"0.001": share_of(track - 0.2), "0.01": share_of(track - 0.1)},
        false_alarms={"0.001": share_of(0.001), "0.01": share_of(0.012)},
        offset_median_ms=12.4,
        offset_p90_ms=80.6,
    )


ROWS = [row_of("clean"), row_of("shift_40", 0.6), row_of("clean", 0.9, length_s=6.0)]
SYSTEMS = [
    SystemRow(
        "ours", "clean", 3.0, 40, share_of(0.9), 0.5, 0.6, 0.95, "", 12.3, 45.6,
        200_000_000, 7.2, 300_000_000, 1_500_000,
    ),
    SystemRow("olaf", "clean", 3.0, trouble="not installed"),
    SystemRow("matches", "background_5db", 3.0, 40, share_of(0.7), 0.4, 0.5, 0.75),
]  # fmt: skip
SCALE = [
    ScaleRow(num, synthetic, search, {"clean": hits}, {"clean": hits / 2}, 0.25, 3.0)
    for num, synthetic, hits in ((1000, 0, 0.9), (20_000, 19_000, 0.6))
    for search in ("exact", "index")
]
COMPRESSED = [
    CompressionRow(128, "all", "float32", 6_144_000, {"clean": 0.9}, {"clean": 0.7}),
    CompressionRow(32, "first", "binary", 48_000, {"clean": 0.5}, {"clean": 0.3}),
]
COMPARED = [
    Comparison("clean", 3.0, 40, 7, 3, 0.34375, 0.1, (-0.02, 0.22)),
    Comparison("shift_40", 3.0, 40, 0, 4, 0.125, -0.1, (-0.2, -0.01)),
]


def read(table: tables.Table) -> list[dict[str, str]]:
    assert all(len(row) == len(table.columns) for row in table.rows)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_hits_of_the_models_own_length():
    clean, shifted = read(tables.hit_table(ROWS, 3.0))
    assert (clean["condition"], shifted["condition"]) == ("clean", "shift 40")
    assert clean["exact: top-1 (top-5)"] == "60.0 (70.0)"
    assert clean["near: top-1 (top-5)"] == "70.0 (80.0)"
    assert clean["track: top-1 (top-5)"] == "80.0 (90.0)"
    assert (clean["95 % of track"], clean["by index"]) == ("75.0-85.0", "79.0")
    assert (clean["queries"], clean["runs"]) == ("40", "2")
    assert read(tables.hit_table(ROWS, 5.0)) == []


def test_the_papers_numbers_stand_beside_ours():
    """In the paper's order, and of what was measured alone."""
    rows = [row_of("reverb", 0.5), row_of("shift_20", 0.7), row_of("coloured_5db", 0.3)]
    shifted, reverb = read(tables.paper_table(rows, 3.0, 2))
    assert (shifted["condition"], reverb["condition"]) == ("shift 20", "reverb")
    assert (reverb["ours: track"], reverb["ours: exact"]) == ("50.0 (60.0)", "37.5 (47.5)")
    papers = [reverb[f"paper: {name}"] for name in ("small", "medium", "large")]
    assert papers == ["88.8 (91.4)", "92.2 (94.8)", "96.2 (98.2)"]
    (coloured,) = read(tables.paper_table(rows, 3.0, 4))
    assert (coloured["condition"], coloured["paper: small"]) == ("coloured 5 dB", "77.8 (81.0)")


def test_published_numbers_follow_this_runs():
    """A system that failed, or was asked none of the table's conditions, has no row."""
    found = read(tables.published_table([*ROWS, row_of("reverb", length_s=9.0)], SYSTEMS))
    own = found[: -len(TABLE_3)]
    published = found[-len(TABLE_3) :]
    assert [(row["system"], row["query"], row["5 dB"], row["no noise"]) for row in own] == [
        ("this run: the model under test", "3 s", "", "90.0"),
        ("this run: the model under test", "6 s", "", "100.0"),
        ("this run: ours", "3 s", "", "90.0"),
        ("this run: matches", "3 s", "70.0", ""),
    ]
    assert [row["system"] for row in published] == [one.system for one in TABLE_3]
    assert published[0]["5 dB"] == "93.9"


def test_lengths_stand_side_by_side():
    assert read(tables.length_table(ROWS)) == [
        {"condition": "clean", "3 s": "90.0 (85.0-95.0)", "6 s": "100.0 (95.0-105.0)"},
        {"condition": "shift 40", "3 s": "70.0 (65.0-75.0)", "6 s": ""},
    ]


def test_the_open_set():
    nothing_right = dataclasses.replace(ROWS[1], offset_median_ms=None, offset_p90_ms=None)
    clean, none = read(tables.open_set_table([ROWS[0], nothing_right]))
    assert clean["right and accepted at 0.1 %"].startswith("60.0 ")
    assert clean["right and accepted at 1 %"].startswith("70.0 ")
    assert clean["false alarms at 0.1 %"].startswith("0.10 ")
    assert clean["false alarms at 1 %"].startswith("1.20 ")
    assert clean["offset median / p90, ms"] == "12 / 81"
    assert none["offset median / p90, ms"] == "-"


def test_smaller_rows_and_larger_indexes():
    whole, least = read(tables.compression_table(COMPRESSED))
    assert (whole["stored as"], least["stored as"]) == ("128 x float32", "first 32 x binary")
    assert (whole["MB an hour of audio"], least["MB an hour of audio"]) == ("6.144", "0.048")
    assert least["clean: track / exact"] == "50.0 / 30.0"
    first, *_, last = read(tables.scale_table(SCALE))
    assert (first["fingerprints"], first["search"]) == ("1,000", "exact")
    assert (last["fingerprints"], last["search"]) == ("20,000 (19,000 synthetic)", "index")
    assert (last["clean: track / exact"], last["query, ms"]) == ("60.0 / 30.0", "0.25")
    assert tables.scale_table([]).rows == tables.compression_table([]).rows == ()


def test_the_sign_of_a_comparison_is_the_first_models():
    better, worse = read(tables.comparison_table(COMPARED, ("new", "old")))
    assert (better["only new"], better["only old"], better["queries"]) == ("7", "3", "40")
    name = "new minus old, points (95 % by bootstrap over tracks)"
    assert (better[name], worse[name]) == ("+10.0 (-2.0 to +22.0)", "-10.0 (-20.0 to -1.0)")
    assert worse["p (McNemar, exact)"] == "0.12"


def test_systems():
    """One that failed says why; of a file of matches no time and no size is known."""
    ours, failed, matches = read(tables.system_table(SYSTEMS))
    assert ours["track: top-1 (95 %)"] == "90.0 (85.0-95.0)"
    assert ours["query median / p95, ms"] == "12 / 46"
    assert (ours["query memory, MB"], ours["index memory, MB"]) == ("200.0", "300.0")
    assert (ours["index, s"], ours["index on disk, MB"]) == ("7", "1.5")
    assert (failed["track: top-1 (95 %)"], failed["trouble"]) == ("", "not installed")
    assert (matches["within 150 ms"], matches["query median / p95, ms"]) == ("40.0", "")
    assert read(tables.short_system_table(SYSTEMS)) == [
        {"condition": "clean", "ours": "90.0 (85.0-95.0)", "olaf": "failed", "matches": ""},
        {"condition": "background 5 dB", "ours": "", "olaf": "", "matches": "70.0 (65.0-75.0)"},
    ]


@pytest.fixture
def figure():
    return pytest.importorskip("matplotlib.figure").Figure()


def lines_of(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
    }


def test_bars_are_the_track_hits(figure):
    """The first condition is the uppermost; a bar ends at its share."""
    figures.draw_hit_rates(figure, ROWS[:2], title="hits")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["shift 40", "clean"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([60, 80])
    lines = lines_of(axes)
    assert lines["within 150 ms"][0] == pytest.approx([45, 60])
    assert lines["right, and accepted as a match"][0] == pytest.approx([40, 60])


def test_intervals_reach_from_a_share_to_its_bounds():
    below, above = figures._errors([Share(0.8, (0, 1), (0.7, 0.95)), Share(1.0, (0.9, 1), (1, 1))])
    assert below == pytest.approx([10, 10])
    assert above == pytest.approx([15, 0])


def test_a_stretch_is_drawn_by_tempo_with_clean_at_100(figure):
    rows = [row_of("stretch_115", 0.5), row_of("clean", 0.9), row_of("stretch_85", 0.7)]
    figures.draw_stretch(figure, [*rows, row_of("reverb")])
    (axes,) = figure.axes
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert ([85, 100, 115], pytest.approx([70, 90, 50])) in drawn
    assert ([85, 100, 115], pytest.approx([52.5, 67.5, 37.5])) in drawn


@pytest.mark.parametrize("crossing_s", [0.15, None])
def test_a_shift_is_drawn_in_milliseconds_with_its_crossing(figure, crossing_s):
    bands = (
        tuple((mean - 0.1, mean, mean + 0.1) for mean in (1.0, 0.5)),
        tuple((mean - 0.1, mean, mean + 0.1) for mean in (0.2, 0.6)),
    )
    figures.draw_shift(figure, ShiftCurve((0.0, 0.3), *bands, crossing_s, 9), hop_s=0.3)
    lines = lines_of(figure.axes[0])
    assert lines["cosine with its own fingerprint"] == ([0, 300], [1.0, 0.5])
    assert lines["cosine with the next fingerprint"] == ([0, 300], [0.2, 0.6])
    assert ("crossing at 150 ms" in lines) == (crossing_s is not None)
    assert lines["half a hop, 150 ms"][0] == [150, 150]


def test_larger_indexes_are_drawn_for_both_searches(figure):
    figures.draw_scale(figure, SCALE)
    left, right = figure.axes
    assert lines_of(left)["clean"] == ([1000, 20_000], pytest.approx([90, 60]))
    assert len(left.lines) == 2
    assert lines_of(right) == {name: ([1000, 20_000], [0.25, 0.25]) for name in ("exact", "index")}


def test_the_open_set_is_drawn_on_a_logarithmic_axis(figure):
    """No false alarm at all is drawn at 0.001 %, which the axis has."""
    figures.draw_open_set(figure, {"clean": [(0.0, 0.5), (0.01, 0.2)]}, title="open set")
    (axes,) = figure.axes
    assert lines_of(axes)["clean"] == (pytest.approx([0.001, 1.0]), pytest.approx([50, 20]))
    assert axes.get_xscale() == "log"


def test_points_of_the_calibration_are_as_large_as_their_queries(figure):
    figures.draw_calibration(figure, [(0.1, 0.2, 10), (0.9, 0.8, 40)], error=0.1)
    (points,) = figure.axes[0].collections
    np.testing.assert_allclose(points.get_offsets(), [(0.1, 0.2), (0.9, 0.8)])
    np.testing.assert_allclose(points.get_sizes(), [20 + 380 / 4, 400])
    assert "10.0 points" in figure.axes[0].get_title()


def test_spectrograms_stand_side_by_side_with_low_bands_below(figure):
    parts = [(name, np.arange(6.0).reshape(3, 2)) for name in ("query", "found")]
    figures.draw_spectrograms(figure, parts, length_s=3.0)
    assert [axes.get_title() for axes in figure.axes] == ["query", "found"]
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), parts[0][1].T)
    assert (image.origin, image.get_extent()) == ("lower", [0, 3.0, 0, 2])
