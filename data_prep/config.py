"""What a preparation run reads, draws and writes (configs/prepare.py, configs/queries.py)."""

import dataclasses

from confp_jax.data.records import SUBSETS
from confp_jax.data.replay import ReplayConfig
from confp_jax.data.telephone import TelephoneConfig
from confp_jax.typed_config import ConfigError, suggestion
from data_prep.tracks import ALL_SPLITS, SPLITS


@dataclasses.dataclass(frozen=True)
class Draw:
    """A transform that is applied with probability `p`, its one drawn value uniform in [low,
    high].
    """

    p: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1 or self.low > self.high:
            raise ConfigError(
                f"p={self.p}, low={self.low}, high={self.high}: p must lie in [0, 1] and low not "
                "be above high"
            )


@dataclasses.dataclass(frozen=True)
class Band:
    """Band limits, applied with probability `p`; each edge is uniform in its range."""

    p: float = 0.0
    low_hz: tuple[float, float] = (300.0, 300.0)
    high_hz: tuple[float, float] = (3400.0, 3400.0)

    def __post_init__(self) -> None:
        if not 0 < self.low_hz[0] <= self.low_hz[1] < self.high_hz[0] <= self.high_hz[1]:
            raise ConfigError(
                f"low_hz={self.low_hz}, high_hz={self.high_hz}: two rising ranges are needed, one "
                "above the other"
            )


@dataclasses.dataclass(frozen=True)
class ChainConfig:
    """The distortions of one replica, in the order in which sound meets them.

    docs/research/paper.md has the start values.
    """

    stretch: Draw = Draw()  # tempo, pitch kept: 0.7 to 1.3
    pitch: Draw = Draw()  # semitones, tempo kept
    replay_p: float = 0.0  # from a loudspeaker into a microphone (confp_jax/data/replay.py)
    replay: ReplayConfig = ReplayConfig()
    speaker: Band = Band()  # a small loudspeaker
    reverb_p: float = 0.0  # convolution with an impulse response
    background: Draw = Draw()  # signal-to-noise ratio in dB of a recorded noise
    varying: Draw = (
        Draw()
    )  # signal-to-noise ratio in dB of recorded noises that take turns at changing levels
    overlay: Draw = Draw()  # signal-to-noise ratio in dB of other music
    speech: Draw = Draw()  # signal-to-noise ratio in dB of someone who speaks
    coloured: Draw = Draw()  # signal-to-noise ratio in dB of coloured noise
    coloured_decay_db: tuple[float, float] = (-6.0, 6.0)  # per octave
    gain: Draw = Draw()  # dB
    tanh: Draw = Draw()  # amount of distortion, 0 to 1
    clipping: Draw = Draw()  # per cent of the samples that are clipped, whole numbers
    polarity_p: float = 0.0  # probability of inverted polarity
    telephone: Band = Band()
    call_p: float = 0.0  # over a telephone network (confp_jax/data/telephone.py)
    call: TelephoneConfig = TelephoneConfig()
    resample: Draw = Draw()  # Hz: to this rate and back
    mp3: Draw = Draw()  # kbit/s, and so the two that follow
    opus: Draw = Draw()
    aac: Draw = Draw()


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """One run of make_train."""

    name: str = "fma"  # of the dataset
    music_dir: str = ""  # FMA's NNN/NNNNNN.mp3 tree, or any folder of audio
    tracks_csv: str = (
        ""  # FMA's tracks.csv; empty: music_dir is any folder, split by a hash of the content
    )
    subset: str = ""  # small < medium < large < full, nested; empty: large
    allow_missing: bool = False  # whether more than a tenth of tracks_csv's files may be missing
    splits: tuple[str, ...] = SPLITS  # which are prepared
    noise_dir: str = ""  # ESC-50, MS-SNSD or a folder with train/ and test/; several: "a,b"
    ir_dir: str = ""  # the MIT IR Survey or a folder with train/ and test/
    out: str = ""  # the folder to write
    # of every track, beside the clean clip; 0: everything is drawn while training (data.mix)
    num_replicas: int = 4
    seed: int = 0  # of every draw
    sample_rate_hz: int = 16_000  # of what is written
    min_clip_s: float = 6.0  # shorter tracks are skipped, and said so
    max_clip_s: float = 600.0  # longer tracks are cut to their middle
    tracks_per_shard: int = 16  # of one file
    num_workers: int = 0  # processes; 0: one for each core
    chain: ChainConfig = ChainConfig()

    def __post_init__(self) -> None:
        _check_subset(self)
        if unknown := set(self.splits) - set(SPLITS):
            raise ConfigError(
                f"splits={self.splits}: {sorted(unknown)[0]!r}, expected any of {', '.join(SPLITS)}"
            )
        for name, least in (("num_replicas", 0), ("tracks_per_shard", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        if not 0 < self.min_clip_s <= self.max_clip_s:
            raise ConfigError(
                f"min_clip_s={self.min_clip_s} must be positive and at most "
                f"max_clip_s={self.max_clip_s}"
            )


@dataclasses.dataclass(frozen=True)
class QueryConfig:
    """One run of make_queries: every condition becomes a split of the query set."""

    name: str = "queries"  # of the query set
    music_dir: str = ""  # as in PrepareConfig
    tracks_csv: str = ""  # as in PrepareConfig
    subset: str = ""  # as in PrepareConfig
    allow_missing: bool = False  # as in PrepareConfig
    split: str = "test"  # whose tracks are asked for
    noise_dir: str = ""  # as in PrepareConfig
    ir_dir: str = ""  # as in PrepareConfig
    speech_dir: str = ""  # recordings of people who speak, for the conditions of speech
    out: str = ""  # the folder to write
    seed: int = 0  # of every draw
    sample_rate_hz: int = 16_000  # of what is written
    segment_s: float = 3.0  # of an excerpt; paper
    lengths_s: tuple[
        float, ...
    ] = ()  # several lengths at once, each a query set in a folder of its own
    seeds: tuple[int, ...] = ()  # and so several seeds; the paper's mean is of 5 runs
    index_hop_s: float = 0.3  # shifted queries start beside this grid; paper
    excerpts_per_track: int = 5  # evenly spaced; paper
    max_clip_s: float = (
        600.0  # of longer tracks the middle is asked for, which is what the index holds
    )
    tracks_per_shard: int = 100  # of one file
    num_workers: int = 0  # processes; 0: one for each core
    conditions: tuple[str, ...] = ()  # empty: all of data_prep.make_queries.CONDITIONS

    def __post_init__(self) -> None:
        _check_subset(self)
        if self.split not in (*SPLITS, ALL_SPLITS):
            raise ConfigError(
                f"split={self.split!r} is no split{suggestion(self.split, (*SPLITS, ALL_SPLITS))}"
            )
        for name, least in (
            ("excerpts_per_track", 1),
            ("tracks_per_shard", 1),
            ("num_workers", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.segment_s <= 0 or self.index_hop_s <= 0:
            raise ConfigError(
                f"segment_s={self.segment_s} and index_hop_s={self.index_hop_s} must be positive"
            )


def _check_subset(config: PrepareConfig | QueryConfig) -> None:
    if config.subset and config.subset not in SUBSETS:
        raise ConfigError(
            f"subset={config.subset!r} is not one of FMA's{suggestion(config.subset, SUBSETS)}"
        )
