"""The record format: TFDS features over ArrayRecord shards, without TensorFlow.

A prepared dataset is a folder that `tfds.builder_from_directory` opens. A record is one clip: a track's clean audio
(replica 0), a distorted replica of it (1 to K), or a query excerpt. Samples are a bytes scalar of little-endian int16: an
int16 Tensor would be 3x the size and 20x slower to decode.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int16

VERSION = "1.0.0"
# Every record its own group, not compressed: a random read costs its own bytes and no more.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class DatasetError(ValueError):
    """A folder that is no usable prepared dataset; the message says which and how to make one."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One record."""

    track_id: int
    replica: int  # 0 is clean; in a query set, the number of the excerpt
    rate: float  # time stretch: the original's moment t lies at (t - start_s) / rate
    start_s: float  # where in the original this audio begins
    samples: Int16[np.ndarray, " n"]
    draws: str = "[]"  # JSON: every transform that was applied, with its drawn values


@dataclasses.dataclass(frozen=True)
class DatasetSummary:
    """What a dataset is made of, kept beside the TFDS metadata in `confp.json`."""

    name: str
    sample_rate_hz: int
    num_replicas: int  # beside the clean clip; records of a track stand together
    settings: str  # JSON of the configuration that made it
    track_names: dict[str, str] = dataclasses.field(default_factory=dict)


def features() -> tfds.features.FeaturesDict:
    """The TFDS features of a clip."""
    return tfds.features.FeaturesDict(
        {
            "track_id": np.int64,
            "replica": np.int32,
            "rate": np.float32,
            "start_s": np.float32,
            "samples": tfds.features.Tensor(shape=(), dtype=np.object_),
            "draws": tfds.features.Text(),
        }
    )


def to_int16(samples: np.ndarray) -> Int16[np.ndarray, " n"]:
    """Float samples as 16-bit PCM; louder than full scale is scaled down as a whole, never clipped."""
    peak = float(np.max(np.abs(samples), initial=0.0))
    return np.round(samples * (32767.0 / max(peak, 1.0))).astype("<i2")


def shard_path(folder: pathlib.Path, name: str, split: str, shard: int, num_shards: int) -> pathlib.Path:
    """TFDS's file name of a shard."""
    return folder / f"{name}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"


def write_shard(path: pathlib.Path, clips: Iterable[Clip]) -> tuple[int, int]:
    """Writes a shard so that it exists only when complete; returns (records, bytes)."""
    serializer, partial = features(), path.with_name(path.name + ".part")
    num = 0
    writer = ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
    try:
        for clip in clips:
            example = dataclasses.asdict(clip) | {"samples": np.ascontiguousarray(clip.samples, "<i2").tobytes()}
            writer.write(serializer.serialize_example(example))
            num += 1
    finally:
        writer.close()
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    size = partial.stat().st_size
    partial.rename(path)
    return num, size


def write_dataset_metadata(
    folder: pathlib.Path, summary: DatasetSummary, splits: dict[str, Sequence[tuple[int, int]]], *, description: str
) -> None:
    """Makes the folder of shards a TFDS dataset. `splits` holds (records, bytes) of every shard in order."""
    infos = [
        tfds.core.SplitInfo(name=split, shard_lengths=[n for n, _ in shards], num_bytes=sum(b for _, b in shards))
        for split, shards in splits.items()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.folder_dataset.write_metadata(
            data_dir=str(folder),
            features=features(),
            split_infos=infos,
            version=VERSION,
            filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            check_data=False,
            description=description,
        )
    partial = folder / "confp.json.part"
    partial.write_text(json.dumps(dataclasses.asdict(summary), indent=1, ensure_ascii=False))
    partial.rename(folder / "confp.json")


def read_summary(folder: str | pathlib.Path) -> DatasetSummary:
    """The summary of a prepared dataset.

    Raises:
      DatasetError: the folder holds no complete dataset.
    """
    file = pathlib.Path(folder) / "confp.json"
    if not file.is_file():
        raise DatasetError(
            f"{folder or '(no folder given)'}: no prepared dataset here (confp.json is missing); make one with "
            "`python -m data_prep.make_train --config=configs/prepare.py` and pass its folder"
        )
    return DatasetSummary(**json.loads(file.read_text()))


def read_splits(folder: str | pathlib.Path) -> list[str]:
    """The names of a prepared dataset's splits that are not empty.

    Raises:
      DatasetError: the folder holds no complete dataset.
    """
    read_summary(folder)
    splits = tfds.builder_from_directory(str(folder)).info.splits
    return [name for name in splits if splits[name].num_examples]


class ClipSource:
    """Random access to one split of a prepared dataset: `source[i]` is a `Clip`.

    Args:
      folder: the folder that holds dataset_info.json.
      split: "training", "validation", "test" or the name of a query condition.

    Raises:
      DatasetError: no dataset there, or no such split.
    """

    def __init__(self, folder: str | pathlib.Path, split: str):
        self.folder, self.split = pathlib.Path(folder), split
        self.summary = read_summary(folder)
        self._source = self._open()

    def _open(self) -> Sequence[dict[str, Any]]:
        # Opened by tfds itself: that is the promise that anybody else's tools can open it too.
        builder = tfds.builder_from_directory(str(self.folder))
        if self.split not in builder.info.splits:
            raise DatasetError(f"{self.folder} has no split {self.split!r}; it has {', '.join(builder.info.splits)}")
        return cast(Sequence[dict[str, Any]], builder.as_data_source(split=self.split))

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "split": self.split, "summary": self.summary}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._source = self._open()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Clip:
        row = self._source[index]
        return Clip(
            track_id=int(row["track_id"]),
            replica=int(row["replica"]),
            rate=float(row["rate"]),
            start_s=float(row["start_s"]),
            samples=np.frombuffer(row["samples"], "<i2"),
            draws=_text(row["draws"]),
        )

    def __iter__(self) -> Iterator[Clip]:
        return (self[i] for i in range(len(self)))

    @property
    def num_tracks(self) -> int:
        """Tracks in the split: each has one clean clip and `num_replicas` replicas, one after the other."""
        return len(self) // (1 + self.summary.num_replicas)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
