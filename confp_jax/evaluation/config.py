"""What the commands of the evaluation measure: their settings."""

import dataclasses
import itertools

from confp_jax.evaluation.systems.external import CommandConfig
from confp_jax.fingerprint.embedder import SHORTEST_S
from confp_jax.typed_config import ConfigError


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What a benchmark measures (configs/benchmark.py)."""

    checkpoint: str = "edge2"  # a shipped model or a checkpoint folder
    compare: str = ""  # another one, to be tested against it on the same queries
    index: str = ""  # a dataset made by data_prep.make_train: its clean clips
    index_splits: tuple[str, ...] = ("training", "validation", "test")  # whose tracks are searched
    # sets made by data_prep.make_queries, or a folder of them, with commas between
    queries: str = ""
    conditions: tuple[str, ...] = ()  # empty: all of each set's
    most_queries: int = 0  # of each condition, evenly; 0: all
    top_k: int = 5  # matches of a query that are counted
    systems: tuple[str, ...] = ()  # which take part
    system_conditions: tuple[str, ...] = ()  # which other systems are measured on; empty: all
    system_queries: int = 0  # of each condition, for other systems; 0: all
    command: CommandConfig = CommandConfig()
    # NAME=FILE.csv, what another program matched to the files of wav_dir (Pexeso's format); with
    # commas
    matches: str = ""
    # a folder of real recordings with a recordings.csv (evaluation/measure/recordings.py)
    recordings: str = ""
    index_limit_s: float = 7200.0  # of a system
    query_limit_s: float = 20.0  # of a system, for each query on average
    wav_dir: str = ""  # a folder that keeps the WAV files that the systems are given
    cache: str = ""  # what was measured, by content; empty: OUT/cache
    num_failures: int = 12  # shown, worst first
    shift_tracks: int = 50  # of the index's last split, for Figure 4; 0: no figure
    # fewer dimensions and bits: bytes an hour of audio against hits
    compression: bool = True
    distractors: tuple[int, ...] = ()  # sizes to fill the index up to with synthetic fingerprints
    num_bootstraps: int = 2000  # over tracks: excerpts of one track are no independent trials
    seed: int = 0  # of draws and bootstrap

    def __post_init__(self) -> None:
        if self.top_k < 5:
            raise ConfigError(f"top_k={self.top_k} is too few: the tables show top-5")


@dataclasses.dataclass(frozen=True)
class OpenSetConfig:
    """What is measured of the verdict (configs/open_set.py)."""

    model: str = "edge2"  # a shipped model or a checkpoint folder
    index: str = ""  # a dataset made by data_prep.make_train: its clean clips
    index_splits: tuple[str, ...] = ("training", "validation", "test")  # whose tracks are searched
    # a folder that keeps the index's fingerprints for the next evaluation of the same model
    cache: str = ""
    # sets made by data_prep.make_queries, or a folder of them, with commas between
    queries: str = ""
    conditions: tuple[str, ...] = ()  # empty: all of each set's
    lengths_s: tuple[float, ...] = (0.0,)  # that excerpts are cut to; 0: the whole
    false_alarm_rate: float = 0.001  # that the threshold is set for
    num_bootstraps: int = 2000  # over tracks: excerpts of one track are no independent trials
    seed: int = 0  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """What a model's decision is calibrated on (configs/calibrate.py)."""

    model: str = "edge2"  # a shipped model or a checkpoint folder
    index: str = ""  # a dataset made by data_prep.make_train: its clean clips are the database
    index_splits: tuple[str, ...] = ("training", "validation", "test")  # whose tracks are searched
    most_tracks: int = 300  # of the index: the queries' own, then any
    # a folder that keeps the index's fingerprints for the next evaluation of the same model
    cache: str = ""
    queries: str = ""  # a query set made by data_prep.make_queries
    most_excerpts: int = 800  # drawn from all conditions alike
    # that excerpts are cut to; 9.9 s is one block of a long recording
    lengths_s: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 9.9)
    num_tracks: tuple[int, ...] = (1, 5, 15, 40)  # sizes of database, and all of `most_tracks`
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        lengths_s = self.lengths_s
        if (
            not lengths_s
            or lengths_s[0] < SHORTEST_S
            or any(a >= b for a, b in itertools.pairwise(lengths_s))
        ):
            raise ConfigError(f"lengths_s={lengths_s} must rise from at least {SHORTEST_S:g} s")
        if min(self.most_excerpts, *self.num_tracks, 1) < 1:
            raise ConfigError(
                f"most_excerpts={self.most_excerpts} and num_tracks={self.num_tracks} must be "
                "positive"
            )
