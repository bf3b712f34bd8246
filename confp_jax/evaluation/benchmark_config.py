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
    index_splits: tuple[str, ...] = ("training", "validation", "test")  # whose tracks are searched
    queries: str = ""
    conditions: tuple[str, ...] = ()
    most_queries: int = 0
    top_k: int = 5  # matches of a query that are counted
    systems: tuple[str, ...] = ()  # which take part
    system_conditions: tuple[str, ...] = ()  # which other systems are measured on; empty: all
    system_queries: int = 0  # of each condition, for other systems; 0: all
    command: CommandConfig = CommandConfig()
    matches: str = ""
    recordings: str = ""
    index_limit_s: float = 7200.0
    query_limit_s: float = 20.0
    wav_dir: str = ""
    cache: str = ""
    num_failures: int = 12
    shift_tracks: int = 50  # of the index's last split, for Figure 4; 0: no figure
    compression: bool = True
    distractors: tuple[int, ...] = ()  # sizes to fill the index up to with synthetic fingerprints
    num_bootstraps: int = 2000
    seed: int = 0  # of draws and bootstrap

    def __post_init__(self) -> None:
        if self.top_k < 5:
            raise ConfigError(f"top_k={self.top_k} is too few: the tables show top-5")
