"""The rows of a Parquet file as tracks: each is checked before anything of it is stored."""

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from confp_jax.database import NewTrack, TrackTags
from confp_jax.database.damage import is_sound
from confp_jax.database.names import restored_path
from confp_jax.database.records import TAG_NAMES
from confp_jax.texts import plain

TEXTS = ("name", "path", "title", "artist", "album", "sha256")
_LONGEST_TEXT = 4_096  # characters: a path's limit on Linux
_LONGEST_S = 1e8
_HALF_LETTER = re.compile(r"[\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def sound_tracks(
    table: pa.Table, dim: int, *, first_row: int, contents: set[str]
) -> tuple[list[NewTrack], list[str]]:
    """Returns the tracks of a table; and for each row that is not a track, its number and why.

    Args:
      table: a row group with the columns of `write_fingerprints`.
      dim: values of a vector.
      first_row: the number of the table's first row in its file, from 0 on.
      contents: the checksums of the file's tracks so far; those of this table are added.
    """
    lists = table["fingerprints"].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    vectors = _vectors(lists, dim)
    ends = np.asarray(lists.offsets)
    sound = is_sound(vectors)
    tracks = []
    refused = []
    columns = [*TEXTS, "duration_s", *present_tags(table.schema)]
    values = {name: _values(table[name]) for name in columns}
    for number in range(len(table)):
        row = {name: column[number] for name, column in values.items()}
        own = slice(int(ends[number]), int(ends[number + 1]))
        reason = _reason(row) or _reason_of_vectors(vectors[own], sound[own])
        if not reason and row["sha256"] in contents:
            reason = "an earlier row of the file has its sha256"
        if reason:
            name = plain(str(row["name"]))[:80]
            refused.append(f"row {first_row + number} ('{name}'): {reason}")
            continue
        contents.add(row["sha256"])
        row["path"] = restored_path(row["path"])
        tags = {name: row.pop(name) for name in TAG_NAMES if name in row}
        known = TrackTags(**tags) if tags and None not in tags.values() else None
        tracks.append(NewTrack(**row, tags=known, vectors=vectors[own]))
    return tracks, refused


def present_tags(schema: pa.Schema) -> list[str]:
    """Returns the columns of tags that a file has; older files have none."""
    return [name for name in TAG_NAMES if name in schema.names]


def _vectors(lists: pa.ListArray, dim: int) -> Float32[np.ndarray, "n E"]:
    """Returns all vectors of a column, one after the other; those that are missing or have another
    length are NaN.
    """
    inner = lists.values
    values = inner.values.to_numpy(zero_copy_only=False).astype(np.float32)
    offsets = np.asarray(inner.offsets)
    is_whole = np.diff(offsets) == dim
    is_whole &= inner.is_valid().to_numpy(zero_copy_only=False)
    if is_whole.all():
        return values.reshape(-1, dim)
    flat = np.full((len(inner), dim), np.nan, np.float32)
    flat[is_whole] = values[offsets[:-1][is_whole][:, None] + np.arange(dim)]
    return flat


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Returns the values of a column; bytes that are no UTF-8 become halves of letters."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.to_pylist()
    texts = column.cast(pa.large_binary()).to_pylist()
    return [text if text is None else text.decode(errors="surrogateescape") for text in texts]


def _reason(row: dict[str, Any]) -> str:
    """Why a row's texts and length cannot be stored, "" if they can."""
    for name in (*TEXTS, *TAG_NAMES):
        text = row.get(name)
        if text is None and name in TEXTS:
            return f"its {name} is missing"
        if text is None:
            continue
        if not text.isascii() and _HALF_LETTER.search(text):
            return f"its {name} is no UTF-8"
        if len(text) > _LONGEST_TEXT:
            return f"its {name} has {len(text)} characters, more than {_LONGEST_TEXT}"
        if "\0" in text:
            return f"its {name} holds a zero byte, which no name can"
    if not _SHA256.fullmatch(row["sha256"]):
        return f"its sha256 {row['sha256'][:80]!r} is no checksum of 64 hexadecimal digits"
    duration_s = row["duration_s"]
    if duration_s is None or not math.isfinite(duration_s) or not 0 <= duration_s <= _LONGEST_S:
        return f"its length of {duration_s} s is impossible"
    return ""


def _reason_of_vectors(vectors: np.ndarray, sound: np.ndarray) -> str:
    if not len(vectors):
        return "it has no fingerprints"
    if not sound.all():
        return (
            f"{int((~sound).sum())} of its {len(vectors)} vectors are missing or not of unit length"
        )
    return ""
