"""The verdict measured: false alarms against misses, offsets, and how well the confidence keeps
its word.

    python -m confp_jax.evaluation.open_set --config=configs/open_set.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/validation,prepared/queries
        --out=results/open_set

Every excerpt is searched by the program's own matching, once with its track in the database and
once with it passed over. Writes OUT/open_set.json, OUT/open_set.md and OUT/open_set.png. Intervals
are by bootstrap over tracks.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Bool, Float64, Int64
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track as progress

from confp_jax import command_line
from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.records import DatasetError
from confp_jax.evaluation.measure.indexed_dataset import (
    EvaluationReference,
    Excerpt,
    cut,
    embed_reference,
)
from confp_jax.evaluation.measure.query_sets import find_query_sets, spread
from confp_jax.evaluation.report.figures import draw_open_set, save
from confp_jax.fingerprint.embedder import Embedder, UnknownModelError, load_encoder
from confp_jax.fingerprint.fingerprints import AudioError, Fingerprints
from confp_jax.matching.decision import (
    Decision,
    DecisionError,
    Judgement,
    confidence,
    load_decision,
)
from confp_jax.matching.ranking import rank
from confp_jax.matching.searchable import Reference
from confp_jax.metrics import bootstrap_interval
from confp_jax.model.weights import CheckpointError
from confp_jax.typed_config import from_mapping


@dataclasses.dataclass(frozen=True)
class OpenSetConfig:
    """The frozen form of configs/open_set.py."""

    model: str = "edge2"
    index: str = ""
    index_splits: tuple[str, ...] = ("training", "validation", "test")  # whose tracks are searched
    cache: str = ""
    queries: str = ""
    conditions: tuple[str, ...] = ()
    lengths_s: tuple[float, ...] = (0.0,)  # that excerpts are cut to; 0: the whole
    false_alarm_rate: float = 0.001  # that the threshold is set for
    num_bootstraps: int = 2000
    seed: int = 0  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Trials:
    """One row for each excerpt. `*_rate` is how often an unknown query reaches as much: smaller is
    surer.
    """

    tracks: Int64[np.ndarray, " Q"]
    right: Bool[np.ndarray, " Q"]  # the own track came first
    known_rate: Float64[np.ndarray, " Q"]
    known_logit: Float64[np.ndarray, " Q"]
    unknown_rate: Float64[np.ndarray, " Q"]
    unknown_logit: Float64[np.ndarray, " Q"]
    unknown_track: Int64[np.ndarray, " Q"]  # that came first without the own one
    offset_error_s: Float64[
        np.ndarray, " Q"
    ]  # at the query's middle; NaN where another track came first
    known_track: Int64[np.ndarray, " Q"]  # that came first; -1: none
    offset_s: Float64[np.ndarray, " Q"]  # where in it the query begins

    def accepted_right(self, rate: float) -> Bool[np.ndarray, " Q"]:
        """Which are answered, and rightly."""
        return self.right & (self.known_rate <= rate)

    def false_alarms(self, rate: float) -> Bool[np.ndarray, " Q"]:
        """Which are answered although their track is not there."""
        return self.unknown_rate <= rate


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
    decision = load_decision(embedder.folder, embedder.identity)
    searched = embed_reference(
        embedder, config.index, config.index_splits, console, cache=config.cache
    )
    results, curves, pairs = [], {}, {}
    for one in sets:
        for length_s in config.lengths_s:
            excerpts = read_excerpts(
                embedder, str(one.folder), one.conditions, length_s, console, seed=config.seed
            )
            trials = measure(excerpts, searched, decision, console)
            name = f"{one.name} {excerpts[0].fingerprints.duration_s:.1f} s"
            curves[name], pairs[name] = (
                curve(trials),
                alarm_pairs(trials, searched, config.false_alarm_rate),
            )
            conditions = np.array([excerpt.condition for excerpt in excerpts])
            for condition in [*dict.fromkeys(conditions), "all"]:
                part = trials if condition == "all" else _rows(trials, conditions == condition)
                results.append({"queries": name, "condition": condition} | summary(part, config))
    text = markdown(results, config.false_alarm_rate)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    found = {
        "model": embedder.name,
        "identity": embedder.identity,
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


def read_excerpts(
    embedder: Embedder,
    folder: str,
    conditions: Sequence[str],
    length_s: float,
    console: Console,
    *,
    seed: int,
    most: int = 0,
) -> list[Excerpt]:
    """All excerpts of a query set (or `most` of each condition, evenly), cut to `length_s` at a
    random place (0: whole).
    """
    rng, out = np.random.default_rng(seed), []
    for split in progress(
        conditions or read_splits(folder), "excerpts", console=console, transient=True
    ):
        source = ClipSource(folder, split)
        rate_hz = source.summary.sample_rate_hz
        for number in spread(len(source), most):
            clip = source[number]
            whole_s = len(clip.samples) / rate_hz
            used_s = min(length_s, whole_s) or whole_s
            begin_s = rng.uniform(0, whole_s - used_s)
            out.append(
                cut(
                    clip,
                    split,
                    embedder,
                    begin_s=begin_s,
                    length_s=used_s,
                    sample_rate_hz=rate_hz,
                    row=number,
                )
            )
    return out


def measure(
    excerpts: Sequence[Excerpt], searched: EvaluationReference, decision: Decision, console: Console
) -> Trials:
    """Every excerpt with its own track and without."""
    rows = []
    for excerpt in progress(excerpts, "searching", console=console, transient=True):
        own = searched.number(excerpt.track_id)
        best, place, known = first_match(excerpt.fingerprints, searched.reference, decision)
        stranger, _, unknown = first_match(
            excerpt.fingerprints, searched.reference, decision, masked=own
        )
        start_s, half_s = float(searched.starts_s[best]), excerpt.fingerprints.duration_s / 2
        # At the query's middle: the tempo of a short query is not estimated, and the truth is
        # aligned there.
        error_s = (
            abs(start_s + place.at(half_s) - excerpt.start_s - excerpt.rate * half_s)
            if best == own
            else np.nan
        )
        rows.append(
            (own, best == own, *known, *unknown, stranger, error_s, best, start_s + place.offset_s)
        )
    columns = list(zip(*rows, strict=True))
    return Trials(*(np.array(column) for column in columns))


class Place(NamedTuple):
    """Where in an indexed clip a query was found to begin, and how fast it plays it."""

    offset_s: float
    tempo: float

    def at(self, moment_s: float) -> float:
        """Where in the clip the query's moment lies."""
        return self.offset_s + self.tempo * moment_s


def first_match(
    query: Fingerprints, reference: Reference, decision: Decision, *, masked: int = -1
) -> tuple[int, Place, tuple[float, float]]:
    """The best track (-1: none) but the `masked` one, the place in it, and its (alarm rate,
    logit).
    """
    ranking = rank(query, reference, without=masked)
    if not len(ranking.tracks):
        return -1, Place(np.nan, np.nan), (1.0, -np.inf)
    num_tracks = reference.num_tracks - (masked >= 0)
    judged: Judgement = decision.judge(
        ranking, length_s=query.loud_s, num_tracks=num_tracks, overhangs=query.overhangs
    )
    place = Place(float(ranking.offsets_s[0]), float(ranking.tempos[0]))
    return int(ranking.tracks[0]), place, (float(judged.alarm_rates[0]), float(judged.logits[0]))


def alarm_pairs(
    trials: Trials, searched: EvaluationReference, rate: float
) -> list[tuple[int, int, int]]:
    """(track id, id of the track it was taken for, how often), most often first: many are one piece
    in two versions.
    """
    alarms = trials.false_alarms(rate)
    pairs = np.stack([trials.tracks[alarms], trials.unknown_track[alarms]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ids = searched.track_ids[found]
    return [(int(ids[i, 0]), int(ids[i, 1]), int(counts[i])) for i in order]


def summary(trials: Trials, config: OpenSetConfig) -> dict:
    """Shares with intervals; the upper bound of the false alarms is the 97.5th percentile over
    bootstrapped tracks.
    """
    rate = config.false_alarm_rate
    right, alarms = trials.accepted_right(rate), trials.false_alarms(rate)
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


def curve(trials: Trials) -> list[tuple[float, float]]:
    """(share of unknown queries answered, share of known ones not answered rightly) over all
    thresholds.
    """
    logits = np.unique(
        np.quantile(
            trials.unknown_logit, np.r_[np.linspace(0.5, 0.99, 50), np.linspace(0.9905, 1, 20)]
        )
    )
    points = [
        (
            float((trials.unknown_logit >= t).mean()),
            float(1 - (trials.right & (trials.known_logit >= t)).mean()),
        )
        for t in logits
    ]
    return points[::-1]


def markdown(results: Sequence[dict], rate: float) -> str:
    """A row for each query set and condition; shares in percent, with 95 % intervals by bootstrap
    over tracks.
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


def _rows(trials: Trials, chosen: Bool[np.ndarray, " Q"]) -> Trials:
    return Trials(*(getattr(trials, field.name)[chosen] for field in dataclasses.fields(trials)))


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder for the results.", required=True)
    user_errors = (AudioError, DatasetError, UnknownModelError, CheckpointError, DecisionError)
    command_line.run(main, config_file="configs/open_set.py", errors=user_errors)
