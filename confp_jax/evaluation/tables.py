"""Results as a Markdown table and as a figure."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from confp_jax.metrics import HitRates


@dataclasses.dataclass(frozen=True)
class ConditionResult:
    """One row: a condition by one kind of search. Shares lie in [0, 1]."""

    condition: str
    search: str
    top1: HitRates
    top5: HitRates
    interval: tuple[float, float]  # 95 %, of the top-1 track hits
    accepted_right: float  # answered, and rightly, at the model's threshold
    false_alarms: float  # answered although the track is not in the index
    search_ms: float


def markdown_table(results: Sequence[ConditionResult]) -> str:
    """All shares in percent; top-1 with top-5 in brackets, as in the paper's tables."""
    lines = [
        "| condition | search | exact | near | track | 95 % of track | right and accepted | false alarms | queries |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        hits = [f"{100 * getattr(r.top1, name):.1f} ({100 * getattr(r.top5, name):.1f})" for name in ("exact", "near", "track")]
        low, high = r.interval
        cells = [r.condition, r.search, *hits, f"{100 * low:.1f}-{100 * high:.1f}"]
        cells += [f"{100 * r.accepted_right:.1f}", f"{100 * r.false_alarms:.2f}", str(r.top1.num_queries)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_hit_rates(results: Sequence[ConditionResult], path: pathlib.Path, *, title: str) -> None:
    """Top-1 track and exact hits, and right and accepted, of every condition, with 95 % intervals; skipped without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    rows = [r for r in results if r.search == "exact"][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    track = [100 * r.top1.track for r in rows]
    errors = [
        [max(0.0, t - 100 * r.interval[0]) for t, r in zip(track, rows, strict=True)],
        [max(0.0, 100 * r.interval[1] - t) for t, r in zip(track, rows, strict=True)],
    ]
    axes.barh(places, track, xerr=errors, color="#4477aa", ecolor="#223355", height=0.7, label="right track, 95 % interval")
    axes.plot([100 * r.top1.exact for r in rows], places, "D", color="#ee6677", label="within 150 ms")
    accepted = [100 * r.accepted_right for r in rows]
    axes.plot(accepted, places, "o", color="#ccbb44", markeredgecolor="black", label="right, and accepted as a match")
    axes.set_yticks(list(places), [r.condition.replace("_", " ") for r in rows])
    axes.set_xlim(0, 101)
    axes.set_xlabel("top-1 of 3 s excerpts (%)")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


def plot_open_set(curves: Mapping[str, Sequence[tuple[float, float]]], path: pathlib.Path, *, title: str) -> None:
    """False alarms against misses, a line for each query set; skipped without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot([100 * max(x, 1e-5) for x, _ in points], [100 * y for _, y in points], label=name)
    axes.axvline(0.1, color="grey", linestyle=":", label="1 in 1,000")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("unknown excerpts that are answered (%)")
    axes.set_ylabel("known excerpts not answered rightly (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
