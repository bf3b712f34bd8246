"""The paper's protocol on query sets: hit rates by ScaNN and by exact search side by side, and the open set.

    python -m confp_jax.evaluation.benchmark --config=configs/benchmark.py --config.model=edge \\
        --config.index=prepared/fma --config.queries=prepared/queries --out=results

Writes OUT/results.json, OUT/results.md and OUT/hit_rates.png.
"""

import dataclasses
import json
import pathlib
import sys
import time

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from confp_jax import command_line
from confp_jax.config import from_mapping
from confp_jax.data.clips import read_splits
from confp_jax.data.records import DatasetError
from confp_jax.evaluation.open_set import measure, read_excerpts
from confp_jax.evaluation.reference import embed_reference
from confp_jax.evaluation.tables import ConditionResult, markdown_table, plot_hit_rates
from confp_jax.metrics import hit_rates, wilson_interval
from confp_jax.retrieval.decision import DecisionError, load_decision
from confp_jax.retrieval.embed import Embedder, UnknownModelError, load_encoder
from confp_jax.retrieval.index import ExactIndex, Index, build_index
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
    false_alarm_rate: float = 0.001


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Measures what the configuration describes."""
    run(from_mapping(BenchmarkConfig, config), pathlib.Path(values.out))


def run(config: BenchmarkConfig, out: pathlib.Path) -> list[ConditionResult]:
    """Measures every condition and writes the results; returns them.

    Raises:
      DatasetError: the index or the queries are missing, or made at another rate.
    """
    console = Console(stderr=True)
    embedder = load_encoder(config.model)
    conditions = config.conditions or tuple(read_splits(config.queries))
    searched = embed_reference(embedder, config.index, config.index_splits, console)
    reference = searched.reference
    row_ids, vectors = searched.track_ids[reference.snapshot.row_tracks], reference.snapshot.vectors
    row_s = (np.arange(len(vectors)) - reference.first_rows[reference.snapshot.row_tracks]) * reference.hop_s
    console.print(f"index: {len(vectors)} fingerprints of {len(searched.track_ids)} tracks")
    indexes: dict[str, Index] = {"exact": ExactIndex(vectors), "scann": build_index(vectors)}
    decision = load_decision(embedder.folder, embedder.identity)
    results = []
    for name in conditions:
        excerpts = read_excerpts(embedder, config.queries, [name], 0.0, console, seed=0)
        trials = measure(excerpts, searched, decision, console)
        right = float(trials.accepted_right(config.false_alarm_rate).mean())
        false = float(trials.false_alarms(config.false_alarm_rate).mean())
        queries = np.stack([excerpt.fingerprints.vectors[0] for excerpt in excerpts])
        truth = np.array([searched.track_ids[searched.number(excerpt.track_id)] for excerpt in excerpts])
        # Of the window that has the excerpt's middle: a stretched excerpt begins elsewhere (PAPER: "query position").
        truth_s = np.array([e.start_s + (e.rate - 1) * e.fingerprints.segment_s / 2 for e in excerpts])
        for search, index in indexes.items():
            began = time.perf_counter()
            hits = index.search(queries, k=config.top_k)
            search_ms = (time.perf_counter() - began) / len(queries) * 1000
            top1, top5 = (hit_rates(row_ids[hits.rows], row_s[hits.rows], truth, truth_s, k=k) for k in (1, config.top_k))
            interval = wilson_interval(top1.track, top1.num_queries)
            results.append(ConditionResult(name, search, top1, top5, interval, right, false, round(search_ms, 3)))
    Console().print(markdown_table(results), markup=False, highlight=False, soft_wrap=True)
    _write(results, config, embedder, len(vectors), out)
    return results


def _write(results: list[ConditionResult], config: BenchmarkConfig, embedder: Embedder, num_rows: int, out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    summary = {
        "model": embedder.name,
        "identity": embedder.identity,
        "num_fingerprints": num_rows,
        "command": " ".join(sys.argv),
        "results": [dataclasses.asdict(result) for result in results],
    }
    (out / "results.json").write_text(json.dumps(summary, indent=1))
    (out / "results.md").write_text(markdown_table(results) + "\n")
    plot_hit_rates(results, out / "hit_rates.png", title=f"{config.model}, {num_rows:,} fingerprints")


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder for the results.", required=True)
    user_errors = (DatasetError, UnknownModelError, CheckpointError, DecisionError)
    command_line.run(main, config_file="configs/benchmark.py", errors=user_errors)
