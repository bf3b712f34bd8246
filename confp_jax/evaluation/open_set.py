"""Measures the verdict: false alarms against misses, offsets, and the calibration of the
confidence.

    python -m confp_jax.evaluation.open_set --config=configs/open_set.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/validation,prepared/queries
        --out=results/open_set

Every excerpt is searched by the program's own matching, once with its track in the database and
once with it passed over. Writes OUT/open_set.json, OUT/open_set.md and OUT/open_set.png. Intervals
are by bootstrap over tracks.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from jaxtyping import Bool, Int64
from ml_collections import ConfigDict
from rich.console import Console

from confp_jax import command_line
from confp_jax.evaluation.config import OpenSetConfig
from confp_jax.evaluation.measure.indexed_dataset import (
    embed_reference,
)
from confp_jax.evaluation.measure.query_sets import find_query_sets
from confp_jax.evaluation.measure.trials import (
    Trials,
    alarm_pairs,
    curve,
    read_excerpts,
    run_trials,
)
from confp_jax.evaluation.report.figures import draw_open_set, save
from confp_jax.fingerprint.embedder import load_encoder
from confp_jax.matching.decision import (
    confidence,
    load_decision,
)
from confp_jax.metrics import bootstrap_interval
from confp_jax.typed_config import from_mapping


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Measures what the configuration describes."""
    run(from_mapping(OpenSetConfig, config), pathlib.Path(values.out))


def run(config: OpenSetConfig, out: pathlib.Path) -> dict:
    """Measures every query set, condition and length; writes the results and returns them.

    Raises:
      DatasetError: the index or a query set is missing, or two sets have one name.
    """
    sets = find_query_sets(config.queries, config.conditions)
    console = Console(stderr=True)
    embedder = load_encoder(config.model)
    decision = load_decision(embedder.folder, embedder.weights_hash)
    searched = embed_reference(
        embedder, config.index, config.index_splits, console, cache=config.cache
    )
    results = []
    curves = {}
    pairs = {}
    for one in sets:
        for length_s in config.lengths_s:
            excerpts = read_excerpts(
                embedder, str(one.folder), one.conditions, length_s, console, seed=config.seed
            )
            trials = run_trials(excerpts, searched, decision, console)
            name = f"{one.name} {excerpts[0].query.duration_s:.1f} s"
            curves[name], pairs[name] = (
                curve(trials),
                alarm_pairs(trials, searched, config.false_alarm_rate),
            )
            conditions = np.array([excerpt.condition for excerpt in excerpts])
            for condition in [*dict.fromkeys(conditions), "all"]:
                part = trials if condition == "all" else trials.rows(conditions == condition)
                results.append({"queries": name, "condition": condition} | summary(part, config))
    text = markdown(results, config.false_alarm_rate)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    found = {
        "model": embedder.name,
        "identity": embedder.weights_hash,
        "command": " ".join(sys.argv),
        "results": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_set.json").write_text(
        json.dumps(found | {"alarm_pairs": pairs, "curves": curves}, indent=1)
    )
    (out / "open_set.md").write_text(text + "\n")
    save(
        out / "open_set.png",
        draw_open_set,
        curves,
        title=f"{config.model}: {len(searched.track_ids)} tracks",
    )
    return found


def summary(trials: Trials, config: OpenSetConfig) -> dict:
    """Shares with intervals; the upper bound of the false alarms is the 97.5th percentile over
    bootstrapped tracks.
    """
    rate = config.false_alarm_rate
    right = trials.accepted_right(rate)
    alarms = trials.false_alarms(rate)
    errors = trials.offset_error_s[trials.right]
    wanted = {
        "tracks": len(np.unique(trials.tracks)),
        "excerpts": len(right),
        "top1": float(trials.right.mean()),
    }
    intervals = {
        name: bootstrap_interval(
            values, trials.tracks, num_bootstraps=config.num_bootstraps, seed=config.seed
        )
        for name, values in {"accepted_right": right, "false_alarms": alarms}.items()
    }
    sure = confidence(trials.known_logit)
    return wanted | {
        "accepted_right": float(right.mean()),
        "accepted_right_interval": intervals["accepted_right"],
        "false_alarms": float(alarms.mean()),
        "num_false_alarms": int(alarms.sum()),
        "false_alarms_interval": intervals["false_alarms"],
        "false_alarms_upper_95": max(
            intervals["false_alarms"][1], _rule_of_three(alarms, trials.tracks)
        ),
        "offset_median_ms": float(1000 * np.median(errors)) if len(errors) else None,
        "offset_p90_ms": float(1000 * np.quantile(errors, 0.9)) if len(errors) else None,
        "brier": float(
            np.mean(np.r_[(sure - trials.right) ** 2, confidence(trials.unknown_logit) ** 2])
        ),
    }


def markdown(results: Sequence[dict], rate: float) -> str:
    """Returns a row for each query set and condition; shares in percent, with 95 % intervals by
    bootstrap over tracks.
    """
    lines = [
        f"| queries | condition | excerpts | top-1 | right and accepted at {100 * rate:g} % | "
        "false alarms | 95 % upper bound | offset median / p90, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        low, high = (100 * value for value in r["accepted_right_interval"])
        offset = (
            "-"
            if r["offset_median_ms"] is None
            else f"{r['offset_median_ms']:.0f} / {r['offset_p90_ms']:.0f}"
        )
        lines.append(
            f"| {r['queries']} | {r['condition']} | {r['excerpts']} | {100 * r['top1']:.1f} | "
            f"{100 * r['accepted_right']:.1f} ({low:.1f}-{high:.1f}) | "
            f"{100 * r['false_alarms']:.2f} ({r['num_false_alarms']}) | "
            f"{100 * r['false_alarms_upper_95']:.2f} | {offset} |"
        )
    return "\n".join(lines)


def _rule_of_three(values: Bool[np.ndarray, " Q"], tracks: Int64[np.ndarray, " Q"]) -> float:
    """Without a single event the bootstrap says 0; then 3 / n bounds the share, n being the
    excerpts (as if independent).
    """
    return 3 / len(tracks) if not values.any() else 0.0


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder for the results.", required=True)
    command_line.run(main, config_file="configs/open_set.py")
