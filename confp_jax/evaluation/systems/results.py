"""Systems measured: the index's clips and every condition's queries as WAV files, and what each
system answered.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from confp_jax.data.clips import ClipSource
from confp_jax.data.duplicates import read_duplicates
from confp_jax.data.records import DatasetError
from confp_jax.evaluation.measure.indexed_dataset import IndexedClip, one_of_each
from confp_jax.evaluation.measure.query_sets import QuerySet, dataset_id, spread
from confp_jax.evaluation.measure.summary import Share
from confp_jax.evaluation.report.export import query_id, read_pexeso
from confp_jax.evaluation.systems.protocol import Answer, SystemFailedError
from confp_jax.evaluation.systems.registry import SystemSpec, system_version
from confp_jax.evaluation.systems.runner import (
    ConditionAnswers,
    IndexCost,
    SystemRunner,
    write_wav,
)
from confp_jax.files import write_atomically
from confp_jax.metrics import EXACT_S, NEAR_S, bootstrap_interval, wilson_interval


@dataclasses.dataclass(frozen=True)
class SystemRow:
    """A system on a condition. Without `track` it failed, and `trouble` says why."""

    system: str
    condition: str
    length_s: float
    num_queries: int = 0
    track: Share | None = None
    exact: float = 0.0
    near: float = 0.0
    track_top5: float = 0.0
    trouble: str = ""
    query_median_ms: float = 0.0
    query_p95_ms: float = 0.0
    query_peak_bytes: int = 0
    index_wall_s: float = 0.0
    index_peak_bytes: int = 0
    index_num_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Truth:
    """The truth about a query: its track, and where in its indexed clip the query begins.

    A system without an estimate of tempo reports the start of a window with the query's middle:
    `window_s` is as right.
    """

    track_id: int
    start_s: float
    window_s: float


@dataclasses.dataclass(frozen=True)
class SystemRun:
    """What is asked of every system: one query set against the clean clips of an index."""

    index: str
    index_splits: tuple[str, ...]
    queries: QuerySet
    most: int  # queries of a condition, evenly; 0: all
    wav_dir: pathlib.Path
    cache: pathlib.Path
    num_bootstraps: int
    seed: int

    @functools.cached_property
    def group_of(self) -> dict[int, int]:
        """Copies of a recording."""
        return read_duplicates(self.index)

    @functools.cached_property
    def index_files(self) -> list[pathlib.Path]:
        """The clean clips, named by track id; written when they are first needed."""
        folder = self.wav_dir / f"index-{dataset_id(self.index, self.index_splits)}"
        return [
            _written(folder / f"{group}.wav", source[record].samples, source.summary.sample_rate_hz)
            for group, source, record in self.indexed
        ]

    @functools.cached_property
    def indexed(self) -> list[IndexedClip]:
        """Returns what is searched: one of each recording."""
        return one_of_each(self.index, self.index_splits)

    def query_files(self, condition: str) -> list[pathlib.Path]:
        """Returns the queries of a condition, named by set, condition and row."""
        folder = (
            self.wav_dir / f"{self.queries.name}-{dataset_id(self.queries.folder, [condition])}"
        )
        source = ClipSource(self.queries.folder, condition)
        rate_hz = source.summary.sample_rate_hz
        return [
            _written(
                folder / f"{query_id(self.queries, condition, row)}.wav",
                source[row].samples,
                rate_hz,
            )
            for row in self.rows(condition)
        ]

    def rows(self, condition: str) -> list[int]:
        """Returns which queries are asked."""
        return spread(len(ClipSource(self.queries.folder, condition)), self.most)

    def truths(self, condition: str) -> list[Truth]:
        """Returns the truths in the order of the files. Excerpts are aligned with the original at
        their middles.
        """
        source = ClipSource(self.queries.folder, condition)
        out = []
        starts_s = {group: clips.row(record).start_s for group, clips, record in self.indexed}
        for row in map(source.row, self.rows(condition)):
            middle_s = row.num_samples / source.summary.sample_rate_hz / 2
            group = self.group_of.get(row.track_id, row.track_id)
            start_s = row.start_s - starts_s.get(group, 0.0)
            out.append(Truth(group, start_s + middle_s * (1 - row.tempo), start_s))
        return out


def measure_systems(
    specs: Sequence[SystemSpec], run: SystemRun, console: Console
) -> tuple[list[SystemRow], list[dict[str, object]]]:
    """Measures every system on every condition. A system that fails has rows that say so; one that
    hangs is not run again.

    Returns:
      A row for each system and condition, and a dictionary for each answer.
    """
    rows = []
    answers = []
    index_id = dataset_id(run.index, run.index_splits)
    for spec in specs:
        runner = SystemRunner.of(spec, run.cache, f"{index_id} {system_version(spec)}")
        try:
            console.print(f"{spec.name}: index")
            cost = runner.index(lambda: run.index_files)
        except SystemFailedError as error:
            console.print(f"[yellow]{error}[/yellow]", highlight=False)
            rows += [
                SystemRow(spec.name, name, run.queries.length_s, trouble=str(error))
                for name in run.queries.conditions
            ]
            continue
        hung = ""
        for name in run.queries.conditions:
            if hung:
                rows.append(
                    SystemRow(
                        spec.name,
                        name,
                        run.queries.length_s,
                        trouble=f"not run: it hung in {hung}",
                    )
                )
                continue
            console.print(f"{spec.name}: {name}")
            content = f"{dataset_id(run.queries.folder, [name])}-{run.most}"
            asked = runner.ask(name, content, functools.partial(run.query_files, name))
            if asked.failure:
                console.print(
                    f"[yellow]{spec.name}, {name}: {asked.failure}[/yellow]", highlight=False
                )
            hung = name if asked.hung else ""
            rows.append(system_row(spec.name, name, run, cost, asked))
            answers += answer_rows(spec.name, name, run, asked)
    return rows, answers


def answer_rows(
    system: str, condition: str, run: SystemRun, asked: ConditionAnswers
) -> list[dict[str, object]]:
    """Returns the first result of each query beside the truth; places are in the indexed clip, as
    the system was given it.
    """
    out: list[dict[str, object]] = []
    for row, answer, truth in zip(
        run.rows(condition), asked.answers, run.truths(condition), strict=not asked.failure
    ):
        first = answer.found[0] if answer.found else None
        out.append(
            {
                "system": system,
                "query_id": query_id(run.queries, condition, row),
                "condition": condition,
                "track_id": truth.track_id,
                "start_s": round(truth.start_s, 4),
                "found_track": first.track if first else "",
                "found_s": round(first.offset_s, 4)
                if first and math.isfinite(first.offset_s)
                else None,
                "score": first.score if first else None,
                "elapsed_ms": round(1000 * answer.elapsed_s, 2),
                "error": answer.error,
            }
        )
    return out


def imported_rows(name: str, path: pathlib.Path, run: SystemRun) -> list[SystemRow]:
    """Returns what another program matched, from its file in Pexeso's format; time and memory are
    not in it.

    Raises:
      DatasetError: it cannot be read, or none of its queries is one of these.
    """
    matched = read_pexeso(path)
    rows = []
    num_known = 0
    for condition in run.queries.conditions:
        names = [query_id(run.queries, condition, row) for row in run.rows(condition)]
        num_known += sum(one in matched for one in names)
        answers = tuple(Answer(tuple(matched.get(one, ())), 0.0) for one in names)
        rows.append(
            system_row(name, condition, run, IndexCost(0.0, 0, 0), ConditionAnswers(answers, 0))
        )
    if not num_known:
        raise DatasetError(
            f"{path}: none of its {len(matched)} query_ids is a query of {run.queries.folder}; "
            "they are the names of the files in wav_dir without their ending"
        )
    return rows


def system_row(
    system: str, condition: str, run: SystemRun, cost: IndexCost, asked: ConditionAnswers
) -> SystemRow:
    """Answers beside the truth."""
    if asked.failure:
        return SystemRow(system, condition, run.queries.length_s, trouble=asked.failure)
    truths = run.truths(condition)
    tracks = np.array([truth.track_id for truth in truths])
    first = np.array([_hit(a, t, k=1) for a, t in zip(asked.answers, truths, strict=True)])
    five = np.array([_hit(a, t, k=5) for a, t in zip(asked.answers, truths, strict=True)])
    right = ~np.isnan(first)
    mean = float(right.mean())
    times_ms = np.array([1000 * answer.elapsed_s for answer in asked.answers])
    interval = bootstrap_interval(right, tracks, num_bootstraps=run.num_bootstraps, seed=run.seed)
    errors = [answer.error for answer in asked.answers if answer.error]
    return SystemRow(
        system,
        condition,
        run.queries.length_s,
        len(truths),
        Share(mean, wilson_interval(mean, len(truths)), interval),
        float((first <= EXACT_S + 1e-6).mean()),
        float((first <= NEAR_S + 1e-6).mean()),
        float((~np.isnan(five)).mean()),
        f"{len(errors)} queries failed; first: {errors[0]}" if errors else "",
        round(float(np.median(times_ms)), 2),
        round(float(np.quantile(times_ms, 0.95)), 2),
        asked.peak_bytes,
        cost.wall_s,
        cost.peak_bytes,
        cost.num_bytes,
    )


def _hit(answer: Answer, truth: Truth, *, k: int) -> float:
    """Returns how far off the place is where the right track is among the first k, infinity where
    no place was given; NaN: it is not.
    """
    for found in answer.found[:k]:
        if found.track == str(truth.track_id):
            error_s = min(abs(found.offset_s - truth.start_s), abs(found.offset_s - truth.window_s))
            return float("inf") if np.isnan(error_s) else error_s
    return float("nan")


def _written(path: pathlib.Path, samples: np.ndarray, sample_rate_hz: int) -> pathlib.Path:
    return (
        path
        if path.is_file()
        else write_atomically(path, lambda file: write_wav(file, samples, sample_rate_hz))
    )
