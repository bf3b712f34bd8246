"""Reads a prepared dataset again, all of it, and compares it with its manifest."""

import hashlib
import pathlib

from rich.console import Console
from rich.progress import track as progress

from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.records import DatasetError, ManifestEntry, read_manifest

_REMEDY = "delete that file and start the preparation again: it makes what is not there"


def verify(folder: pathlib.Path, console: Console) -> None:
    """Every shard's size and checksum, then every record against the table of clips.

    Raises:
      DatasetError: the dataset is not complete, or something in it is not what was written.
    """
    splits = read_splits(folder)
    shards = read_manifest(folder)
    for shard in progress(shards, "checksums", console=console, transient=True):
        _verify_shard(folder / shard.file, shard)
    num_clips = 0
    for split in splits:
        source = ClipSource(folder, split)
        for index in progress(range(len(source)), split, console=console, transient=True):
            source.check(index)
        num_clips += len(source)
    expected = sum(shard.clips for shard in shards)
    if num_clips != expected:
        raise DatasetError(
            f"{folder} holds {num_clips} clips, its manifest says {expected}; start the "
            "preparation again"
        )
    console.print(
        f"{folder}: {len(shards)} shards and {num_clips} clips are as they were written",
        highlight=False,
    )


def _verify_shard(path: pathlib.Path, shard: ManifestEntry) -> None:
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing; start the preparation again, it makes what is not there"
        )
    if path.stat().st_size != shard.bytes:
        raise DatasetError(
            f"{path} has {path.stat().st_size} bytes instead of {shard.bytes}; {_REMEDY}"
        )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        raise DatasetError(f"{path} is damaged: its checksum is not the manifest's; {_REMEDY}")
