"""What a benchmark measures."""

import dataclasses

from confp_jax.evaluation.systems.external import CommandConfig
from confp_jax.typed_config import ConfigError


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The frozen form of configs/benchmark.py."""

    checkpoint: str = "edge2"
    compare: str = ""
    index: str = ""
    index_splits: tuple[str, ...] = ("training", "validation", "test")
    queries: str = ""
    conditions: tuple[str, ...] = ()
    most_queries: int = 0
    top_k: int = 5
    systems: tuple[str, ...] = ()
    system_conditions: tuple[str, ...] = ()
    system_queries: int = 0
    command: CommandConfig = CommandConfig()
    matches: str = ""
    recordings: str = ""
    index_limit_s: float = 7200.0
    query_limit_s: float = 20.0
    wav_dir: str = ""
    cache: str = ""
    num_failures: int = 12
    shift_tracks: int = 50
    compression: bool = True
    distractors: tuple[int, ...] = ()
    num_bootstraps: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 5:
            raise ConfigError(f"top_k={self.top_k} is too few: the tables show top-5")
