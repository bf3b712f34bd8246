"""Fixtures of training and preparation: a prepared data set, hand-made ones, a bucket. Loaded by
conftest.py where JAX is installed.
"""

import pathlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from rich.console import Console

from confp_jax.data.records import (
    Clip,
    Credits,
    DatasetSummary,
    shard_path,
    write_dataset_metadata,
    write_shard,
)
from confp_jax.typed_config import from_mapping
from data_prep.config import PrepareConfig

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="session")
def prepare_config(music_dir: pathlib.Path) -> Callable[..., PrepareConfig]:
    """`prepare_config(out, **overrides)`: configs/prepare.py on the example clips, two replicas, in
    this process.
    """
    from configs.prepare import get_config

    def build(out: pathlib.Path, **overrides: object) -> PrepareConfig:
        values = get_config().to_dict() | {
            "name": "examples",
            "music_dir": str(music_dir),
            "noise_dir": str(EXAMPLES / "noise"),
            "ir_dir": str(EXAMPLES / "ir"),
            "out": str(out),
            "num_replicas": 2,
            "tracks_per_shard": 1,
            "num_workers": 1,
        }
        return from_mapping(PrepareConfig, values | overrides)

    return build


@pytest.fixture(scope="session")
def prepared(
    prepare_config: Callable[..., PrepareConfig], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A data set made by the real preparation: 6 training, 1 validation and 1 test track, each
    clean and in 2 replicas.
    """
    from data_prep.make_train import prepare

    out = tmp_path_factory.mktemp("prepared") / "examples"
    prepare(prepare_config(out), Console(quiet=True))
    return out


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pathlib.Path]:
    """`make_dataset({split: clips}, num_replicas=1)`: a data set of hand-made clips; returns its
    folder.
    """

    def make(
        splits: Mapping[str, Sequence[Clip]],
        *,
        num_replicas: int = 1,
        sample_rate_hz: int = 16_000,
        num_shards: int = 1,
        albums: Mapping[str, str] | None = None,
    ) -> pathlib.Path:
        folder = tmp_path_factory.mktemp("dataset")
        sizes = {}
        for split, clips in splits.items():
            per_shard = -(-len(clips) // num_shards)
            sizes[split] = [
                write_shard(
                    shard_path(folder, "made", split, i, num_shards),
                    clips[i * per_shard : (i + 1) * per_shard],
                    sample_rate_hz=sample_rate_hz,
                )
                for i in range(num_shards)
            ]
        names = {
            str(clip.track_id): f"track {clip.track_id}"
            for clips in splits.values()
            for clip in clips
        }
        summary = DatasetSummary(
            "made", sample_rate_hz, num_replicas, "{}", names, dict(albums or {})
        )
        write_dataset_metadata(folder, summary, sizes, credits=Credits("hand-made"))
        return folder

    return make


class _Bucket(MemoryFileSystem):
    """What gcsfs is to epath, without a network."""

    protocol = ("gcs", "gs")
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[epath.Path]:
    fsspec.register_implementation("gcs", _Bucket, clobber=True)
    fsspec.register_implementation("gs", _Bucket, clobber=True)
    epath.backend.fsspec_backend._get_filesystem.cache_clear() if hasattr(
        epath.backend.fsspec_backend._get_filesystem, "cache_clear"
    ) else None
    yield epath.Path(f"gs://bucket-{uuid.uuid4().hex}/run")
