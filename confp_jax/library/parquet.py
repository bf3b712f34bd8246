"""Fingerprints as Parquet: what `confp export` writes and `confp import` reads, and what bulk
fingerprinting writes.

One row a track; its fingerprints are a list of float16 vectors. The schema's metadata names the
model, without which they mean nothing. (The extra `parquet`.)
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from confp_jax.database import Database, DatabaseError, ModelStamp, NewTrack, Snapshot
from confp_jax.database.compact import merge_small_shards
from confp_jax.database.merge import Merged, same_model
from confp_jax.database.names import restored_path, storable, stored_path
from confp_jax.database.shards import write_error
from confp_jax.index import on_disk

_KEY = b"confp_jax"
_GROUP_ROWS = 65_536  # fingerprints in a row group: what reading and writing hold in memory
_TEXTS = ("name", "path", "title", "artist", "album", "sha256")


def write_fingerprints(
    path: pathlib.Path, stamp: ModelStamp, tracks: Iterable[NewTrack], *, dim: int
) -> int:
    """Writes tracks into one Parquet file, which appears under its name when it is complete;
    returns how many.

    Raises:
      DatabaseError: it cannot be written, or the disk is full.
    """
    vectors = pa.list_(pa.list_(pa.float16(), dim))
    fields = [
        *((name, pa.string()) for name in _TEXTS),
        ("duration_s", pa.float64()),
        ("fingerprints", vectors),
    ]
    about = {"model": stamp.name, "identity": stamp.identity, "hop_s": stamp.hop_s}
    schema = pa.schema(fields, metadata={_KEY: json.dumps(about)})
    partial = path.with_name(path.name + ".part")
    num_tracks = 0
    try:
        with pq.ParquetWriter(partial, schema) as writer:
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
) -> int:
    """Writes all tracks of a database to one Parquet file; returns how many."""
    snapshot = database.snapshot()
    return write_fingerprints(
        path, database.stamp, _exported(snapshot, report), dim=snapshot.vectors.shape[1]
    )


def import_files(
    database: Database,
    paths: Sequence[pathlib.Path],
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Adds the tracks of Parquet files (or folders of them) whose content is not there;
    interrupted, it continues.

    Raises:
      DatabaseError: a file is none of ours, damaged, or of another model; what came before it is
        committed.
    """
    files = find_files(paths)
    with database.writing():
        contents = {track.sha256 for track in database.tracks()}
        num_added = num_there = 0
        for done, file in enumerate(files, 1):
            for tracks in _read(database, file):
                new = {t.sha256: t for t in tracks if t.sha256 not in contents}
                database.add(list(new.values()))
                contents.update(new)
                num_added, num_there = num_added + len(new), num_there + len(tracks) - len(new)
            report(done, len(files))
        merge_small_shards(database)
        on_disk.fold_if_due(database)
    return Merged(num_added, num_there)


def find_files(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Files as given, and the Parquet files of folders.

    Raises:
      DatabaseError: there are none.
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


def file_stamp(path: pathlib.Path) -> ModelStamp:
    """Returns the model that a file's fingerprints are of.

    Raises:
      DatabaseError: it is none of ours.
    """
    try:
        about = json.loads(pq.read_schema(path).metadata[_KEY])
        return ModelStamp(about["model"], about["identity"], float(about["hop_s"]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatabaseError(
            f"{path} is no file of fingerprints ({error}); `confp export` writes them"
        ) from error


def _read(database: Database, path: pathlib.Path) -> Iterator[list[NewTrack]]:
    stamp = file_stamp(path)
    same_model(database, str(path), stamp.identity, stamp.hop_s)
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield _tracks(file.read_row_group(group))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DatabaseError(
            f"{path} is damaged ({error}); what came before is in the database; get the file again"
        ) from error


def _tracks(table: pa.Table) -> list[NewTrack]:
    column = table["fingerprints"].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    dim = column.type.value_type.list_size
    ends = np.asarray(column.offsets)
    flat = np.asarray(column.values.values).reshape(-1, dim)
    rows = zip(table.select([*_TEXTS, "duration_s"]).to_pylist(), ends[:-1], ends[1:], strict=True)
    return [
        NewTrack(
            **row | {"path": restored_path(row["path"])},
            vectors=flat[first:last].astype(np.float32),
        )
        for row, first, last in rows
    ]


def _exported(snapshot: Snapshot, report: Callable[[int, int], None]) -> Iterator[NewTrack]:
    for done, t in enumerate(snapshot.tracks, 1):
        vectors = snapshot.vectors[t.first_row : t.first_row + t.num_rows]
        yield NewTrack(t.name, t.path, t.sha256, t.duration_s, vectors, t.title, t.artist, t.album)
        report(done, len(snapshot.tracks))


def _groups(tracks: Iterable[NewTrack]) -> Iterator[list[NewTrack]]:
    group: list[NewTrack] = []
    for track in tracks:
        group.append(track)
        if sum(len(t.vectors) for t in group) >= _GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _table(tracks: list[NewTrack], schema: pa.Schema, dim: int) -> pa.Table:
    vectors = np.concatenate([track.vectors for track in tracks]).astype(np.float16)
    ends = np.cumsum([0] + [len(track.vectors) for track in tracks])
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rows)
    texts = [pa.array([_text(track, name) for track in tracks]) for name in _TEXTS]
    return pa.Table.from_arrays(
        [*texts, pa.array([t.duration_s for t in tracks]), lists], schema=schema
    )


def _text(track: NewTrack, name: str) -> str:
    text = getattr(track, name)
    return stored_path(text) if name == "path" else storable(text)
