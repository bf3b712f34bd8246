"""The benchmark's tables: as rows of cells, which become Markdown here and HTML in the report."""

import dataclasses
from collections.abc import Mapping, Sequence

from confp_jax.evaluation.measure.compression import CompressionRow
from confp_jax.evaluation.measure.query_results import KINDS
from confp_jax.evaluation.measure.query_sets import title
from confp_jax.evaluation.measure.scale import ScaleRow
from confp_jax.evaluation.measure.summary import RATES, Comparison, ConditionRow, Share
from confp_jax.evaluation.report.published import (
    MODELS,
    PAPER,
    TABLE_2,
    TABLE_3,
    TABLE_3_CONDITIONS,
    TABLE_4,
)
from confp_jax.evaluation.systems.results import SystemRow


@dataclasses.dataclass(frozen=True)
class Table:
    """A caption, a heading a column, and rows of text."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Returns the table as Markdown, with the caption above."""
        lines = [
            f"**{self.caption}**",
            "",
            _line(self.columns),
            _line(["---"] * len(self.columns)),
            *map(_line, self.rows),
        ]
        return "\n".join(lines)


def percent(share: float, digits: int = 1) -> str:
    """0.983 as "98.3"."""
    return f"{100 * share:.{digits}f}"


def with_interval(share: Share, digits: int = 1) -> str:
    """Returns the share with its interval by bootstrap over tracks; Wilson's where that has no
    width (all or none were hits).
    """
    low, high = share.interval
    return f"{percent(share.share, digits)} ({percent(low, digits)}-{percent(high, digits)})"


def hit_table(rows: Sequence[ConditionRow], segment_s: float) -> Table:
    """Every condition at the model's own length: exact, near and track hits, top-1 with top-5 in
    brackets.
    """
    columns = (
        "condition",
        *(f"{kind}: top-1 (top-5)" for kind in KINDS),
        "95 % of track",
        "by index",
        "queries",
        "runs",
    )
    cells = []
    for row in of_length(rows, segment_s):
        hits = [f"{percent(row.top1[kind].share)} ({percent(row.top5[kind])})" for kind in KINDS]
        interval = with_interval(row.top1["track"]).split(" ", 1)[1].strip("()")
        cells.append(
            (
                title(row.condition),
                *hits,
                interval,
                percent(row.index_top1["track"]),
                str(row.num_queries),
                str(row.num_runs),
            )
        )
    caption = (
        "Hits by one fingerprint, exact search (exact: within 150 ms, near: 500 ms, track: the "
        "right recording); percent"
    )
    return Table(caption, columns, tuple(cells))


def paper_table(rows: Sequence[ConditionRow], segment_s: float, number: int) -> Table:
    """Table 2 or 4: ours beside the paper's three models, top-1 with top-5 in brackets."""
    conditions = {2: TABLE_2, 4: TABLE_4}[number]
    by_name = {row.condition: row for row in of_length(rows, segment_s)}
    columns = (
        "condition",
        "ours: track",
        "95 %",
        "ours: exact",
        *(f"paper: {name}" for name in MODELS),
    )
    cells = []
    for name in (name for name in conditions if name in by_name):
        row = by_name[name]
        ours = [
            f"{percent(row.top1[kind].share)} ({percent(row.top5[kind])})"
            for kind in ("track", "exact")
        ]
        interval = with_interval(row.top1["track"]).split(" ", 1)[1].strip("()")
        cells.append(
            (
                title(name),
                ours[0],
                interval,
                ours[1],
                *(f"{one} ({five})" for one, five in PAPER[name]),
            )
        )
    what = {2: "shifts and reverberation", 4: "background and coloured noise"}[number]
    return Table(f"Table {number}: {what}; top-1 (top-5), percent", columns, tuple(cells))


def published_table(rows: Sequence[ConditionRow], systems: Sequence[SystemRow]) -> Table:
    """Table 3: published top-1 with its conditions in the row, and what was measured here: not the
    same data, see the row.
    """
    columns = ("system", "query", "data", "5 dB", "10 dB", "15 dB", "no noise", "remark")
    cells = []
    for length_s in sorted({row.length_s for row in rows}):
        shares = {row.condition: percent(row.matched.share) for row in of_length(rows, length_s)}
        shown = [shares.get(name, "") for name in TABLE_3_CONDITIONS]
        if any(shown):
            cells.append(
                (
                    "this run: the model under test",
                    f"{length_s:g} s",
                    "this run's",
                    *shown,
                    "right track, sequence matching",
                )
            )
    for system in dict.fromkeys(row.system for row in systems):
        shares = {
            row.condition: percent(row.track.share)
            for row in systems
            if row.system == system and row.track
        }
        shown = [shares.get(name, "") for name in TABLE_3_CONDITIONS]
        if any(shown):
            length_s = next(row.length_s for row in systems if row.system == system)
            cells.append(
                (
                    f"this run: {system}",
                    f"{length_s:g} s",
                    "this run's",
                    *shown,
                    "right track, WAV files",
                )
            )
    for one in TABLE_3:
        data = f"FMA-{one.fma_subset}"
        cells.append(
            (
                one.system,
                f"{one.length_s:g} s",
                data,
                one.at_5db,
                one.at_10db,
                one.at_15db,
                one.no_noise,
                one.remark,
            )
        )
    return Table("Table 3: beside published numbers; top-1, percent", columns, tuple(cells))


def length_table(rows: Sequence[ConditionRow]) -> Table:
    """Right track first by the program's matching of the whole query, for each length."""
    lengths = sorted({row.length_s for row in rows})
    by_place = {(row.condition, row.length_s): row for row in rows}
    cells = [
        (
            title(name),
            *(
                with_interval(by_place[name, s].matched) if (name, s) in by_place else ""
                for s in lengths
            ),
        )
        for name in dict.fromkeys(row.condition for row in rows)
    ]
    caption = "Right track first by sequence matching, by length of query; percent (95 %)"
    return Table(caption, ("condition", *(f"{length_s:g} s" for length_s in lengths)), tuple(cells))


def open_set_table(rows: Sequence[ConditionRow]) -> Table:
    """Right and accepted, and false alarms with the own track taken out, at the model's
    thresholds.
    """
    rates = [f"{rate:g}" for rate in RATES]
    columns = (
        "condition", "query", *(f"right and accepted at {100 * float(r):g} %" for r in rates),
        *(f"false alarms at {100 * float(r):g} %" for r in rates), "offset median / p90, ms",
    )  # fmt: skip
    cells = []
    for row in rows:
        offset = (
            "-"
            if row.offset_median_ms is None
            else f"{row.offset_median_ms:.0f} / {row.offset_p90_ms:.0f}"
        )
        accepted = [with_interval(row.accepted[rate]) for rate in rates]
        alarms = [with_interval(row.false_alarms[rate], 2) for rate in rates]
        cells.append((title(row.condition), f"{row.length_s:g} s", *accepted, *alarms, offset))
    caption = (
        "Open set: every query with its track in the index and with it taken out, at the model's "
        "own thresholds, which were set beforehand for the rates in the headings; percent (95 % "
        "by bootstrap over tracks)"
    )
    return Table(caption, columns, tuple(cells))


def compression_table(rows: Sequence[CompressionRow]) -> Table:
    """Returns bytes of an hour of audio against top-1, a row a way of storing."""
    names = list(rows[0].track) if rows else []
    columns = (
        "stored as",
        "MB an hour of audio",
        *(f"{title(name)}: track / exact" for name in names),
    )
    cells = [
        (
            f"{row.dim} x {row.precision}"
            if row.axes == "all"
            else f"{row.axes} {row.dim} x {row.precision}",
            f"{row.bytes_per_hour / 1e6:.3f}",
            *(f"{percent(row.track[name])} / {percent(row.exact[name])}" for name in names),
        )
        for row in rows
    ]
    caption = (
        "Fewer dimensions (principal axes, or simply the first) and fewer bits, 300 ms apart, "
        "exact search, float32 queries; top-1, percent"
    )
    return Table(caption, columns, tuple(cells))


def scale_table(rows: Sequence[ScaleRow]) -> Table:
    """Returns Top-1 and time against the number of fingerprints."""
    names = list(rows[0].track) if rows else []
    columns = (
        "fingerprints",
        "search",
        *(f"{title(name)}: track / exact" for name in names),
        "query, ms",
        "index made in, s",
    )
    cells = [
        (
            f"{row.num_rows:,}"
            + (f" ({row.num_synthetic:,} synthetic)" if row.num_synthetic else ""),
            row.search,
            *(f"{percent(row.track[name])} / {percent(row.exact[name])}" for name in names),
            f"{row.query_ms:.2f}",
            f"{row.build_s:.1f}",
        )
        for row in rows
    ]
    return Table(
        "Hits by one fingerprint against the size of the index; top-1, percent",
        columns,
        tuple(cells),
    )


def comparison_table(comparisons: Sequence[Comparison], names: tuple[str, str]) -> Table:
    """Returns the paired tests of two models."""
    columns = (
        "condition", "query", f"only {names[0]}", f"only {names[1]}", "queries",
        "p (McNemar, exact)",
        f"{names[0]} minus {names[1]}, points (95 % by bootstrap over tracks)",
    )  # fmt: skip
    cells = []
    for c in comparisons:
        counts = str(c.only_first), str(c.only_second), str(c.num_queries), f"{c.p_value:.2g}"
        low, high = (f"{100 * bound:+.1f}" for bound in c.interval)
        cells.append(
            (
                title(c.condition),
                f"{c.length_s:g} s",
                *counts,
                f"{100 * c.difference:+.1f} ({low} to {high})",
            )
        )
    return Table("Top-1 track hits that only one of the two models has", columns, tuple(cells))


def system_table(rows: Sequence[SystemRow]) -> Table:
    """Accuracy, time, memory and size of each system, on the same WAV files."""
    columns = (
        "system", "condition", "track: top-1 (95 %)", "within 150 ms", "within 500 ms",
        "top-5 track", "query median / p95, ms",
        "query memory, MB", "index, s", "index memory, MB", "index on disk, MB", "queries",
        "trouble",
    )  # fmt: skip
    cells = []
    for row in rows:
        if row.track is None:
            cells.append(
                (row.system, title(row.condition), *[""] * (len(columns) - 3), row.trouble)
            )
            continue
        # of a file of matches nothing of it is known
        speed = ""
        memory = ""
        index = ["", "", ""]
        if row.index_peak_bytes:
            speed = f"{row.query_median_ms:.0f} / {row.query_p95_ms:.0f}"
            memory = _megabytes(row.query_peak_bytes)
            index = [
                f"{row.index_wall_s:.0f}",
                _megabytes(row.index_peak_bytes),
                _megabytes(row.index_num_bytes),
            ]
        cells.append((
            row.system, title(row.condition), with_interval(row.track), percent(row.exact),
            percent(row.near),
            percent(row.track_top5), speed, memory, *index, str(row.num_queries), row.trouble,
        ))  # fmt: skip
    return Table("Systems, each in its own process; percent", columns, tuple(cells))


def cells_by_system(rows: Sequence[SystemRow]) -> Mapping[str, Mapping[str, str]]:
    """System to condition to top-1 track with its interval."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row.system, {})[row.condition] = (
            "failed" if row.track is None else with_interval(row.track)
        )
    return found


def short_system_table(rows: Sequence[SystemRow]) -> Table:
    """One column a system: top-1 track of each condition."""
    cells = cells_by_system(rows)
    names = tuple(cells)
    body = tuple(
        (title(condition), *(cells[name].get(condition, "") for name in names))
        for condition in dict.fromkeys(row.condition for row in rows)
    )
    return Table(
        "Systems side by side: right track first; percent (95 %)", ("condition", *names), body
    )


def of_length(rows: Sequence[ConditionRow], length_s: float) -> list[ConditionRow]:
    """Returns the rows at one length of query."""
    return [row for row in rows if row.length_s == length_s]


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
