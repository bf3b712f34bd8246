"""The figures of the benchmark (matplotlib, the extra `evaluate`): PNG bytes for the report, or
files.
"""

import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from confp_jax.evaluation.measure.query_sets import title as condition_title
from confp_jax.evaluation.measure.scale import ScaleRow
from confp_jax.evaluation.measure.shift_curve import ShiftCurve
from confp_jax.evaluation.measure.summary import ConditionRow, Share

BLUE = "#4477aa"
RED = "#ee6677"
YELLOW = "#ccbb44"
GREEN = "#228833"


def is_available() -> bool:
    """Returns whether matplotlib is installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def png(
    draw: Callable[..., None], *arguments: Any, size: tuple[float, float] = (8, 5), **named: Any
) -> bytes:
    """Returns what `draw(figure, ...)` draws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    out = io.BytesIO()
    draw(figure, *arguments, **named)
    figure.savefig(
        out, dpi=110, format="png", metadata={"Software": None}
    )  # no version: the same bytes again
    return out.getvalue()


def save(path: pathlib.Path, draw: Callable[..., None], *arguments: Any, **named: Any) -> None:
    """Writes what `draw` draws; skipped without matplotlib, which is optional beside the tables."""
    if is_available():
        path.write_bytes(png(draw, *arguments, **named))


def draw_hit_rates(figure: Any, rows: Sequence[ConditionRow], *, title: str) -> None:
    """Top-1 track and exact hits, and right and accepted, of every condition, with 95 %
    intervals.
    """
    rows = rows[::-1]
    axes = figure.add_subplot()
    figure.set_figheight(1.2 + 0.32 * len(rows))
    places = range(len(rows))
    shares = [row.top1["track"] for row in rows]
    axes.barh(
        places, [100 * s.share for s in shares], xerr=_errors(shares), color=BLUE,
        ecolor="#223355", height=0.7,
        label="right track, 95 % interval",
    )  # fmt: skip
    axes.plot(
        [100 * row.top1["exact"].share for row in rows],
        places,
        "D",
        color=RED,
        label="within 150 ms",
    )
    accepted = [100 * next(iter(row.accepted.values())).share for row in rows]
    axes.plot(
        accepted,
        places,
        "o",
        color=YELLOW,
        markeredgecolor="black",
        label="right, and accepted as a match",
    )
    axes.set_yticks(list(places), [condition_title(row.condition) for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 101)
    axes.set_xlabel("top-1 (%)")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def draw_open_set(
    figure: Any, curves: Mapping[str, Sequence[tuple[float, float]]], *, title: str
) -> None:
    """False alarms against misses, a line for each query set or condition."""
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        style = "-" if number < 10 else "--"
        axes.plot(
            [100 * max(x, 1e-5) for x, _ in points], [100 * y for _, y in points], style, label=name
        )
    axes.axvline(0.1, color="grey", linestyle=":", label="1 in 1,000")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("unknown excerpts that are answered (%)")
    axes.set_ylabel("known excerpts not answered rightly (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)


def draw_shift(figure: Any, curve: ShiftCurve, *, hop_s: float) -> None:
    """Figure 4: similarity of a shifted query to its own fingerprint and to the next, and where
    they cross.
    """
    axes = figure.add_subplot()
    shifts_ms = [1000 * shift for shift in curve.shifts_s]
    for values, name, colour in (
        (curve.own, "its own fingerprint", BLUE),
        (curve.following, "the next fingerprint", RED),
    ):
        middle = [v[1] for v in values]
        axes.plot(shifts_ms, middle, color=colour, label=f"cosine with {name}")
        axes.fill_between(
            shifts_ms,
            [v[0] for v in values],
            [v[2] for v in values],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    if curve.crossing_s is not None:
        crossing_ms = 1000 * curve.crossing_s
        axes.axvline(
            crossing_ms, color="black", linewidth=1, label=f"crossing at {crossing_ms:.0f} ms"
        )
    axes.axvline(
        500 * hop_s, color="grey", linestyle=":", label=f"half a hop, {500 * hop_s:.0f} ms"
    )
    axes.set_xlabel("shift of the query (ms)")
    axes.set_ylabel("cosine: mean, 10th to 90th percentile")
    axes.set_title(f"Figure 4: {curve.num_windows} windows of clean music")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def draw_stretch(figure: Any, rows: Sequence[ConditionRow]) -> None:
    """Figure 5: top-1 against tempo; `clean` stands at 100 %."""
    points = sorted(
        (100 if row.condition == "clean" else int(row.condition.removeprefix("stretch_")), row)
        for row in rows
        if row.condition == "clean" or row.condition.startswith("stretch_")
    )
    axes = figure.add_subplot()
    tempos = [tempo for tempo, _ in points]
    for kind, colour in (("track", BLUE), ("near", GREEN), ("exact", RED)):
        shares = [row.top1[kind] for _, row in points]
        axes.errorbar(
            tempos,
            [100 * s.share for s in shares],
            yerr=_errors(shares),
            color=colour,
            marker="o",
            capsize=3,
            label=kind,
        )
    axes.set_ylim(0, 101)
    axes.set_xlabel("tempo of the query (% of the original)")
    axes.set_ylabel("top-1 (%), 95 % intervals over tracks")
    axes.set_title("Figure 5: time stretch")
    axes.grid(alpha=0.3)
    axes.legend()


def draw_scale(figure: Any, rows: Sequence[ScaleRow]) -> None:
    """Top-1 track hits, and the time of a search, against the number of fingerprints; exact search
    and the index.
    """
    left, right = figure.subplots(1, 2)
    for search, style in (("exact", "-"), ("index", "--")):
        chosen = [row for row in rows if row.search == search]
        sizes = [row.num_rows for row in chosen]
        for number, name in enumerate(chosen[0].track):
            shares = [100 * row.track[name] for row in chosen]
            label = condition_title(name) if search == "exact" else None
            left.plot(sizes, shares, style, marker=".", color=f"C{number}", label=label)
        right.plot(
            sizes,
            [row.query_ms for row in chosen],
            style,
            marker="o",
            color=BLUE if search == "exact" else RED,
            label=search,
        )
    left.set_ylabel("top-1 track (%); exact search solid, index dashed")
    right.set_ylabel("one search (ms)")
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("fingerprints in the index")
        axes.grid(alpha=0.3)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    right.legend(fontsize=8)


def draw_calibration(
    figure: Any, bins: Sequence[tuple[float, float, int]], *, error: float
) -> None:
    """Confidence against how often it was right; the size of a point is its number of queries."""
    axes = figure.add_subplot()
    sizes = [20 + 380 * num / max(n for _, _, n in bins) for _, _, num in bins]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="what it promises")
    axes.scatter(
        [x for x, _, _ in bins],
        [y for _, y, _ in bins],
        sizes,
        color=BLUE,
        alpha=0.8,
        label="what it keeps",
    )
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of answers that were right")
    axes.set_title(
        f"Calibration: expected error {100 * error:.1f} points; half of the queries unknown"
    )
    axes.grid(alpha=0.3)
    axes.legend()


def draw_spectrograms(
    figure: Any, parts: Sequence[tuple[str, Float[np.ndarray, "T F"]]], *, length_s: float
) -> None:
    """Log-mel pictures side by side, each standardised."""
    for place, (name, log_mel) in enumerate(parts, 1):
        axes = figure.add_subplot(1, len(parts), place)
        axes.imshow(
            log_mel.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, length_s, 0, log_mel.shape[1]),
        )
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("s", fontsize=8)
        if place == 1:
            axes.set_ylabel("mel band", fontsize=8)
        axes.tick_params(labelsize=7)


def _errors(shares: Sequence[Share]) -> list[list[float]]:
    below = [max(0.0, 100 * (s.share - s.interval[0])) for s in shares]
    return [below, [max(0.0, 100 * (s.interval[1] - s.share)) for s in shares]]
