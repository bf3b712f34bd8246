"""The durable truth: an SQLite catalogue and immutable vector shards in one folder, which may be
moved and copied.

A shard is written, flushed to disk and renamed before the one transaction that makes its tracks
known: whatever instant the process dies at, the folder opens with all that was committed. Files
that no transaction knows are removed by the next writer.
"""

from confp_jax.database.catalogue import FORMAT
from confp_jax.database.records import (
    DatabaseError,
    ModelId,
    NewTrack,
    OtherModelError,
    Snapshot,
    StoredTrack,
    TrackTags,
)
from confp_jax.database.store import Database
from confp_jax.database.vectors import StoredVectors

__all__ = [
    "FORMAT",
    "Database",
    "DatabaseError",
    "ModelId",
    "NewTrack",
    "OtherModelError",
    "Snapshot",
    "StoredTrack",
    "StoredVectors",
    "TrackTags",
]
