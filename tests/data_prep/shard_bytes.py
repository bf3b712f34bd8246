"""What lies in a prepared data set's shards."""

import pathlib


def shard_bytes(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*array_record*"))}
