"""A track to prepare, whatever it comes from."""

import dataclasses
import pathlib

from confp_jax.audio.decode import DecodeError
from confp_jax.errors import UserError

SPLITS = ("training", "validation", "test")
ALL_SPLITS = "all"


class SourceError(UserError):
    """A source that cannot be read; the message names the file, what is wrong and what to do."""


@dataclasses.dataclass(frozen=True)
class Track:
    """A recording, its place on disk and the split it belongs to."""

    track_id: int
    path: pathlib.Path
    split: str
    name: str
    album: str = ""  # what distinguishes it from other albums; "": not known
    subset: str = ""  # the smallest of FMA's that holds it; "": not FMA's


@dataclasses.dataclass(frozen=True)
class Failure:
    """A track that was left out."""

    track_id: int
    path: str
    why: str
    final: bool = (
        False  # another run would leave it out as well: silent, too short, known to be bad
    )


class UnfitError(DecodeError):
    """A recording that can be read and is not used."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run made."""

    num_clips: int
    num_missing: int  # tracks that the next run tries again

    @property
    def exit_status(self) -> int:
        """0: all is there; 3: something is missing; 1: nothing came."""
        return 1 if not self.num_clips else 3 if self.num_missing else 0
