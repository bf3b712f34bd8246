"""What goes into a database and comes out of it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32

from confp_jax.database.vectors import StoredVectors
from confp_jax.errors import UserError

UPLOADED = "upload:"  # begins the path of a track that came without a file


class DatabaseError(UserError):
    """A folder that is no usable database, or one that is busy; the message says what to do."""


class BusyError(DatabaseError):
    """Another process is writing to the database."""


class OtherModelError(DatabaseError):
    """The database has become another model's, by `confp reindex`, since it was opened."""


@dataclasses.dataclass(frozen=True)
class TrackTags:
    """What a track's file says of the recording beside its title, artist and album; "" where it
    does not.
    """

    album_artist: str = ""
    track_number: str = ""  # on its medium
    year: str = ""
    label: str = ""
    isrc: str = ""
    musicbrainz_recording_id: str = ""
    acoustid: str = ""


TAG_NAMES = tuple(field.name for field in dataclasses.fields(TrackTags))


@dataclasses.dataclass(frozen=True)
class NewTrack:
    """A track to add.

    `size_bytes` and `mtime_ns` are its file's, so that a later run can skip it without reading it.
    """

    name: str
    path: str
    sha256: str
    duration_s: float
    vectors: Float32[np.ndarray, "n E"]
    title: str = ""
    artist: str = ""
    album: str = ""
    tags: TrackTags | None = None  # None: nobody has read them
    size_bytes: int = 0
    mtime_ns: int = 0


@dataclasses.dataclass(frozen=True)
class StoredTrack:
    """A track of the catalogue; its fingerprints are rows first_row.. of the snapshot."""

    name: str
    path: str
    sha256: str
    duration_s: float
    first_row: int
    num_rows: int
    id: int = 0  # never given to another track, also after this one was removed
    title: str = ""
    artist: str = ""
    album: str = ""
    added_at: float = 0.0  # seconds since 1970
    tags: TrackTags | None = None  # None: nobody has read them; `confp update` does


@dataclasses.dataclass(frozen=True)
class ModelId:
    """The model that made the vectors; vectors of another are not comparable."""

    name: str  # a shipped name or a checkpoint folder
    weights_hash: str
    hop_s: float

    def check_compatible(self, expected: "ModelId") -> None:
        """Raises OtherModelError where vectors of `expected` cannot be compared with this
        database's.
        """
        if (self.weights_hash, self.hop_s) != (expected.weights_hash, expected.hop_s):
            raise OtherModelError(
                f"the database is of {self.name} ({self.weights_hash}) now, not of "
                f"{expected.name}; open it again"
            )


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """What a file was like when it was last read."""

    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Everything a search needs, from one moment. Rows of removed tracks are left out."""

    tracks: Sequence[StoredTrack]
    vectors: StoredVectors | Float32[np.ndarray, "N E"]
    row_tracks: Int32[np.ndarray, " N"]  # index into `tracks` of every row
    generation: str = ""  # the folder below index/ of the newest approximate index, if there is one
    damaged: tuple[StoredTrack, ...] = ()  # left out: their rows are not as they were written
