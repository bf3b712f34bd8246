"""One training run: optimizer, validation, checkpoints, phases."""

import dataclasses
import json
from typing import Literal, NamedTuple, Self

from confp_jax.config.checks import check_positive
from confp_jax.config.data import DataConfig
from confp_jax.config.model import AudioConfig, EncoderConfig, MelConfig, ModelConfig
from confp_jax.texts import parse_json
from confp_jax.typed_config import ConfigError, from_mapping


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
    learning_rate: float = 1e-4  # after the warm-up; paper: 1e-4 (small), 2e-4
    schedule: Literal["constant", "cosine"] = "constant"  # constant, or falling to final_fraction
    warmup_steps: int = 0  # steps in which the learning rate rises from 0
    final_fraction: float = 0.02  # of learning_rate, where the cosine ends
    weight_decay: float = 5e-4  # L2 in the gradient, or decoupled; paper
    decoupled: bool = False  # False: L2 in the gradient, as the paper; True: AdamW
    clip_norm: float = 0.0  # of the gradient; 0 switches clipping off
    average_decay: float = (
        0.0  # of the moving average of the weights that is validated and shipped; 0 is no average
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
    num_epochs: int = 100  # each draws one crop of every track; paper
    temperature: float = 0.07  # of NT-Xent; paper: 0.07 (small), 0.05
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
        _ = self.model  # which checks itself
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed={self.seed} must lie in [0, {2**31})")
        if self.temperature <= 0:
            raise ConfigError(
                f"temperature={self.temperature} must be positive; the paper uses 0.05 to 0.07"
            )
        check_positive(self, "", "num_epochs", "log_every_steps", "microbatches")
        for phase in self.phases:
            if min(phase) <= 0:
                raise ConfigError(
                    f"phases holds {phase}; each is (epochs, learning rate, pairs a batch), all "
                    "positive"
                )
        check_positive(self.checkpoint, "checkpoint", "every_steps", "num_kept")
        check_positive(
            self.validation, "validation", "queries_per_track", "index_hop_s", "max_track_s"
        )
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
    def model(self) -> ModelConfig:
        """Returns what decides the fingerprints: all that embedding and searching know of a run."""
        return ModelConfig(self.audio, self.mel, self.encoder)

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """`phases`, or the one that `num_epochs`, `optimizer.learning_rate` and `data.batch_size`
        make.
        """
        if self.phases:
            return tuple(Phase(*phase) for phase in self.phases)
        return (Phase(self.num_epochs, self.optimizer.learning_rate, self.data.batch_size),)

    def to_json(self) -> str:
        """Returns a string that `from_json` reads back to an equal object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the inverse of `to_json`.

        Raises:
          ConfigError: the text holds a field this version does not know, or of another type.
        """
        return from_mapping(cls, parse_json(text))
