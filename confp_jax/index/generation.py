"""One generation of an index on disk: its files, its manifest, and which rows are still there."""

import dataclasses
import hashlib
import os
import pathlib
import zlib

import numpy as np
from jaxtyping import Int64

from confp_jax.database import Snapshot
from confp_jax.database.tracks import track_numbers
from confp_jax.index import SearchBudget
from confp_jax.texts import parse_json

MANIFEST = "manifest.json"
TRACKS = "tracks.npy"
_BLOCK_BYTES = 1 << 22


class StaleGenerationError(ValueError):
    """A generation that cannot be used, and why; the index is then rebuilt from the shards."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a generation is."""

    kind: str
    library: str
    identity: str  # weights hash of the model whose vectors they are, as it is stored
    num_rows: int
    num_cells: int
    dim: int
    effort: SearchBudget
    files: dict[str, int]  # CRC-32


def check_generation(folder: pathlib.Path) -> Manifest:
    """Reads and checks every byte of a generation.

    Raises:
      StaleGenerationError: a file is missing, or not as it was written.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(text).hexdigest()[:16] != folder.name.partition("-")[2]:
            raise StaleGenerationError(f"{folder / MANIFEST} is damaged")
        values = parse_json(text)
        manifest = Manifest(**(values | {"effort": SearchBudget(**values["effort"])}))
        effort = manifest.effort
        counts = manifest.num_rows, manifest.num_cells, manifest.dim
        if any(type(n) is not int for n in (*counts, effort.num_cells, effort.num_candidates)):
            raise StaleGenerationError(f"{folder / MANIFEST} holds other values than numbers")
        if {path.name for path in folder.iterdir()} != {*manifest.files, MANIFEST}:
            raise StaleGenerationError(f"{folder} lacks files, or holds others")
        for name, expected in manifest.files.items():
            if _crc32(folder / name) != expected:
                raise StaleGenerationError(f"{folder / name} is damaged")
    except StaleGenerationError:
        raise
    except (OSError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise StaleGenerationError(f"{folder} cannot be read: {error}") from error
    return manifest


def read_tracks(folder: pathlib.Path, num_rows: int | None = None) -> Int64[np.ndarray, "T 2"]:
    """Returns the ids of a generation's tracks and how many rows each has.

    Raises:
      StaleGenerationError: the file holds something else.
    """
    tracks = np.load(folder / TRACKS, allow_pickle=False)
    if tracks.ndim != 2 or tracks.shape[1] != 2 or tracks.dtype != np.int64:
        raise StaleGenerationError(f"{folder / TRACKS} holds {tracks.shape} {tracks.dtype}")
    if tracks[:, 1].min(initial=0) < 0 or num_rows not in (None, tracks[:, 1].sum()):
        raise StaleGenerationError(f"{folder / TRACKS} does not hold {num_rows} rows")
    return tracks


def rows_now(tracks: Int64[np.ndarray, "T 2"], snapshot: Snapshot) -> Int64[np.ndarray, " G"]:
    """Returns where every row of the generation is in the snapshot, -1 if its track was removed."""
    ids, first_rows, counts = track_numbers(snapshot.tracks)
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids, tracks[:, 0], sorter=order), len(ids) - 1)
    there = ids[order[place]] == tracks[:, 0]
    there &= counts[order[place]] == tracks[:, 1]
    begin = np.where(there, first_rows[order[place]], -1)
    num = tracks[:, 1]
    row_in_track = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)
    start = np.repeat(begin, num)
    return np.where(start >= 0, start + row_in_track, -1)


def staleness(rows: Int64[np.ndarray, " G"], num_rows: int) -> float:
    """Returns the proportion of rows that came or went since, of the `num_rows` of now."""
    live = int((rows >= 0).sum())
    return (num_rows - live + len(rows) - live) / max(1, num_rows)


def _crc32(path: pathlib.Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def flushed_crc32(path: pathlib.Path) -> int:
    """Writes a file through to the disk; returns its checksum."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return _crc32(path)
