"""The record format: TFDS features over ArrayRecord shards, without TensorFlow.

A prepared dataset is a folder that `tfds.builder_from_directory` opens. A clip is a track's clean
audio (replica 0), a distorted replica of it (1 to K), a query excerpt, or a sound to mix in; a
record is a piece of 3 s of it, so that a training crop reads at most twice its own bytes however
long the track. The table `clips-SPLIT.npy` says which records make which clip. Samples are a bytes
scalar of little-endian int16: an int16 Tensor would be 3x the size and 20x slower to decode.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int16
from tensorflow_datasets.core import example_serializer

from confp_jax.errors import UserError
from confp_jax.files import write_atomically
from confp_jax.texts import parse_json

VERSION = "2.0.0"
PIECE_S = 3.0
# Every record its own group, not compressed: a random read costs its own bytes and no more.
_WRITER_OPTIONS = "group_size:1,uncompressed"
TABLE_DTYPE = np.dtype(
    [
        ("track_id", "<i8"),
        ("replica", "<i4"),
        ("rate", "<f4"),  # the tempo
        ("start_s", "<f4"),
        ("num_samples", "<i8"),
        ("first_record", "<i8"),
    ]
)


class DatasetError(UserError):
    """A folder that is no usable prepared dataset; the message says which and how to make one."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Audio with its identity."""

    track_id: int
    replica: int  # 0 is clean; in a query set, the number of the excerpt
    tempo: float  # time stretch: the original's moment t lies at (t - start_s) / tempo
    start_s: float  # where in the original this audio begins
    samples: Int16[np.ndarray, " n"]
    draws: str = "[]"  # JSON: every transform that was applied, with its drawn values


class ClipRow(NamedTuple):
    """A clip without its audio, in the order of the table's columns."""

    track_id: int
    replica: int
    tempo: float
    start_s: float
    num_samples: int


class WrittenShard(NamedTuple):
    """What a shard holds, and its size."""

    clips: Sequence[ClipRow]
    num_records: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Credits:
    """What TFDS shows beside the features: where the audio comes from, and what may be done with
    it.
    """

    description: str
    citation: str = ""
    licence: str = ""
    homepage: str = ""


SUBSETS = ("small", "medium", "large", "full")  # FMA's, each within the next


@dataclasses.dataclass(frozen=True)
class DatasetSummary:
    """What a dataset is made of, kept beside the TFDS metadata in `confp.json`."""

    name: str
    sample_rate_hz: int
    num_replicas: int  # beside the clean clip; clips of a track stand together
    settings: str  # JSON of the configuration that made it
    track_names: dict[str, str] = dataclasses.field(default_factory=dict)
    albums: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # by track id, where one is known
    subsets: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # by track id, the smallest of FMA's that holds it

    @property
    def piece_samples(self) -> int:
        """Samples in one record; a clip's last one may hold fewer."""
        return round(PIECE_S * self.sample_rate_hz)


def features() -> tfds.features.FeaturesDict:
    """Returns the TFDS features of a record: a piece of a clip. `draws` stands in the first piece
    only.
    """
    return tfds.features.FeaturesDict(
        {
            "track_id": np.int64,
            "replica": np.int32,
            "piece": np.int32,
            "rate": np.float32,  # the tempo
            "start_s": np.float32,
            "samples": tfds.features.Tensor(shape=(), dtype=np.object_),
            "draws": tfds.features.Text(),
        }
    )


def to_int16(samples: np.ndarray) -> Int16[np.ndarray, " n"]:
    """Returns float samples as 16-bit PCM; louder than full scale is scaled down as a whole, never
    clipped.
    """
    peak = float(np.max(np.abs(samples), initial=0.0))
    return np.round(samples * (32767.0 / max(peak, 1.0))).astype("<i2")


def shard_path(
    folder: pathlib.Path, name: str, split: str, shard: int, num_shards: int
) -> pathlib.Path:
    """TFDS's file name of a shard."""
    return folder / f"{name}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"


def write_shard(path: pathlib.Path, clips: Iterable[Clip], *, sample_rate_hz: int) -> WrittenShard:
    """Writes a shard so that it exists only when complete.

    Raises:
      DatasetError: it cannot be written, because the disk is full for instance.
    """
    partial = path.with_name(path.name + ".part")
    piece_samples = round(PIECE_S * sample_rate_hz)
    rows = []
    num_records = 0
    with _writer(partial) as write:
        for clip in clips:
            for record in _pieces(clip, piece_samples):
                write(_serialize(record))
                num_records += 1
            rows.append(
                ClipRow(clip.track_id, clip.replica, clip.tempo, clip.start_s, len(clip.samples))
            )
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = partial.stat().st_size
    partial.rename(path)
    return WrittenShard(rows, num_records, size, digest)


@contextlib.contextmanager
def _writer(path: pathlib.Path) -> Iterator[Callable[[bytes], object]]:
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)

    def call(action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except RuntimeError as error:  # so it says that the disk is full
            raise DatasetError(
                f"{path} cannot be written ({error}); free space and start again: finished shards "
                "stay"
            ) from error

    try:
        yield functools.partial(call, writer.write)
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error is the one to tell
            writer.close()
        raise
    call(writer.close)


def write_dataset_metadata(
    folder: pathlib.Path,
    summary: DatasetSummary,
    splits: Mapping[str, Sequence[WrittenShard]],
    *,
    credits: Credits,
) -> None:
    """Makes the folder of shards a TFDS dataset. `splits` holds every split's shards in order."""
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[s.num_records for s in shards],
            num_bytes=sum(s.num_bytes for s in shards),
        )
        for split, shards in splits.items()
    ]
    for split, shards in splits.items():
        _write_table(
            folder / f"clips-{split}.npy",
            [row for shard in shards for row in shard.clips],
            summary.piece_samples,
        )
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.folder_dataset.write_metadata(
            data_dir=str(folder),
            features=features(),
            split_infos=infos,
            version=VERSION,
            filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            check_data=False,
            description=credits.description,
            citation=credits.citation or None,
            license=credits.licence or None,
            homepage=credits.homepage or None,
        )
    text = json.dumps(dataclasses.asdict(summary), indent=1, ensure_ascii=False)
    write_atomically(folder / "confp.json", text)


def read_summary(folder: str | pathlib.Path) -> DatasetSummary:
    """Returns the summary of a prepared dataset.

    Raises:
      DatasetError: the folder holds no complete dataset.
    """
    file = pathlib.Path(folder) / "confp.json"
    if not file.is_file():
        raise DatasetError(
            f"{folder or '(no folder given)'}: no prepared dataset here (confp.json is missing); "
            "make one with `python -m data_prep.make_train --config=configs/prepare.py` and pass "
            "its folder"
        )
    try:
        summary = DatasetSummary(**parse_json(file.read_text()))
        for name, kind in DatasetSummary.__annotations__.items():
            if not isinstance(getattr(summary, name), typing.get_origin(kind) or kind):
                raise ValueError(f"{name} is {getattr(summary, name)!r}"[:200])
        if summary.sample_rate_hz <= 0 or summary.num_replicas < 0:
            raise ValueError("an impossible sample rate or number of replicas")
        return summary
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{file} is damaged ({error}); start the preparation again: it keeps the shards"
        ) from error


class ManifestEntry(NamedTuple):
    """A shard as manifest.json has it."""

    file: str
    split: str
    clips: int
    bytes: int
    sha256: str


def read_manifest(folder: str | pathlib.Path) -> list[ManifestEntry]:
    """Returns the shards of a prepared dataset, with their checksums.

    Raises:
      DatasetError: the manifest is missing or damaged.
    """
    file = pathlib.Path(folder) / "manifest.json"
    kinds = ManifestEntry.__annotations__
    try:
        shards = parse_json(file.read_text())["shards"]
        found = [ManifestEntry(*(shard[name] for name in kinds)) for shard in shards]
        for entry in found:
            for value, kind in zip(entry, kinds.values(), strict=True):
                if type(value) is not kind:
                    raise ValueError(f"{value!r} is no {kind.__name__}")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{file} is missing or damaged ({error}); start the preparation again: it keeps the "
            "shards"
        ) from error


@functools.cache
def _serializer() -> tuple[tfds.features.FeaturesDict, example_serializer.ExampleSerializer]:
    described = features()
    return described, example_serializer.ExampleSerializer(described.get_serialized_info())


def _serialize(record: dict[str, Any]) -> bytes:
    """Returns `features().serialize_example` with the fields in a fixed order: the same bytes from
    every process.
    """
    described, serializer = _serializer()
    return serializer.get_tf_example(described.encode_example(record)).SerializeToString(
        deterministic=True
    )


def _pieces(clip: Clip, piece_samples: int) -> Iterator[dict[str, Any]]:
    for piece in range(num_pieces(len(clip.samples), piece_samples)):
        part = np.ascontiguousarray(
            clip.samples[piece * piece_samples : (piece + 1) * piece_samples], "<i2"
        )
        identity = {
            "track_id": clip.track_id,
            "replica": clip.replica,
            "rate": clip.tempo,
            "start_s": clip.start_s,
        }
        yield identity | {
            "piece": piece,
            "samples": part.tobytes(),
            "draws": "" if piece else clip.draws,
        }


def num_pieces(num_samples: int, piece_samples: int) -> int:
    """Records that a clip takes; an empty one takes one."""
    return max(1, -(-num_samples // piece_samples))


def _write_table(path: pathlib.Path, rows: Sequence[ClipRow], piece_samples: int) -> None:
    table = np.zeros(len(rows), TABLE_DTYPE)
    stored = TABLE_DTYPE.names or ()
    for name, column in zip(stored, zip(*rows, strict=True), strict=False):
        table[name] = column
    num_records = [num_pieces(row.num_samples, piece_samples) for row in rows]
    table["first_record"] = np.cumsum([0, *num_records])[:-1]
    write_atomically(path, lambda file: np.save(file, table, allow_pickle=False))
