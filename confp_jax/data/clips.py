"""Reading a prepared dataset (data/records.py says what one is): its splits, their clips, parts of
clips.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import message
from jaxtyping import Int16, Int64
from numpy.typing import ArrayLike
from tensorflow_datasets.proto import tf_example_pb2

from confp_jax.data.records import (
    TABLE_DTYPE,
    Clip,
    ClipRow,
    DatasetError,
    num_pieces,
    read_summary,
)


def read_splits(folder: str | pathlib.Path) -> list[str]:
    """Returns the names of a prepared dataset's splits that are not empty.

    Raises:
      DatasetError: the folder holds no complete dataset.
    """
    read_summary(folder)
    splits = _builder(folder).info.splits
    return [name for name in splits if splits[name].num_examples]


def track_ids(folder: str | pathlib.Path, split: str) -> list[int]:
    """Returns a split's track ids, in the order of its tracks; its shards need not be here."""
    table = _read_table(pathlib.Path(folder) / f"clips-{split}.npy")
    return table["track_id"][:: 1 + read_summary(folder).num_replicas].tolist()


class ClipSource:
    """Random access to the clips of one split of a prepared dataset: `source[i]` is a whole
    `Clip`, `crop` a part of one.

    Args:
      folder: the folder that holds dataset_info.json.
      split: "training", "validation", "test" or the name of a query condition.
      part: (k, n): only shards k, k + n, k + 2 n, ... need to be here. The other shards' clips are
        known but cannot be read.

    Raises:
      DatasetError: no dataset there, one of an older format, no such split, or a shard of it is
        missing.
    """

    def __init__(self, folder: str | pathlib.Path, split: str, *, part: tuple[int, int] = (0, 1)):
        self.folder = pathlib.Path(folder)
        self.split = split
        self._part = part
        self.summary = read_summary(folder)
        self._records = self._open()
        self._table = _read_table(self.folder / f"clips-{split}.npy")

    def _open(self) -> Sequence[dict[str, Any]]:
        # Opened by tfds itself: that is the promise that anybody else's tools can open it too.
        builder = _builder(self.folder)
        splits = builder.info.splits
        if self.split not in splits:
            raise DatasetError(
                f"{self.folder} has no split {self.split!r}; it has {', '.join(splits)}"
            )
        if not splits[self.split].num_examples:
            return []  # which tfds cannot open
        first, every = self._part
        for path in splits[self.split].filepaths[first::every]:
            if not pathlib.Path(path).is_file():
                other = (
                    f", or copy to this host every {every}th shard from number {first} on"
                    if every > 1
                    else ""
                )
                raise DatasetError(
                    f"{path} is missing; start the preparation again, it makes what is not "
                    f"there{other}"
                )
        return cast(Sequence[dict[str, Any]], builder.as_data_source(split=self.split))

    @property
    def _raw(self) -> Sequence[bytes]:
        return cast(Any, self._records).data_source

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._records = self._open()

    def __len__(self) -> int:
        return len(self._table)

    def row(self, index: int) -> ClipRow:
        """Returns a clip's identity and length, without reading its audio."""
        *values, _ = self._table[index].item()
        return ClipRow(*values)

    def __getitem__(self, index: int) -> Clip:
        row = self.row(index)
        return Clip(*row[:4], samples=self.crop(index, 0, row.num_samples), draws=self.draws(index))

    def crop(self, index: int, start: int, stop: int) -> Int16[np.ndarray, " n"]:
        """Returns samples start..stop of a clip; only the records that hold them are read.

        Raises:
          DatasetError: the clip does not hold them.
        """
        entry = self._table[index]
        if not 0 <= start <= stop <= entry["num_samples"]:
            raise DatasetError(
                f"{self.folder}: samples {start} to {stop} of a clip of {entry['num_samples']} "
                "were asked for"
            )
        size = self.summary.piece_samples
        first = start // size
        last = max(start, stop - 1) // size
        pieces = [self._piece(int(entry["first_record"]) + i) for i in range(first, last + 1)]
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return whole[start - first * size : stop - first * size]

    def _piece(self, record: int) -> Int16[np.ndarray, " n"]:
        """The samples alone: TFDS's parser makes arrays of all seven fields, and was a third of an
        input pipeline's time.
        """
        try:
            example = cast(Any, tf_example_pb2).Example.FromString(self._raw[record])
        except (
            RuntimeError,
            ValueError,
            IndexError,
            OSError,
            message.DecodeError,
        ) as error:  # a shard cut short, or overwritten
            path = self._split_info().filepaths[int(self.shards_of(record))]
            raise DatasetError(
                f"{path} is damaged ({' '.join(str(error).split())[:200]}); copy it again, or "
                "delete it and start the preparation again: it makes what is not there"
            ) from error
        return np.frombuffer(example.features.feature["samples"].bytes_list.value[0], "<i2")

    def shards_of(self, records: ArrayLike) -> Int64[np.ndarray, "..."]:
        """Returns the numbers of the shards that hold these records."""
        return np.searchsorted(np.cumsum(self._split_info().shard_lengths), records, side="right")

    def track_shards(self) -> Int64[np.ndarray, " tracks"]:
        """Returns the number of the shard that holds each track; a shard holds whole tracks."""
        return self.shards_of(self._table["first_record"][:: 1 + self.summary.num_replicas])

    def _split_info(self) -> Any:
        return _builder(self.folder).info.splits[self.split]

    def check(self, index: int) -> None:
        """Reads all records of a clip and compares them with the table.

        Raises:
          DatasetError: a record is not the piece that should stand there.
        """
        entry = self._table[index]
        num_samples = 0
        for piece in range(num_pieces(int(entry["num_samples"]), self.summary.piece_samples)):
            record = self._records[int(entry["first_record"]) + piece]
            num_samples += len(record["samples"]) // 2
            if tuple(int(record[key]) for key in ("track_id", "replica", "piece")) != (
                *entry.item()[:2],
                piece,
            ):
                raise DatasetError(
                    f"{self.folder}, {self.split}: record {entry['first_record'] + piece} is no "
                    "piece of its clip"
                )
        if num_samples != entry["num_samples"]:
            raise DatasetError(
                f"{self.folder}, {self.split}: clip {index} has {num_samples} samples, not "
                f"{entry['num_samples']}"
            )

    def draws(self, index: int) -> str:
        """JSON: what was applied to a clip."""
        value = self._records[int(self._table[index]["first_record"])]["draws"]
        return value.decode() if isinstance(value, bytes) else value

    def __iter__(self) -> Iterator[Clip]:
        return (self[i] for i in range(len(self)))

    def track_ids(self) -> list[int]:
        """Returns the split's track ids, in the order of its tracks."""
        return track_ids(self.folder, self.split)

    @property
    def num_tracks(self) -> int:
        """Tracks in the split: each has one clean clip and `num_replicas` replicas, one after the
        other.
        """
        return len(self) // (1 + self.summary.num_replicas)


def _read_table(path: pathlib.Path) -> np.ndarray:
    try:
        table = np.load(path, allow_pickle=False)
        if table.dtype != TABLE_DTYPE or table.ndim != 1:
            raise ValueError(f"{table.dtype} {table.shape}")
        return table
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{path} is missing or damaged ({error}); start the preparation again: it keeps the "
            "shards"
        ) from error


def _builder(folder: str | pathlib.Path) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "start the preparation again: it keeps the shards"
        raise DatasetError(
            f"{folder}: TFDS's dataset_info.json or features.json is missing or damaged; {remedy}"
        ) from error
