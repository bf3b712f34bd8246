"""A track to prepare, whatever it comes from."""

import dataclasses
import pathlib

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
