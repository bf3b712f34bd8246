"""What one fingerprint is made of: audio, mel spectrogram, encoder."""

import dataclasses
from typing import Literal

from confp_jax.config.checks import check_positive
from confp_jax.typed_config import ConfigError


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
        """Returns what one fingerprint depends on most: the usual length of a query."""
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
        check_positive(self, "mel", "fft_samples", "hop_samples", "num_mels", "floor")

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
        check_positive(self, "encoder.projection.contrast", *vars(self))
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
    mel: MelConfig = MelConfig(
        fft_samples=2048, hop_samples=480, num_mels=128, fmin_hz=300.0, fmax_hz=6500.0
    )
    contrast: ContrastConfig = ContrastConfig()
    num_frames: int = 30  # centred on the segment's hops, so that they reach half an FFT beyond it
    query_phases: int = 5  # a query's segments begin so many times as densely as stored ones

    def __post_init__(self) -> None:
        check_positive(self, "encoder.projection", "num_frames", "query_phases")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"encoder.projection.share={self.share} must lie in [0, 1]")


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
        """Returns whether there is a linear part."""
        return self.projection.share > 0

    @property
    def has_conformer(self) -> bool:
        """Returns whether there is a conformer."""
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
        check_positive(self, "encoder", *counts)
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
class ModelConfig:
    """What decides the fingerprints of an encoder: all that is known of it where it is used."""

    audio: AudioConfig = AudioConfig()
    mel: MelConfig = MelConfig()
    encoder: EncoderConfig = EncoderConfig()

    def __post_init__(self) -> None:
        low_hz = self.mel.fmin_hz
        high_hz = self.mel.fmax_hz
        most_hz = self.audio.sample_rate_hz / 2
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

    @property
    def num_tokens(self) -> int:
        """Returns how many tokens the conformer makes of what it hears of one segment."""
        num_frames = self.mel.num_frames(self.audio.context_samples)
        return num_frames // self.encoder.frames_per_token

    @property
    def query_phases(self) -> int:
        """Returns how many times as densely as stored fingerprints those of a query lie."""
        return self.encoder.projection.query_phases if self.encoder.has_projection else 1
