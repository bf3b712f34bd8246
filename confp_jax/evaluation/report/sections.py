"""What the benchmark writes: JSON, Markdown, a row a query, and the report's sections."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console

from confp_jax.evaluation.config import BenchmarkConfig
from confp_jax.evaluation.measure.compression import CompressionRow
from confp_jax.evaluation.measure.listening import ListeningRow
from confp_jax.evaluation.measure.query_results import Outcomes, joined
from confp_jax.evaluation.measure.query_sets import QuerySet, title
from confp_jax.evaluation.measure.recordings import RecordingRow
from confp_jax.evaluation.measure.scale import ScaleRow
from confp_jax.evaluation.measure.shift_curve import ShiftCurve
from confp_jax.evaluation.measure.summary import RATES, Comparison, ConditionRow, calibration
from confp_jax.evaluation.measure.trials import curve as alarm_curve
from confp_jax.evaluation.report import figures, tables
from confp_jax.evaluation.report.export import query_rows, write_pexeso, write_rows
from confp_jax.evaluation.report.failures import Failure, Sounds, spectrograms, worst_failures
from confp_jax.evaluation.report.html import Picture, Section, render
from confp_jax.evaluation.report.recording_tables import listening_table, recording_table
from confp_jax.evaluation.systems.results import SystemRow
from confp_jax.fingerprint.embedder import HOP_S, Embedder

_PACKAGES = (
    "confp-jax",
    "jax",
    "flax",
    "numpy",
    "scipy",
    "scann",
    "faiss-cpu",
    "audfprint2",
    "matplotlib",
    "pyarrow",
)
_MOST_CURVES = 10  # in one figure
_TEXTS = {
    "Beside the paper": "The paper's index is FMA-large's test split (11,263 clips). This run's "
    "index has another size and other music, as its environment below says: the columns are not a "
    "competition.",
    "Open set": "Each query is searched with its track in the index, and as an unknown one with "
    "its track taken out. The thresholds are the model's own, set beforehand for the false-alarm "
    "rate in the heading.",
    "Larger indexes": "The queries' own tracks, then all real ones, then synthetic distractors: "
    "each is near a real fingerprint of a track without queries (cosine about 0.8), moved in a "
    "direction in which such fingerprints differ.",
    "Systems": "Each system was given the same WAV files in a process of its own, one at a time. "
    "The time of a query is measured inside that process, after its index was loaded (for a "
    "command line: with its start). Memory is the peak of the process. Every system reports its "
    "nearest track, however unsure; audfprint answers here from one landmark on, not five.",
}
Measured = Mapping[tuple[QuerySet, str], Outcomes]


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything measured. `models` and `rows`: of the checkpoint, and of the one that it is
    compared with.
    """

    config: BenchmarkConfig
    models: tuple[tuple[str, str, bool], ...]  # name, weights_hash, calibrated
    segment_s: float
    index_id: str
    num_tracks: int  # of the index
    query_ids: Mapping[str, str]
    rows: tuple[tuple[ConditionRow, ...], ...]
    comparisons: tuple[Comparison, ...]
    shift: ShiftCurve | None
    compression: tuple[CompressionRow, ...]
    scale: tuple[ScaleRow, ...]
    systems: tuple[SystemRow, ...] = ()
    recordings: tuple[RecordingRow, ...] = ()
    listening: tuple[ListeningRow, ...] = ()


def write_results(
    results: Results,
    measured: Sequence[Measured],
    answers: Sequence[Mapping[str, object]],
    embedder: Embedder,
    out: pathlib.Path,
    console: Console,
) -> None:
    """Writes all files of the folder. A second run repeats results.json to the last digit.

    Args:
      results: what was measured.
      measured: the outcomes of each model, by query set and condition.
      answers: one dictionary for each answer of another system.
      embedder: of the first model; draws the spectrograms of failures.
      out: the folder to write to.
      console: names the report.
    """
    values = dataclasses.asdict(results)
    timed = {name: values.pop(name) for name in ("systems", "scale")}
    values["calibration"] = dict(
        zip(("bins", "expected_error"), calibration(list(measured[0].values())), strict=True)
    )
    (out / "results.json").write_text(json.dumps(values, indent=1))
    for name, found in timed.items():
        (out / f"{name}.json").write_text(json.dumps(found, indent=1))
    rows = [
        row
        for (name, *_), one in zip(results.models, measured, strict=True)
        for row in query_rows(name, one)
    ]
    if not all([write_rows(out / "queries", rows), write_rows(out / "system_queries", answers)]):
        console.print(
            "no Parquet is written: pyarrow is missing; pip install 'confp-jax[evaluate]'"
        )
    write_pexeso(out, measured[0], rate=RATES[0])
    sections = table_sections(results)
    text = "\n\n".join(part.markdown() for _, parts in sections for part in parts)
    (out / "results.md").write_text(text + "\n")
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    if not figures.is_available():
        console.print(
            "report.html is not written: matplotlib is missing; pip install 'confp-jax[evaluate]'"
        )
        return
    own = tables.of_length(results.rows[0], results.segment_s)
    if own:
        (out / "hit_rates.png").write_bytes(
            figures.png(figures.draw_hit_rates, own, title=results.models[0][0])
        )
    (out / "report.html").write_text(page(results, measured[0], embedder, sections))
    console.print(f"{out / 'report.html'}: open it in a browser")


def table_sections(results: Results) -> list[tuple[str, list[tables.Table]]]:
    """Returns the tables by section; those without rows are left out."""
    rows = results.rows[0]
    segment_s = results.segment_s
    paper = [tables.paper_table(rows, segment_s, 2), tables.published_table(rows, results.systems)]
    paper.append(tables.paper_table(rows, segment_s, 4))
    sections = [
        (
            "Real recordings",
            [recording_table(results.recordings), listening_table(results.listening)],
        ),
        ("Beside the paper", paper),
        ("All conditions", [tables.hit_table(rows, segment_s)]),
        (
            "Query length",
            [tables.length_table(rows)] if len({row.length_s for row in rows}) > 1 else [],
        ),
        ("Open set", [tables.open_set_table(rows)]),
        ("Smaller fingerprints", [tables.compression_table(results.compression)]),
        ("Larger indexes", [tables.scale_table(results.scale)]),
        (
            "Systems",
            [tables.short_system_table(results.systems), tables.system_table(results.systems)],
        ),
    ]
    if results.comparisons:
        names = results.models[0][0], results.models[1][0]
        sections.append(("Two models", [tables.hit_table(results.rows[1], segment_s)]))
        sections[-1][1].append(tables.comparison_table(results.comparisons, names))
    return [(name, [table for table in found if table.rows]) for name, found in sections]


def page(
    results: Results,
    measured: Measured,
    embedder: Embedder,
    sections: Sequence[tuple[str, list[tables.Table]]],
) -> str:
    """Returns the report as HTML."""
    pictures = {
        "Beside the paper": shape_pictures(results),
        "Open set": open_set_pictures(measured),
    }
    if results.scale:
        drawn = figures.png(figures.draw_scale, results.scale, size=(10, 4.5))
        pictures["Larger indexes"] = [
            Picture(drawn, "Hits and time against the number of fingerprints.")
        ]
    parts = [
        Section(name, _TEXTS.get(name, ""), [*found, *pictures.get(name, [])])
        for name, found in sections
    ]
    parts.append(_failure_section(results, measured, embedder))
    parts.append(Section("Environment and command", facts=environment(results)))
    return render(
        "Fingerprinting benchmark",
        _lead(results, measured),
        [part for part in parts if part.parts or part.text or part.facts],
    )


def _lead(results: Results, measured: Measured) -> str:
    num_queries = sum(len(one.rows) for one in measured.values())
    name, weights_hash, calibrated = results.models[0]
    num_conditions = len({row.condition for row in results.rows[0]})
    lead = f"Model {name} ({weights_hash}), {num_queries:,} queries, {num_conditions} conditions."
    return lead if calibrated else f"{lead} The model is not calibrated: its threshold is a guess."


def _failure_section(results: Results, measured: Measured, embedder: Embedder) -> Section:
    config = results.config
    sounds = Sounds.of(config.index, config.index_splits)
    failed = worst_failures(measured, most=config.num_failures)
    shown = [_failure_picture(one, sounds, embedder) for one in failed]
    text = (
        "Queries whose best match is another track, as log-mel spectrograms; the surest mistakes "
        "come first."
    )
    return Section(
        "Failures", text if shown else "None: every query's own track came first.", shown
    )


def shape_pictures(results: Results) -> list[Picture]:
    """Figures 4 and 5, and all hit rates."""
    out = []
    if results.shift:
        drawn = figures.png(figures.draw_shift, results.shift, hop_s=HOP_S)
        at_s = results.shift.crossing_s
        crossing = "they do not cross" if at_s is None else f"they cross at {1000 * at_s:.0f} ms"
        caption = (
            "Similarity of a shifted query to its own and to the next fingerprint; "
            f"{crossing} (paper: near 150 ms)."
        )
        out.append(Picture(drawn, caption))
    own = tables.of_length(results.rows[0], results.segment_s)
    if any(row.condition.startswith("stretch_") for row in own):
        out.append(
            Picture(
                figures.png(figures.draw_stretch, own),
                "Top-1 against stretch, one fingerprint a query.",
            )
        )
    if own:
        drawn = figures.png(
            figures.draw_hit_rates, own, title=f"{results.models[0][0]}, {results.segment_s:g} s"
        )
        out.append(Picture(drawn, "Every condition."))
    return out


def open_set_pictures(measured: Measured) -> list[Picture]:
    """Misses against false alarms, by length over all conditions and by condition; and the
    calibration.
    """
    lengths: dict[str, list[Outcomes]] = {}
    conditions: dict[str, list[Outcomes]] = {}
    for (queries, condition), one in measured.items():
        lengths.setdefault(f"{queries.length_s:g} s, all conditions", []).append(one)
        conditions.setdefault(title(condition), []).append(one)
    out = []
    worst = sorted(
        conditions,
        key=lambda name: float(joined(conditions[name]).trials.accepted_right(RATES[0]).mean()),
    )
    shown = {name: parts for name, parts in conditions.items() if name in worst[:_MOST_CURVES]}
    by_condition = (
        "by condition"
        if len(shown) == len(conditions)
        else f"the {len(shown)} conditions with most misses"
    )
    for runs, text in ((lengths, "by length of query"), (shown, by_condition)):
        curves = {name: alarm_curve(joined(parts).trials) for name, parts in runs.items()}
        drawn = figures.png(
            figures.draw_open_set, curves, title=f"False alarms against misses, {text}", size=(9, 5)
        )
        out.append(Picture(drawn, f"Misses against false alarms, {text}."))
    bins, error = calibration(list(measured.values()))
    drawn = figures.png(figures.draw_calibration, bins, error=error, size=(6, 5))
    out.append(
        Picture(
            drawn,
            "What the confidence promises and keeps; expected calibration error "
            f"{100 * error:.2f} points.",
        )
    )
    return out


def environment(results: Results) -> dict[str, str]:
    """Returns where and how it ran."""
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package}: not installed")
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "Command": shlex.join(["python", "-m", "confp_jax.evaluation.benchmark", *sys.argv[1:]]),
        "Models": ", ".join(f"{name} ({weights_hash})" for name, weights_hash, _ in results.models),
        "Index": f"{results.config.index} {results.config.index_splits}: {results.num_tracks:,} "
        f"recordings, content {results.index_id}",
        "Query sets": ", ".join(
            f"{name}: {content}" for name, content in results.query_ids.items()
        ),
        "Machine": f"{platform.platform()}, {os.cpu_count()} cores, "
        f"{names[0] if names else platform.processor()}",
        "Python": f"{platform.python_version()}; {', '.join(versions)}",
        "Configuration": json.dumps(dataclasses.asdict(results.config)),
    }


def _failure_picture(failure: Failure, sounds: Sounds, embedder: Embedder) -> Picture:
    names = [
        sounds.names.get(track, str(track)) for track in (failure.track_id, failure.mistaken_id)
    ]
    verdict = "accepted at 1 false alarm in 1,000" if failure.accepted else "not accepted"
    caption = (
        f"{title(failure.condition)}, {failure.queries.name} row {failure.row}: {names[0]} at "
        f"{failure.start_s:.1f} s was mistaken for {names[1]} at {failure.mistaken_s:.1f} s (log "
        f"odds {failure.logit:.1f}, {verdict})"
    )
    return Picture(
        spectrograms(failure, sounds, embedder.config.audio, embedder.config.mel), caption
    )
