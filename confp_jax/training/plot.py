"""Draws training runs into one picture, to compare them.

    python -m confp_jax.training.plot runs/small runs/edge --out=runs.png

Needs the extra `evaluate` (matplotlib).
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from confp_jax.training.metric_log import LINES, read_lines

# What is drawn, one panel each, where at least one run has it.
PANELS = {
    "loss": "NT-Xent loss",
    "top1": "top-1 in the batch",
    "validation_track_top1": "top-1 on held-out tracks (right track)",
    "gradient_norm": "gradient norm",
    "alignment": "alignment (lower: partners closer)",
    "uniformity": "uniformity (lower: more even)",
    "learning_rate": "learning rate",
    "segments_per_s": "segments / s",
    "input_wait": "share of time waiting for input",
    "mfu": "share of the chips' peak arithmetic (MFU)",
    "memory_gb": "most memory so far, GB",
}
_MAX_POINTS = 400  # a longer curve is drawn as means of as many stretches


def smooth(
    steps: Sequence[float], values: Sequence[float], *, max_points: int = _MAX_POINTS
) -> tuple[list[float], list[float]]:
    """Returns at most `max_points` means of consecutive stretches: step and value."""
    size = max(1, -(-len(steps) // max_points))
    parts = [slice(start, start + size) for start in range(0, len(steps), size)]
    places, means = ([sum(row[part]) / len(row[part]) for part in parts] for row in (steps, values))
    return places, means


def draw(runs: dict[str, list[dict[str, float]]], out: pathlib.Path) -> None:
    """Writes a picture of named runs; each is the lines of its log."""
    import matplotlib.figure  # only here: the command's help must not need it

    names = [
        name for name in PANELS if any(name in line for lines in runs.values() for line in lines)
    ]
    num_columns = min(3, len(names))
    num_rows = -(-len(names) // num_columns)
    figure = matplotlib.figure.Figure(
        figsize=(5.2 * num_columns, 3.4 * num_rows), layout="constrained"
    )
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        for run, lines in runs.items():
            known = [line for line in lines if line.get(name) is not None]
            steps, values = smooth([line["step"] for line in known], [line[name] for line in known])
            axes.plot(
                steps,
                values,
                label=run,
                linewidth=1.2,
                marker="o" if len(steps) < 30 else None,
                markersize=3,
            )
        axes.set_title(PANELS[name], fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(out, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m confp_jax.training.plot", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "runs", nargs="+", help="workdirs of runs, or their metrics.jsonl; gs:// as well"
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs.png"),
        help="the picture (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    runs = {}
    for run in args.runs:
        path = run if run.endswith(".jsonl") else f"{run.rstrip('/')}/{LINES}"
        try:
            runs[run] = read_lines(path)
        except OSError as error:
            print(
                f"error: {path}: {error.strerror or error}; name a run's workdir", file=sys.stderr
            )
            return 1
        if not runs[run]:
            print(f"error: {path} holds no steps yet", file=sys.stderr)
            return 1
    draw(runs, args.out)
    told = ", ".join(f"{run} ({int(lines[-1]['step'])} steps)" for run, lines in runs.items())
    print(f"{args.out}: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
