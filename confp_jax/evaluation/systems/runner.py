"""Runs systems: the same WAV files to each, its index once, every condition by itself, all bounded
and kept.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
import tempfile
import wave
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from jaxtyping import Int16

from confp_jax.evaluation.measure.cache import read_cached, write_json
from confp_jax.evaluation.systems.bounded import Grows, run_bounded
from confp_jax.evaluation.systems.protocol import Answer, Found, SystemFailedError
from confp_jax.evaluation.systems.registry import SystemSpec

_START_S = 120.0  # of a worker, on a busy machine


@dataclasses.dataclass(frozen=True)
class IndexCost:
    """What making an index took; `num_bytes` is what lies on the disk."""

    wall_s: float
    peak_bytes: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class ConditionAnswers:
    """A system's answers to the queries of a condition, in their order; or why there are none."""

    answers: tuple[Answer, ...]
    peak_bytes: int
    failure: str = ""
    hung: bool = False  # it was ended because no more answers came


@dataclasses.dataclass(frozen=True)
class SystemRunner:
    """A system with the folder of its index, which is named by what went in: it is made once."""

    spec: SystemSpec
    folder: pathlib.Path

    @classmethod
    def of(cls, spec: SystemSpec, cache: pathlib.Path, content: str) -> "SystemRunner":
        """`content` names what is indexed, and the version of the system."""
        settings = json.dumps(dataclasses.asdict(spec), sort_keys=True)
        key = hashlib.sha256(f"{settings} {content}".encode()).hexdigest()[:16]
        return cls(spec, cache / f"{spec.name}-{key}")

    def index(self, files: Callable[[], Sequence[pathlib.Path]]) -> IndexCost:
        """Makes the index, or returns what it took when it was made.

        Raises:
          SystemFailedError: not installed, crashed, or beyond its limit.
        """
        made = self.folder / "index.json"
        before = read_cached(made, lambda file: IndexCost(**json.loads(file.read_text())))
        if before is not None:
            return before
        shutil.rmtree(self.folder, ignore_errors=True)
        own = self.folder / "index"
        own.mkdir(parents=True)
        ran = _work(self.spec, "index", own, files(), limit_s=_START_S + self.spec.index_limit_s)
        if ran.trouble:
            raise SystemFailedError(
                f"{self.spec.name}, making the index: {_reason(ran.trouble, ran.stderr)}"
            )
        num_bytes = sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
        cost = IndexCost(round(ran.wall_s, 3), ran.peak_bytes, num_bytes)
        write_json(made, dataclasses.asdict(cost))
        return cost

    def ask(
        self, name: str, content: str, files: Callable[[], Sequence[pathlib.Path]]
    ) -> ConditionAnswers:
        """Returns the answers to a condition; kept, unless it failed."""
        kept = self.folder / f"{name}-{content}.json"
        before = read_cached(kept, lambda file: _from_json(json.loads(file.read_text())))
        if before is not None:
            return before
        queries = files()
        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch) / "answers.jsonl"
            limit_s = _START_S + self.spec.query_limit_s * len(queries)
            ran = _work(
                self.spec, "query", self.folder / "index", queries, limit_s=limit_s, answers=out
            )
            lines = out.read_text().splitlines() if out.is_file() else []
        if ran.trouble:
            done = f"after {len(lines)} of {len(queries)} queries"
            return ConditionAnswers(
                (),
                ran.peak_bytes,
                f"{done}: {_reason(ran.trouble, ran.stderr)}",
                ran.status is None,
            )
        values = {"answers": [json.loads(line) for line in lines], "peak_bytes": ran.peak_bytes}
        write_json(kept, values)
        return _from_json(values)


def write_wav(file: str | BinaryIO, samples: Int16[np.ndarray, " n"], sample_rate_hz: int) -> None:
    """16-bit PCM, mono."""
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate_hz)
        out.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())


def _work(
    spec: SystemSpec,
    step: str,
    folder: pathlib.Path,
    files: Sequence[pathlib.Path],
    *,
    limit_s: float,
    answers=None,
):
    with tempfile.TemporaryDirectory() as scratch:
        job = pathlib.Path(scratch) / "job.json"
        values = {
            "system": dataclasses.asdict(spec),
            "step": step,
            "folder": str(folder.resolve()),
            "answers": str(answers),
        }
        job.write_text(json.dumps(values | {"files": [str(file.resolve()) for file in files]}))
        silent_s = _START_S + spec.query_limit_s
        return run_bounded(
            [sys.executable, "-m", "confp_jax.evaluation.systems.worker", str(job)],
            limit_s=limit_s,
            grows=Grows(answers, silent_s) if answers else None,
        )


def _reason(trouble: str, stderr: str) -> str:
    """Returns the worker's own words where it ended with a reason; else how it ended."""
    lines = stderr.strip().splitlines()
    return lines[-1] if lines and trouble.startswith("it ended with status 3") else trouble


def _from_json(values: Mapping) -> ConditionAnswers:
    answers = tuple(
        Answer(tuple(Found(**found) for found in one["found"]), one["elapsed_s"], one["error"])
        for one in values["answers"]
    )
    return ConditionAnswers(answers, values["peak_bytes"])
