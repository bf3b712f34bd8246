"""The paper's protocol on query sets: hit rates by ScaNN and by exact search side by side, and the open set.

    python -m confp_jax.evaluation.benchmark --config=configs/benchmark.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/queries --out=results

Writes OUT/results.json, OUT/results.md and OUT/hit_rates.png. With --calibrate it also writes the decision threshold beside the
model's weights; do that with validation queries, never with test queries.
"""

import dataclasses
import json
import pathlib
import sys
import time

import numpy as np
from absl import flags
from jaxtyping import Float32, Int64
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track as progress

from confp_jax import command_line
from confp_jax.config import from_mapping
from confp_jax.data.duplicates import read_duplicates
from confp_jax.data.records import ClipSource, DatasetError, read_splits
from confp_jax.evaluation.open_set import calibrate, open_set, track_scores
from confp_jax.evaluation.tables import ConditionResult, markdown_table, plot_hit_rates
from confp_jax.metrics import hit_rates, wilson_interval
from confp_jax.retrieval.embed import HOP_S, Embedder, UnknownModelError, load_encoder
from confp_jax.retrieval.index import ExactIndex, Index
from confp_jax.retrieval.index.scann import ScannIndex
from confp_jax.training.checkpoint import CheckpointError


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The frozen form of configs/benchmark.py."""

    model: str = "edge"
    index: str = ""
    index_splits: tuple[str, ...] = ("training", "validation", "test")
    queries: str = ""
    conditions: tuple[str, ...] = ()
    top_k: int = 5
    false_alarm_rate: float = 0.01


@dataclasses.dataclass(frozen=True)
class Rows:
    """The index's fingerprints: tracks stand together, each from `first_rows` on."""

    vectors: Float32[np.ndarray, "N E"]
    track_ids: Int64[np.ndarray, " N"]
    start_s: Float32[np.ndarray, " N"]
    first_rows: Int64[np.ndarray, " T"]


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Measures what the configuration describes."""
    run(from_mapping(BenchmarkConfig, config), pathlib.Path(values.out), values.calibrate)


def run(config: BenchmarkConfig, out: pathlib.Path, calibrate_to: str | None = None) -> list[ConditionResult]:
    """Measures every condition and writes the results; returns them.

    Raises:
      DatasetError: the index or the queries are missing, or made at another rate.
    """
    console = Console(stderr=True)
    embedder = load_encoder(config.model)
    conditions = config.conditions or tuple(read_splits(config.queries))
    rows = embed_index(embedder, config, console)
    console.print(f"index: {len(rows.vectors)} fingerprints of {len(rows.first_rows)} tracks")
    indexes: dict[str, Index] = {"exact": ExactIndex(rows.vectors), "scann": ScannIndex(rows.vectors)}
    queries = {
        name: embed_queries(embedder, config, name)
        for name in progress(conditions, description="queries", console=console, transient=True)
    }
    decision = embedder.decision
    if calibrate_to:
        decision = _calibrate(list(queries.values()), rows, config.false_alarm_rate)
        pathlib.Path(calibrate_to).write_text(json.dumps(dataclasses.asdict(decision)) + "\n")
    results = []
    for name, (vectors, truth, truth_s) in queries.items():
        scores = track_scores(vectors, rows.vectors, rows.first_rows)
        numbers = np.searchsorted(rows.track_ids[rows.first_rows], truth)
        unknown_set = open_set(scores, numbers, decision)
        right, false = unknown_set.accepted_right(decision.margin), unknown_set.false_alarms(decision.margin)
        for search, index in indexes.items():
            began = time.perf_counter()
            hits = index.search(vectors, k=config.top_k)
            search_ms = (time.perf_counter() - began) / len(vectors) * 1000
            found, found_s = rows.track_ids[hits.rows], rows.start_s[hits.rows]
            top1, top5 = (hit_rates(found, found_s, truth, truth_s, k=k) for k in (1, config.top_k))
            interval = wilson_interval(top1.track, top1.num_queries)
            results.append(ConditionResult(name, search, top1, top5, interval, right, false, round(search_ms, 3)))
    Console().print(markdown_table(results), markup=False, highlight=False, soft_wrap=True)
    _write(results, config, embedder, len(rows.vectors), out)
    return results


def embed_index(embedder: Embedder, config: BenchmarkConfig, console: Console) -> Rows:
    """Fingerprints, 300 ms apart, of all clean clips of the index's splits, in the order of the track ids.

    Duplicates (`python -m data_prep.duplicates`) count as one track, so that a hit on a copy is a hit.
    """
    sources, group_of = [ClipSource(config.index, split) for split in config.index_splits], read_duplicates(config.index)
    places = [
        (group_of.get(track_id, track_id), source, i) for source in sources for i, track_id in enumerate(source.track_ids())
    ]
    parts, ids = [], []
    for track_id, source, i in progress(sorted(places, key=lambda p: p[0]), "index", console=console, transient=True):
        clip = source[i * (1 + source.summary.num_replicas)]
        parts.append(embedder.embed(clip.samples, sample_rate_hz=source.summary.sample_rate_hz))
        ids.append(track_id)
    lengths = [len(part) for part in parts]
    start_s = np.concatenate([np.arange(n) * HOP_S for n in lengths]).astype(np.float32)
    track_ids = np.repeat(np.array(ids), lengths)
    return Rows(np.concatenate(parts), track_ids, start_s, np.flatnonzero(np.diff(track_ids, prepend=-1)))


def embed_queries(
    embedder: Embedder, config: BenchmarkConfig, condition: str
) -> tuple[Float32[np.ndarray, "Q E"], Int64[np.ndarray, " Q"], Float32[np.ndarray, " Q"]]:
    """First fingerprint, true track and true start of every excerpt."""
    source, group_of = ClipSource(config.queries, condition), read_duplicates(config.index)
    rate_hz = source.summary.sample_rate_hz
    clips = list(source)
    vectors = np.stack([embedder.embed(clip.samples, sample_rate_hz=rate_hz)[0] for clip in clips])
    return (
        vectors,
        np.array([group_of.get(c.track_id, c.track_id) for c in clips]),
        np.array([c.start_s for c in clips], np.float32),
    )


def _calibrate(queries: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rows: Rows, false_alarm_rate: float):
    scores = np.concatenate([track_scores(vectors, rows.vectors, rows.first_rows) for vectors, _, _ in queries])
    truth = np.concatenate([np.searchsorted(rows.track_ids[rows.first_rows], ids) for _, ids, _ in queries])
    return calibrate(scores, truth, false_alarm_rate=false_alarm_rate)


def _write(results: list[ConditionResult], config: BenchmarkConfig, embedder: Embedder, num_rows: int, out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    summary = {
        "model": embedder.name,
        "identity": embedder.identity,
        "num_fingerprints": num_rows,
        "decision": dataclasses.asdict(embedder.decision),
        "command": " ".join(sys.argv),
        "results": [dataclasses.asdict(result) for result in results],
    }
    (out / "results.json").write_text(json.dumps(summary, indent=1))
    (out / "results.md").write_text(markdown_table(results) + "\n")
    plot_hit_rates(results, out / "hit_rates.png", title=f"{config.model}, {num_rows:,} fingerprints")


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder for the results.", required=True)
    flags.DEFINE_string("calibrate", None, "Write the decision threshold to this file (decision.json).")
    user_errors = (DatasetError, UnknownModelError, CheckpointError)
    command_line.run(main, config_file="configs/benchmark.py", errors=user_errors)
