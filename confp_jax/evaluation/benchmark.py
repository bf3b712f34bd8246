"""The benchmark: the paper's tables and figures, the open set, other systems on the same files,
one report.

    python -m confp_jax.evaluation.benchmark --config=configs/benchmark.py:paper \\
        --config.checkpoint=edge \\
        --config.index=prepared/fma --config.queries=prepared/queries --out=results

Writes into OUT: report.html, results.json, results.md, systems.json and scale.json (which hold
times), queries.csv and .parquet (a row a query), system_queries.csv and .parquet (a row an answer
of a system), annotations.csv and matches.csv (Pexeso's format), hit_rates.png. What was measured
is kept by content in OUT/cache: an interrupted run is continued by the same command, and a second
report costs seconds.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from confp_jax import command_line
from confp_jax.evaluation.config import BenchmarkConfig
from confp_jax.evaluation.measure.cache import cached_rows, one_run, read_cached
from confp_jax.evaluation.measure.compression import (
    DIMS,
    CompressionRow,
    chosen_conditions,
    compression_rows,
)
from confp_jax.evaluation.measure.indexed_dataset import embed_reference, one_of_each
from confp_jax.evaluation.measure.listening import ListeningRow, measure_listening
from confp_jax.evaluation.measure.query_results import Outcomes, Searched, measure_condition
from confp_jax.evaluation.measure.query_sets import (
    QuerySet,
    dataset_id,
    find_query_sets,
    own_length,
)
from confp_jax.evaluation.measure.recordings import (
    RecordingRow,
    measure_peer,
    measure_recordings,
    read_recordings,
    recordings_id,
    with_references,
)
from confp_jax.evaluation.measure.scale import ScaleRow, scale_rows
from confp_jax.evaluation.measure.shift_curve import ShiftCurve, shift_curve
from confp_jax.evaluation.measure.summary import (
    RATES,
    Comparison,
    ConditionRow,
    compare,
    condition_row,
)
from confp_jax.evaluation.report.sections import Measured, Results, write_results
from confp_jax.evaluation.systems.ours import answers_version
from confp_jax.evaluation.systems.registry import OURS, SystemSpec
from confp_jax.evaluation.systems.selection import run_systems, system_run, system_specs
from confp_jax.files import RUN_LOCK
from confp_jax.fingerprint.embedder import HOP_S, Embedder, load_encoder
from confp_jax.index import ExactIndex
from confp_jax.library.searcher import ReferenceSearcher
from confp_jax.matching.decision import Decision, load_decision
from confp_jax.matching.searchable import Reference
from confp_jax.typed_config import from_mapping

_VERSION = "4"  # of what a measurement is: a new number discards the cache


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on one index: the fingerprints of the index are made when something must be
    searched.
    """

    embedder: Embedder
    decision: Decision
    config: BenchmarkConfig
    cache: pathlib.Path
    index_id: str
    console: Console

    @functools.cached_property
    def searched(self) -> Searched:
        """The index's clips, fingerprinted, with both kinds of search."""
        kept = str(self.cache / "fingerprints" / self.index_id)
        found = embed_reference(
            self.embedder, self.config.index, self.config.index_splits, self.console, cache=kept
        )
        vectors = found.reference.snapshot.vectors
        self.console.print(
            f"{self.embedder.name}: {len(vectors)} fingerprints of {len(found.track_ids)} tracks"
        )
        # The reference's own index is the approximate one above 20,000 rows, tuned by an exact
        # search: not built twice.
        indexes = {"exact": ExactIndex(vectors), "index": found.reference.index}
        return Searched(self.embedder, found, indexes, self.decision)

    def outcomes(self, queries: QuerySet, condition: str) -> Outcomes:
        """Measured, or what was measured before: by model, calibration, index, queries and
        settings.
        """
        settings = self.config.most_queries, self.config.top_k, self.config.seed, _VERSION
        content = (
            self.embedder.weights_hash,
            self.decision.to_json(),
            self.index_id,
            dataset_id(queries.folder, [condition]),
        )
        key = hashlib.sha256(json.dumps([*content, condition, *settings]).encode()).hexdigest()[:24]
        kept = self.cache / "outcomes" / f"{key}.npz"
        before = read_cached(kept, Outcomes.load)
        if before is not None:
            return before
        self.console.print(f"{self.embedder.name}: {queries.name}, {condition}")
        measured = measure_condition(
            self.searched,
            str(queries.folder),
            condition,
            top_k=self.config.top_k,
            most=self.config.most_queries,
            seed=self.config.seed,
            console=self.console,
        )
        measured.save(kept)
        return measured


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Measures what the configuration describes."""
    chosen = from_mapping(BenchmarkConfig, config)
    out = pathlib.Path(values.out)
    places = [out, pathlib.Path(chosen.cache)] if chosen.cache else [out]
    with one_run([place / RUN_LOCK for place in places]):
        run(chosen, out)


def run(config: BenchmarkConfig, out: pathlib.Path) -> Results:
    """Measures every condition by every model and system, and writes the report.

    Args:
      config: what is measured.
      out: the folder of the report.

    Raises:
      DatasetError: the index or the queries are missing, made at another sample rate, or of tracks
        that are not in the index.
      ConfigError: an unknown system, or a command that cannot work.
    """
    console = Console(stderr=True)
    cache = pathlib.Path(config.cache or out / "cache")
    specs = system_specs(config)
    sets = find_query_sets(config.queries, config.conditions)
    models = _load_models(config, cache, console)
    out.mkdir(parents=True, exist_ok=True)
    measured = [
        {(one, name): model.outcomes(one, name) for one in sets for name in one.conditions}
        for model in models
    ]
    first = models[0].embedder
    system_rows, answers = run_systems(specs, config, sets, first, cache, console)
    recordings, listening = (
        real_recordings(models[0], specs, sets, cache) if config.recordings else ([], [])
    )
    results = dataclasses.replace(
        _model_results(config, sets, models, measured),
        systems=tuple(system_rows),
        recordings=tuple(recordings),
        listening=tuple(listening),
    )
    write_results(results, measured, answers, first, out, console)
    return results


def _load_models(config: BenchmarkConfig, cache: pathlib.Path, console: Console) -> list[Model]:
    index_id = dataset_id(config.index, config.index_splits)
    embedders = map(load_encoder, filter(None, (config.checkpoint, config.compare)))
    return [
        Model(one, load_decision(one.folder, one.weights_hash), config, cache, index_id, console)
        for one in embedders
    ]


def _model_results(
    config: BenchmarkConfig,
    sets: Sequence[QuerySet],
    models: Sequence[Model],
    measured: Sequence[Measured],
) -> Results:
    """Returns what was measured of the models, without other systems and real recordings."""
    first = models[0]
    asked = (first, sets, measured[0], first.cache)
    return Results(
        config=config,
        models=tuple(
            (model.embedder.name, model.embedder.weights_hash, model.decision.calibrated)
            for model in models
        ),
        segment_s=first.embedder.config.audio.heard_s,
        index_id=first.index_id,
        num_tracks=len(one_of_each(config.index, config.index_splits)),
        query_ids={str(one.name): dataset_id(one.folder, one.conditions) for one in sets},
        rows=tuple(tuple(rows_of(one, config)) for one in measured),
        comparisons=tuple(comparisons(sets, config, *measured)) if len(measured) == 2 else (),
        shift=figure_4(first) if config.shift_tracks else None,
        compression=tuple(stored_smaller(*asked)) if config.compression else (),
        scale=tuple(larger_indexes(*asked)) if config.distractors else (),
    )


def figure_4(model: Model) -> ShiftCurve:
    """Returns the curve of the index's last split; kept by content, as all is."""
    config = model.config
    kept = (
        model.cache
        / "shift"
        / f"{model.embedder.weights_hash}-{model.index_id}-{config.shift_tracks}-{_VERSION}.json"
    )
    split = config.index_splits[-1]
    most = config.shift_tracks
    return shift_curve(
        model.embedder, config.index, split, most_tracks=most, kept=kept, console=model.console
    )


def stored_smaller(
    model: Model, sets: Sequence[QuerySet], measured: Measured, cache: pathlib.Path
) -> list[CompressionRow]:
    """Smaller fingerprints on the first set of the model's own length; kept by content as all
    is.
    """
    one, names, key = chosen_queries(model, sets, *DIMS)

    def measure() -> list[CompressionRow]:
        model.console.print(f"{model.embedder.name}: fewer dimensions and bits")
        return compression_rows(
            model.searched, {name: measured[one, name] for name in names}, hop_s=HOP_S
        )

    return (
        cached_rows(cache / "stored_precision" / f"{key}.json", CompressionRow, measure)
        if names
        else []
    )


def larger_indexes(
    model: Model, sets: Sequence[QuerySet], measured: Measured, cache: pathlib.Path
) -> list[ScaleRow]:
    """Hits and time against the size of the index, on the same queries; kept by content as all
    is.
    """
    sizes = model.config.distractors
    one, names, key = chosen_queries(model, sets, *sizes)

    def measure() -> list[ScaleRow]:
        model.console.print(f"{model.embedder.name}: larger indexes")
        return scale_rows(
            model.searched,
            {name: measured[one, name] for name in names},
            sizes,
            seed=model.config.seed,
        )

    return cached_rows(cache / "scale" / f"{key}.json", ScaleRow, measure) if names else []


def chosen_queries(
    model: Model, sets: Sequence[QuerySet], *settings: int
) -> tuple[QuerySet, list[str], str]:
    """Returns the set and the conditions that tables of few columns show, and a key for what is
    measured with them.
    """
    one = own_length(sets, model.embedder.config.audio.heard_s)
    config = model.config
    names = chosen_conditions(one.conditions)
    content = [
        model.embedder.weights_hash,
        model.index_id,
        dataset_id(one.folder, names),
        config.most_queries,
        config.seed,
        _VERSION,
    ]
    return one, names, hashlib.sha256(json.dumps([*content, *settings]).encode()).hexdigest()[:24]


def rows_of(measured: Measured, config: BenchmarkConfig) -> list[ConditionRow]:
    """Returns a row for each length and condition; the runs of several seeds are averaged."""
    runs: dict[tuple[float, str], list[Outcomes]] = {}
    for (queries, condition), one in measured.items():
        runs.setdefault((queries.length_s, condition), []).append(one)
    return [
        condition_row(
            condition, length_s, parts, num_bootstraps=config.num_bootstraps, seed=config.seed
        )
        for (length_s, condition), parts in runs.items()
    ]


def comparisons(
    sets: Sequence[QuerySet], config: BenchmarkConfig, first: Measured, second: Measured
) -> list[Comparison]:
    """Returns the paired tests of the first run of each length: runs share their tracks and are no
    independent trials.
    """
    firsts = {one.length_s: one for one in reversed(sets)}
    return [
        compare(
            name,
            length_s,
            first[one, name],
            second[one, name],
            num_bootstraps=config.num_bootstraps,
            seed=config.seed,
        )
        for length_s, one in sorted(firsts.items())
        for name in one.conditions
    ]


def real_recordings(
    model: Model, specs: Sequence[SystemSpec], sets: Sequence[QuerySet], cache: pathlib.Path
) -> tuple[list[RecordingRow], list[ListeningRow]]:
    """The model and every other system on the real recordings of `config.recordings`, and how soon
    the model answers; kept by content as all is.
    """
    config = model.config
    embedder = model.embedder
    console = model.console
    recordings = read_recordings(config.recordings)
    rate_hz = embedder.sample_rate_hz
    content = [answers_version(embedder), _VERSION, model.index_id, recordings_id(recordings)]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    others = model.searched.evaluation.reference

    @functools.cache
    def reference() -> Reference:
        return with_references(embedder, recordings, others, console)

    def measure() -> list[RecordingRow]:
        trials = measure_recordings(embedder, model.decision, recordings, reference(), console)
        return [of_length.row(embedder.name, RATES[0]) for of_length in trials]

    def listen() -> list[ListeningRow]:
        both, unknown = (
            ReferenceSearcher(searched, embedder, model.decision, false_alarm_rate=RATES[0])
            for searched in (reference(), others)
        )
        return measure_listening(both, unknown, recordings, console)

    rows = cached_rows(cache / "recordings" / f"{key}.json", RecordingRow, measure)
    listening = cached_rows(cache / "listening" / f"{key}.json", ListeningRow, listen)
    with tempfile.TemporaryDirectory() as scratch:
        run = system_run(config, own_length(sets, embedder.config.audio.heard_s), cache, scratch)
        for spec in (spec for spec in specs if spec.kind != OURS):
            console.print(f"{spec.name}: recordings")
            rows += measure_peer(spec, run, recordings, rate_hz=rate_hz)
    return rows, listening


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder for the results.", required=True)
    command_line.run(main, config_file="configs/benchmark.py")
