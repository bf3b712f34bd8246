"""Frozen configuration. `ml_collections.ConfigDict` stops at the command line; everything else
receives these.
"""

import dataclasses
import json
from typing import Any, Literal, NamedTuple, Self

from confp_jax.typed_config import ConfigError, from_mapping


def _positive(config: Any, group: str, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ConfigError(
                f"{group}{'.' if group else ''}{name}={getattr(config, name)} must be positive"
            )


@dataclasses.dataclass(frozen=True)
class AudioConfig:
    """What one fingerprint sees (paper, Table 1)."""

    sample_rate_hz: int = 16_000  # audio is resampled to this; paper
    segment_s: float = 3.0  # of audio in one fingerprint; paper
    context_s: float = 0.0  # what the conformer hears, around the segment's middle; 0: the segment

    def __post_init__(self) -> None:
        if self.context_s and self.context_s < self.segment_s:
            raise ConfigError(
                f"audio.context_s={self.context_s} must be 0, or at least "
                f"audio.segment_s={self.segment_s}"
            )

    @property
    def segment_samples(self) -> int:
        """Samples in one segment: 48,000 for the paper's 3 s."""
        return round(self.segment_s * self.sample_rate_hz)

    @property
    def heard_s(self) -> float:
        """What one fingerprint depends on most: the usual length of a query."""
        return self.context_s or self.segment_s

    @property
    def context_samples(self) -> int:
        """Samples that the conformer hears of, or around, one segment."""
        return round(self.heard_s * self.sample_rate_hz)


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """The stabilized log-mel spectrogram (paper, Table 1; scale and range are ours, see
    docs/research/paper.md).
    """

    fft_samples: int = 1024  # of one frame
    hop_samples: int = 128  # between frames
    num_mels: int = 80  # bands of one frame
    fmin_hz: float = 50.0  # of the lowest band
    fmax_hz: float = 8_000.0  # of the highest band
    scale: Literal["slaney", "htk"] = "slaney"  # of the bands' frequencies
    floor: float = (
        1e-6  # added to the power, relative to the window's mean power, before the logarithm
    )

    def __post_init__(self) -> None:
        _positive(self, "mel", "fft_samples", "hop_samples", "num_mels", "floor")

    def num_frames(self, num_samples: int) -> int:
        """Frames that lie wholly inside `num_samples`: 368 for 3 s."""
        return 1 + (num_samples - self.fft_samples) // self.hop_samples


@dataclasses.dataclass(frozen=True)
class ContrastConfig:
    """Local contrast: how far each point of a log-mel stands out from the box around it, and peaks
    stressed.
    """

    box_frames: int = 15  # 0.45 s
    box_mels: int = 13  # bands of the box, the point in its middle
    least_variance: float = 0.1  # of the logarithms in a box: flatter boxes are not magnified
    sharpness: float = 0.85  # the feature is exp(sharpness * contrast)
    highest: float = 3.0  # contrast counts up to here, in standard deviations of the box

    def __post_init__(self) -> None:
        _positive(self, "encoder.projection.contrast", *vars(self))
        if self.box_frames % 2 == 0 or self.box_mels % 2 == 0:
            raise ConfigError(
                "encoder.projection.contrast.box_frames and box_mels must be odd: a box has a "
                "middle"
            )


@dataclasses.dataclass(frozen=True)
class ProjectionConfig:
    """The linear part of an encoder: local contrast of one segment times one matrix
    (`training/fit_projection.py`).
    """

    # of a stored fingerprint's squared length; 0: there is no projection, 1: there is no conformer
    share: float = 0.0
    query_share: float = 0.96  # of a query's, which is searched by the conformer alone as well
    mel: MelConfig = MelConfig(
        fft_samples=2048, hop_samples=480, num_mels=128, fmin_hz=300.0, fmax_hz=6500.0
    )
    contrast: ContrastConfig = ContrastConfig()
    num_frames: int = 30  # centred on the segment's hops, so that they reach half an FFT beyond it
    query_phases: int = 4  # a query's segments begin so many times as densely as stored ones

    def __post_init__(self) -> None:
        _positive(self, "encoder.projection", "num_frames", "query_phases")
        if not 0 <= self.share <= 1 or not 0 <= self.query_share <= 1:
            raise ConfigError(
                f"encoder.projection.share={self.share} and query_share={self.query_share} must "
                "lie in [0, 1]"
            )


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The encoder: the paper's conformer (Table 1), a projection, or the sum of both.

    `frames_per_token` and `pool_segments` of 1, and no projection, are the paper's.
    """

    dim: int = 256  # width of every layer
    num_layers: int = 2  # conformer blocks
    num_heads: int = 4  # of the attention; they divide dim
    conv_kernel: int = 5  # tokens that the depthwise convolution sees; odd
    embedding_dim: int = 128  # values of the conformer's fingerprint
    dropout: float = 0.5  # probability, while training
    frames_per_token: int = 1  # mel frames stacked into one token
    pool_segments: int = 1  # overlapping parts of the window that are averaged apart
    conv_norm: Literal["batch", "layer"] = (
        "batch"  # in the convolution module; batch is the paper's
    )
    projection: ProjectionConfig = ProjectionConfig()

    @property
    def has_projection(self) -> bool:
        """Whether there is a linear part."""
        return self.projection.share > 0

    @property
    def has_conformer(self) -> bool:
        """Whether there is a conformer."""
        return self.projection.share < 1

    def __post_init__(self) -> None:
        counts = (
            "dim",
            "num_layers",
            "num_heads",
            "conv_kernel",
            "embedding_dim",
            "frames_per_token",
            "pool_segments",
        )
        _positive(self, "encoder", *counts)
        if self.dim % self.num_heads:
            raise ConfigError(
                f"encoder.dim={self.dim} does not divide into num_heads={self.num_heads} heads"
            )
        if self.conv_kernel % 2 == 0:
            raise ConfigError(
                f"encoder.conv_kernel={self.conv_kernel} must be odd, so that a frame keeps its "
                "place"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"encoder.dropout={self.dropout} must lie in [0, 1)")


@dataclasses.dataclass(frozen=True)
class SpecAugmentConfig:
    """Masks on the log-mel of the replica; the anchor gets `anchor_fraction` of their widths."""

    num_frequency_masks: int = 2  # masked ranges of bands
    max_mels: int = 10  # width of one of them, at most
    num_time_masks: int = 2  # masked ranges of frames
    max_frames: int = 40  # width of one of them, at most
    anchor_fraction: float = 0.5  # widths of the anchor's masks, of the replica's


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam (0.9, 0.999, 1e-8).

    `decoupled=False` adds L2 to the gradient as the paper does, True is AdamW.
    """

    kind: Literal["adam", "lamb", "lars"] = (
        "adam"  # lamb, lars: for batches of thousands, the step scaled by each layer's norm
    )
    learning_rate: float = 1e-4  # after the warm-up
    schedule: Literal["constant", "cosine"] = "constant"  # constant, or falling to final_fraction
    warmup_steps: int = 0  # steps in which the learning rate rises from 0
    final_fraction: float = 0.02  # of learning_rate, where the cosine ends
    weight_decay: float = 5e-4  # L2 in the gradient, or decoupled
    decoupled: bool = False  # False: L2 in the gradient, as the paper; True: AdamW
    clip_norm: float = 0.0  # of the gradient; 0 switches clipping off
    average_decay: float = (
        0.0  # of the moving average of the weights that is validated and shipped; 0 is no average
    )


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """What `data/mixing.py` draws anew for every replica, on top of the stored ones; probabilities
    of 0 switch it off.
    """

    clean_p: float = 0.0  # start from the clean clip instead of a stored replica
    tempo_p: float = 0.0  # probability of another tempo
    tempo: tuple[float, float] = (0.7, 1.35)  # playback rate, log-uniform
    turntable: float = 0.3  # share of these whose pitch follows the tempo
    pitch_p: float = 0.0  # probability of another pitch
    pitch_semitones: tuple[float, float] = (-2.0, 2.0)  # its change
    room_p: float = 0.0  # probability of a room
    synthetic_rooms: float = 0.5  # share of the rooms; the others are measured
    room_speed: tuple[float, float] = (
        1.0,
        1.0,
    )  # a measured room played faster is a smaller one; log-uniform
    room_decay_db: tuple[float, float] = (
        0.0,
        0.0,
    )  # by which a measured room decays more in a second
    lead_s: float = 1.0  # of music before the window, whose tail reaches into it
    sudden_p: float = 0.5  # share of the rooms in which the music begins with the window
    noise_p: float = 0.0  # probability of a recorded noise
    second_noise_p: float = 0.0  # probability of another one, where there is one
    noise_snr_db: tuple[float, float] = (-4.0, 20.0)  # signal to noise
    coloured_p: float = 0.0  # probability of coloured noise
    coloured_snr_db: tuple[float, float] = (-3.0, 20.0)  # signal to noise
    coloured_decay_db: tuple[float, float] = (-6.0, 6.0)  # per octave
    tanh_p: float = 0.0  # probability of overload
    tanh_drive: tuple[float, float] = (0.5, 4.0)  # amplitude in units of the RMS before tanh
    colour_p: float = 0.0  # probability of a tilt with band limits
    tilt_db: tuple[float, float] = (-4.0, 4.0)  # per octave
    low_cut_hz: tuple[float, float] = (50.0, 500.0)  # lower band limit
    high_cut_hz: tuple[float, float] = (2500.0, 8000.0)  # upper band limit

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                if not value[0] <= value[1]:
                    raise ConfigError(
                        f"data.mix.{name}={value} must rise, from the least to the most"
                    )
            elif name != "lead_s" and not 0 <= value <= 1:
                raise ConfigError(f"data.mix.{name}={value} must lie in [0, 1]")
        if self.lead_s < 0 or self.tempo[0] <= 0 or self.room_speed[0] <= 0:
            raise ConfigError(
                "data.mix.lead_s must not be negative, tempo and room_speed must be positive"
            )

    @property
    def is_on(self) -> bool:
        """Whether anything is drawn at all."""
        probabilities = (
            self.tempo_p,
            self.pitch_p,
            self.room_p,
            self.noise_p,
            self.coloured_p,
            self.tanh_p,
            self.colour_p,
        )
        return any(probabilities)

    @property
    def warps_mel(self) -> bool:
        """Whether mel power is what is changed, by a shifted filterbank or with a colour."""
        return bool(self.tempo_p or self.pitch_p or self.colour_p)

    def lead_samples(self, sample_rate_hz: int) -> int:
        """Samples before a window that its replica is made of: none without rooms."""
        return round(self.lead_s * sample_rate_hz) if self.room_p else 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which shards, and how a pair is cut from them."""

    dir: str = ""  # the prepared dataset: the folder that holds dataset_info.json
    split: str = "training"  # the split that is trained on
    batch_size: int = 64  # pairs
    crops_per_track: int = (
        1  # 2 and more: neighbours of one track become each other's hard negatives
    )
    crop_spacing_s: tuple[float, float] = (0.3, 3.75)  # distance of such neighbours
    tracks_per_album: int = (
        1  # 2 and more: so many of an album stand together in a batch, hard negatives as well
    )
    # of the shards, even in every batch: hosts whose number divides it need only their own on their
    # disk
    num_shares: int = 1
    shift_alpha: float = 8.0  # time shift of the replica: Beta(8, 2) x 150 ms, either way
    shift_beta: float = 2.0  # the second parameter of that distribution
    max_shift_s: float = 0.15  # the largest time shift
    short_p: float = (
        0.0  # share of the replicas that show only a part, so that shorter queries work
    )
    short_s: tuple[float, float] = (1.0, 2.75)  # of so many seconds
    residency: Literal["host", "device"] = (
        "host"  # device: all audio is loaded there once, the host draws only where to cut
    )
    mel_on: Literal["host", "device"] = (
        "device"  # host: scipy's FFT in the input pipeline, 4x faster on a CPU
    )
    num_workers: int = 0  # Grain worker processes; 0 reads on threads of this process
    mix: MixConfig = MixConfig()

    def __post_init__(self) -> None:
        _positive(self, "data", "batch_size", "crops_per_track", "tracks_per_album", "num_shares")
        if self.num_shares > 1 and self.tracks_per_album > 1:
            raise ConfigError(
                "data.tracks_per_album=2 and more needs all shards on every host: set "
                "data.num_shares=1"
            )
        if self.residency == "device" and self.mel_on == "host":
            raise ConfigError(
                "data.residency=device keeps the audio where mel power is made: set "
                "data.mel_on=device"
            )
        if self.mix.warps_mel and self.mel_on != "host" and self.residency != "device":
            raise ConfigError(
                "data.mix.tempo_p, pitch_p and colour_p work on mel power: set data.mel_on=host, "
                "data.residency=device, or them to 0"
            )

    def check_divides(self, batch_size: int) -> None:
        """Whether a batch of so many pairs can be made of this data.

        Raises:
          ConfigError: it is no multiple of what comes from one track, or from the shares.
        """
        num_tracks, rest = divmod(batch_size, self.crops_per_track)
        if rest:
            raise ConfigError(
                f"data.batch_size={batch_size} (or that of a phase) is no multiple of "
                f"data.crops_per_track={self.crops_per_track}"
            )
        if num_tracks % self.num_shares:
            raise ConfigError(
                f"a batch of {num_tracks} tracks does not divide into "
                f"data.num_shares={self.num_shares}; set data.batch_size to a multiple, "
                "in phases as well"
            )


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Retrieval on held-out tracks: distorted excerpts against an index of clean windows."""

    split: str = "validation"  # the split whose tracks are held out
    every_steps: int = 1000  # 0 switches it off
    queries_per_track: int = 5  # distorted excerpts of each track
    index_hop_s: float = 0.6  # between the clean windows that are searched
    max_track_s: float = 30.0  # of every track, its middle: the index stays small


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and how many to keep."""

    every_steps: int = 500  # steps between checkpoints
    num_kept: int = 3  # the newest ones; older ones are deleted


class Phase(NamedTuple):
    """A stretch of training with its own learning rate and batch (docs/research/paper.md)."""

    num_epochs: int
    learning_rate: float
    batch_size: int  # pairs


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run, complete: the JSON of this travels inside every checkpoint."""

    name: str = "small"  # of the model
    seed: int = 0  # of weights, order, crops and distortion; continue on the same data with another
    num_epochs: int = 100  # each draws one crop of every track
    temperature: float = 0.07  # of NT-Xent
    init_from: str = (
        ""  # a shipped model or checkpoint folder: a new run begins with its encoder (fine-tuning)
    )
    # a shipped model or checkpoint folder, whose fingerprints are learned beside NT-Xent
    # (distillation)
    teacher: str = ""
    freeze_statistics: bool = (
        False  # BatchNorm normalises by the statistics of init_from, and leaves them as they are
    )
    log_every_steps: int = 20  # steps between lines of the log
    phases: tuple[
        tuple[int, float, int], ...
    ] = ()  # (epochs, learning rate, pairs a batch); empty: one, of the fields for these
    # parts that a batch is encoded in, for its gradient to fit a small device; the loss sees them
    # together
    microbatches: int = 1
    rematerialise: bool = (
        False  # compute each block again in the backward pass instead of keeping it
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # of the encoder while training; auto: bfloat16 but on CPUs
    )
    audio: AudioConfig = AudioConfig()
    mel: MelConfig = MelConfig()
    encoder: EncoderConfig = EncoderConfig()
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed={self.seed} must lie in [0, {2**31})")
        if self.temperature <= 0:
            raise ConfigError(
                f"temperature={self.temperature} must be positive; the paper uses 0.05 to 0.07"
            )
        _positive(self, "", "num_epochs", "log_every_steps", "microbatches")
        for phase in self.phases:
            if min(phase) <= 0:
                raise ConfigError(
                    f"phases holds {phase}; each is (epochs, learning rate, pairs a batch), all "
                    "positive"
                )
        _positive(self.checkpoint, "checkpoint", "every_steps", "num_kept")
        _positive(self.validation, "validation", "queries_per_track", "index_hop_s", "max_track_s")
        if not 0 <= self.optimizer.average_decay < 1:
            raise ConfigError(
                f"optimizer.average_decay={self.optimizer.average_decay} must lie in [0, 1); 0.998 "
                "is usual"
            )
        if self.freeze_statistics and (self.encoder.conv_norm != "batch" or not self.init_from):
            raise ConfigError(
                "freeze_statistics=True keeps the BatchNorm statistics of an encoder: set "
                "init_from to one that has them and encoder.conv_norm=batch, or "
                "freeze_statistics=False"
            )
        low_hz, high_hz, most_hz = self.mel.fmin_hz, self.mel.fmax_hz, self.audio.sample_rate_hz / 2
        if not 0 <= low_hz < high_hz <= most_hz:
            raise ConfigError(
                f"mel.fmin_hz={low_hz} and mel.fmax_hz={high_hz} must rise from 0 to {most_hz:g}, "
                "half the rate"
            )
        tokens = self.mel.num_frames(self.audio.segment_samples) // self.encoder.frames_per_token
        if tokens < self.encoder.pool_segments:
            raise ConfigError(
                f"audio.segment_s={self.audio.segment_s} is too short: it holds {max(tokens, 0)} "
                "tokens"
            )
        shortest_s, longest_s = self.data.short_s
        if not 0 <= self.data.short_p <= 1:
            raise ConfigError(f"data.short_p={self.data.short_p} must lie in [0, 1]; 0.3 is usual")
        if self.data.short_p and not 0.1 <= shortest_s <= longest_s <= self.audio.segment_s:
            raise ConfigError(
                f"data.short_s={self.data.short_s} must rise from at least 0.1 to audio.segment_s "
                "at most"
            )
        for phase in self.all_phases:
            self.data.check_divides(phase.batch_size)
            if 2 * phase.batch_size % self.microbatches:
                raise ConfigError(
                    f"a batch of {phase.batch_size} pairs does not divide into "
                    f"microbatches={self.microbatches}"
                )

    @property
    def query_phases(self) -> int:
        """How many times as densely as stored fingerprints those of a query lie."""
        return self.encoder.projection.query_phases if self.encoder.has_projection else 1

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """`phases`, or the one that `num_epochs`, `optimizer.learning_rate` and `data.batch_size`
        make.
        """
        if self.phases:
            return tuple(Phase(*phase) for phase in self.phases)
        return (Phase(self.num_epochs, self.optimizer.learning_rate, self.data.batch_size),)

    def to_json(self) -> str:
        """A string that `from_json` reads back to an equal object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`.

        Raises:
          ConfigError: the text holds a field this version does not know, or of another type.
        """
        return from_mapping(cls, json.loads(text))
