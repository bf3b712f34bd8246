"""Fingerprints as Parquet: what `confp export` writes and `confp import` reads, and what bulk
fingerprinting writes.

One row a track; its fingerprints are a list of float16 vectors. The schema's metadata names the
model, without which they mean nothing. (The extra `parquet`.)
"""

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from confp_jax.database import Database, DatabaseError, ModelId, NewTrack, Snapshot
from confp_jax.database.compact import merge_small_shards
from confp_jax.database.edits import stored_tags
from confp_jax.database.merge import same_model
from confp_jax.database.names import storable, stored_path
from confp_jax.database.records import TAG_NAMES
from confp_jax.database.shards import write_error
from confp_jax.database.stamp import LONGEST_HOP_S, SHORTEST_HOP_S
from confp_jax.fingerprint.embedder import UnknownModelError, load_encoder
from confp_jax.index import on_disk
from confp_jax.library.imported_rows import TEXTS, present_tags, sound_tracks
from confp_jax.model.errors import CheckpointError
from confp_jax.texts import parse_json

_KEY = b"confp_jax"
_FOOTER_BYTES = 8  # of the length of a Parquet file's metadata, and the mark at its end
_GROUP_ROWS = 65_536  # fingerprints in a row group: what reading and writing hold in memory


def write_fingerprints(
    path: pathlib.Path, model_id: ModelId, tracks: Iterable[NewTrack], *, dim: int
) -> int:
    """Writes tracks into one Parquet file, which appears under its name when it is complete;
    returns how many.

    Raises:
      DatabaseError: it cannot be written, or the disk is full.
    """
    vectors = pa.list_(pa.list_(pa.float16(), dim))
    fields = [
        *((name, pa.string()) for name in (*TEXTS, *TAG_NAMES)),
        ("duration_s", pa.float64()),
        ("fingerprints", vectors),
    ]
    about = {"model": model_id.name, "identity": model_id.weights_hash, "hop_s": model_id.hop_s}
    schema = pa.schema(fields, metadata={_KEY: json.dumps(about)})
    partial = path.with_name(path.name + ".part")
    num_tracks = 0
    try:
        with pq.ParquetWriter(partial, schema, write_page_checksum=True) as writer:
            for group in _groups(tracks):
                writer.write_table(_table(group, schema, dim), row_group_size=len(group))
                num_tracks += len(group)
        partial.replace(path)
    except OSError as error:
        raise write_error(path.parent, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return num_tracks


def write_columns(path: pathlib.Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Writes a plain table as Parquet: what the benchmark measured of every query."""
    partial = path.with_name(path.name + ".part")
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), partial)
    partial.replace(path)


def export_database(
    database: Database,
    path: pathlib.Path,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, list[str]]:
    """Writes the tracks of a database into one Parquet file.

    Returns:
      How many, and the names of those that were left out because their rows are damaged.
    """
    snapshot = database.snapshot(to_copy=True)
    num_tracks = write_fingerprints(
        path, database.model_id, _exported(snapshot, report), dim=snapshot.vectors.shape[1]
    )
    return num_tracks, [track.name for track in snapshot.damaged]


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did."""

    num_added: int
    num_there: int  # content that was there already
    refused: tuple[str, ...] = ()  # rows that are no tracks, with their file and the reason


def import_files(
    database: Database,
    paths: Sequence[pathlib.Path],
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Adds the tracks of Parquet files whose content is not in the database yet.

    If interrupted, the next run continues. A row that is not a track is left out, with the reason.

    Args:
      database: the one to add to.
      paths: Parquet files, or folders of them.
      report: called with the number of rows that were read, and of all.

    Raises:
      DatabaseError: a file is not of this program or not of this model, or its vectors have another
        length; nothing was written.
    """
    files = find_files(paths)
    with database.writing():
        dim = database.dim() or _model_dim(database.model_id)
        for file in files:
            dim = _check_schema(database, file, dim)
        contents = {track.sha256 for track in database.tracks()}
        num_there = 0
        refused: list[str] = []

        def new_tracks() -> Iterator[NewTrack]:
            nonlocal num_there
            for done, file in enumerate(files, 1):
                for tracks, reasons in _read(file, dim):
                    refused.extend(f"{file}, {reason}" for reason in reasons)
                    for track in tracks:
                        if track.sha256 in contents:
                            num_there += 1
                        else:
                            contents.add(track.sha256)
                            yield track
                report(done, len(files))

        num_added = 0
        for tracks in _groups(new_tracks()):  # a file may have a group of rows for each track
            database.add(tracks)
            num_added += len(tracks)
        merge_small_shards(database)
        on_disk.rebuild_if_due(database)
    return Imported(num_added, num_there, tuple(refused))


def _model_dim(stamp: ModelId) -> int:
    """Returns how many values a shipped model's fingerprints have, 0 for any other."""
    try:
        embedder = None if "/" in stamp.name else load_encoder(stamp.name)
    except (UnknownModelError, CheckpointError):
        return 0
    if embedder is None or embedder.weights_hash != stamp.weights_hash:
        return 0
    return embedder.config.encoder.embedding_dim


def find_files(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Returns files as given, and the Parquet files of folders.

    Raises:
      DatabaseError: the folders hold none.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])
    ]
    if not files:
        raise DatabaseError(
            f"{', '.join(map(str, paths))}: no .parquet files there; `confp export` writes them"
        )
    return files


def file_stamp(path: pathlib.Path) -> ModelId:
    """Returns the model that a file's fingerprints are of.

    Raises:
      DatabaseError: this program did not write the file.
    """
    try:
        about = parse_json(pq.read_schema(path).metadata[_KEY])
        model_id = ModelId(str(about["model"]), str(about["identity"]), float(about["hop_s"]))
        if not SHORTEST_HOP_S <= model_id.hop_s <= LONGEST_HOP_S:
            raise ValueError(f"hop_s={model_id.hop_s}")
        return model_id
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatabaseError(
            f"{path} is no file of fingerprints ({error}); `confp export` writes them"
        ) from error


def _read(path: pathlib.Path, dim: int) -> Iterator[tuple[list[NewTrack], list[str]]]:
    """Yields the sound tracks of a file and the reasons against its other rows, a row group at a
    time; a group that is damaged costs its own rows.
    """
    row = 0
    contents: set[str] = set()
    metadata = _metadata(path)
    with pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            num = metadata.row_group(group).num_rows
            try:
                table = file.read_row_group(group)
                found = sound_tracks(table, dim, first_row=row, contents=contents)
            except (OSError, pa.ArrowException, KeyError, ValueError) as error:
                reason = str(error).splitlines()[0]
                found = [], [f"rows {row} to {row + num - 1}: damaged ({reason})"]
            yield found
            row += num


def _metadata(path: pathlib.Path) -> pq.FileMetaData:
    """Returns a file's metadata without the types that Arrow had: a vector that is missing in
    lists of fixed length would end the reading of all of its row group.
    """
    with open(path, "rb") as file:
        file.seek(-_FOOTER_BYTES, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-_FOOTER_BYTES - length, os.SEEK_END)
        footer = file.read()
    return pq.read_metadata(io.BytesIO(footer.replace(b"ARROW:schema", b"arrow:schema")))


def _check_schema(database: Database, path: pathlib.Path, dim: int) -> int:
    """Returns the vectors' length of a file that may be imported; `dim` is the database's, 0 of an
    empty one.

    Raises:
      DatabaseError: it is of another model, its columns are others, or its vectors have another
        length.
    """
    model_id = file_stamp(path)
    same_model(database, str(path), model_id.weights_hash, model_id.hop_s)
    schema = pq.read_schema(path)
    for name in (*TEXTS, "duration_s", "fingerprints", *present_tags(schema)):
        if name not in schema.names:
            raise DatabaseError(f"{path} has no column {name!r}; `confp export` writes them all")
        kind = schema.field(name).type
        if name in (*TEXTS, *TAG_NAMES) and not (
            pa.types.is_string(kind) or pa.types.is_large_string(kind)
        ):
            raise DatabaseError(f"{path}: the column {name!r} holds {kind}, not text")
        if name == "duration_s" and not pa.types.is_floating(kind):
            raise DatabaseError(f"{path}: the column {name!r} holds {kind}, not seconds")
    kind = schema.field("fingerprints").type
    if not (pa.types.is_list(kind) and pa.types.is_fixed_size_list(kind.value_type)) or not (
        pa.types.is_floating(kind.value_type.value_type)
    ):
        raise DatabaseError(f"{path}: the column 'fingerprints' holds {kind}, not lists of vectors")
    found = kind.value_type.list_size
    if database.precision == "binary" and found % 8:
        raise DatabaseError(
            f"{path}: signs of {found} values do not fill bytes, and {database.folder} stores signs"
        )
    if dim and found != dim:
        raise DatabaseError(
            f"{path}: its vectors have {found} values, those of {database.folder} {dim}; they are "
            "not comparable"
        )
    return found


def _exported(snapshot: Snapshot, report: Callable[[int, int], None]) -> Iterator[NewTrack]:
    for done, t in enumerate(snapshot.tracks, 1):
        vectors = snapshot.vectors[t.first_row : t.first_row + t.num_rows]
        names = (t.title, t.artist, t.album, t.tags)
        yield NewTrack(t.name, t.path, t.sha256, t.duration_s, vectors, *names)
        report(done, len(snapshot.tracks))


def _groups(tracks: Iterable[NewTrack]) -> Iterator[list[NewTrack]]:
    group: list[NewTrack] = []
    num_rows = 0
    for track in tracks:
        group.append(track)
        num_rows += len(track.vectors)
        if num_rows >= _GROUP_ROWS:
            yield group
            group = []
            num_rows = 0
    if group:
        yield group


def _table(tracks: list[NewTrack], schema: pa.Schema, dim: int) -> pa.Table:
    vectors = np.concatenate([track.vectors for track in tracks]).astype(np.float16)
    ends = np.cumsum([0] + [len(track.vectors) for track in tracks])
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rows)
    texts = [pa.array([_text(track, name) for track in tracks]) for name in TEXTS]
    columns = zip(*(stored_tags(track.tags) for track in tracks), strict=True)
    tags = [pa.array(column, pa.string()) for column in columns]
    return pa.Table.from_arrays(
        [*texts, *tags, pa.array([t.duration_s for t in tracks]), lists], schema=schema
    )


def _text(track: NewTrack, name: str) -> str:
    text = getattr(track, name)
    return stored_path(text) if name == "path" else storable(text)
