"""Query sets of real clips and settings for benchmarks of them, for the tests of the evaluation."""

import pathlib

from rich.console import Console

from configs.benchmark import get_config as benchmark_config
from configs.queries import get_config as query_config
from confp_jax.evaluation.benchmark import BenchmarkConfig
from confp_jax.typed_config import from_mapping
from data_prep.config import QueryConfig
from data_prep.make_queries import make_queries, query_sets

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
NAMES = ("clean", "shift_40", "stretch_85", "background_5db")


def make_set(music_dir, out, **overrides):
    values = query_config("all").to_dict() | {
        "music_dir": str(music_dir),
        "noise_dir": str(EXAMPLES / "noise"),
        "ir_dir": str(EXAMPLES / "ir"),
        "out": str(out),
        "excerpts_per_track": 2,
        "num_workers": 1,
        "conditions": NAMES,
    }
    for config in query_sets(from_mapping(QueryConfig, values | overrides)):
        make_queries(config, Console(quiet=True))
    return pathlib.Path(out)


def config_of(model, prepared, queries, **overrides):
    values = benchmark_config("quick").to_dict() | {
        "checkpoint": str(model),
        "index": str(prepared),
        "queries": str(queries),
    }
    values |= {
        "index_splits": ("training", "validation", "test"),
        "conditions": (),
        "most_queries": 0,
        "systems": (),
    }
    values |= {
        "num_failures": 2,
        "shift_tracks": 1,
        "num_bootstraps": 200,
        "compression": True,
        "system_conditions": (),
    }
    return from_mapping(BenchmarkConfig, values | overrides)
