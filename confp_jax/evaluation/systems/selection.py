"""Which systems take part in a benchmark, and what is asked of them."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence

from rich.console import Console

from confp_jax.evaluation.config import BenchmarkConfig
from confp_jax.evaluation.measure.query_sets import QuerySet, own_length
from confp_jax.evaluation.systems.external import CommandConfig
from confp_jax.evaluation.systems.registry import OURS, SYSTEMS, SystemSpec
from confp_jax.evaluation.systems.results import (
    SystemRow,
    SystemRun,
    imported_rows,
    measure_systems,
)
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.typed_config import ConfigError, suggestion


def system_specs(config: BenchmarkConfig) -> list[SystemSpec]:
    """Returns the systems by name; `command` is one more where it has a name.

    Raises:
      ConfigError: an unknown name, or a command that cannot work.
    """
    limits = config.index_limit_s, config.query_limit_s
    specs = []
    for name in config.systems:
        if name not in SYSTEMS:
            raise ConfigError(
                f"unknown system {name!r}{suggestion(name, SYSTEMS)}; any other program takes "
                "part as `command`"
            )
        specs.append(
            SystemSpec(
                name, name, config.checkpoint if name == OURS else "", CommandConfig(), *limits
            )
        )
    if OURS in config.systems and config.compare:
        specs.append(SystemSpec("compared", OURS, config.compare, CommandConfig(), *limits))
    if config.command.query:
        config.command.check()
        specs.append(SystemSpec(config.command.name, "command", "", config.command, *limits))
    return specs


def run_systems(
    specs: Sequence[SystemSpec],
    config: BenchmarkConfig,
    sets: Sequence[QuerySet],
    embedder: Embedder,
    cache: pathlib.Path,
    console: Console,
) -> tuple[list[SystemRow], list[dict[str, object]]]:
    """Measures every system on the first query set of the model's own length (one run, so that a
    night is enough).

    Args:
      specs: the systems.
      config: the conditions, the number of queries and the limits.
      sets: the query sets.
      embedder: the model of `ours`.
      cache: a folder that keeps what was measured.
      console: shows the progress.

    Returns:
      The rows of the tables, and every system's answers.
    """
    imported = matches_files(config)
    if not specs and not imported:
        return [], []
    with tempfile.TemporaryDirectory() as scratch:
        asked = system_run(config, own_length(sets, embedder.config.audio.heard_s), cache, scratch)
        rows, answers = measure_systems(specs, asked, console)
        for name, path in imported:
            rows += imported_rows(name, path, asked)
        return rows, answers


def system_run(
    config: BenchmarkConfig, queries: QuerySet, cache: pathlib.Path, scratch: str
) -> SystemRun:
    """Returns what is asked of every system."""
    names = tuple(
        name
        for name in queries.conditions
        if not config.system_conditions or name in config.system_conditions
    )
    return SystemRun(
        config.index,
        config.index_splits,
        dataclasses.replace(queries, conditions=names),
        config.system_queries,
        pathlib.Path(config.wav_dir or scratch),
        cache / "systems",
        config.num_bootstraps,
        config.seed,
    )


def matches_files(config: BenchmarkConfig) -> list[tuple[str, pathlib.Path]]:
    """Name and file of each of `matches`.

    Raises:
      ConfigError: one is not of the form NAME=FILE.
    """
    out = []
    for part in filter(None, config.matches.split(",")):
        name, _, path = part.partition("=")
        if not name.strip() or not path.strip():
            raise ConfigError(
                f"matches={config.matches!r} must be NAME=FILE.csv, with commas between several"
            )
        out.append((name.strip(), pathlib.Path(path.strip())))
    return out
