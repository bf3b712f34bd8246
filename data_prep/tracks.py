"""A track to prepare, whatever it comes from."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import Audio

SPLITS = ("training", "validation", "test")


class SourceError(ValueError):
    """A source that cannot be read; the message names the file, what is wrong and what to do."""


@dataclasses.dataclass(frozen=True)
class Track:
    """A recording, its place on disk and the split it belongs to."""

    track_id: int
    path: pathlib.Path
    split: str
    name: str
    album: str = ""  # what tells it from other albums; "": not known


@dataclasses.dataclass(frozen=True)
class Failure:
    """A track that was left out."""

    track_id: int
    path: str
    why: str


def middle(audio: Audio, length_s: float) -> tuple[Float32[np.ndarray, " n"], float]:
    """The middle `length_s` of a longer track, and where it begins in seconds."""
    length = round(length_s * audio.sample_rate_hz)
    start = max(0, len(audio.samples) - length) // 2
    return audio.samples[start : start + length], start / audio.sample_rate_hz
