"""What several rooms share: real example audio, one prepared data set for the session, and small
hand-made ones.
"""

import os

import jaxlib.version

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # docs/develop/facts.md
# What of XLA compiles in half the time (docs/develop/facts.md). A process ends at an option that
# its XLA does not know: these two are known from here to there.
if "XLA_FLAGS" not in os.environ and (0, 9) <= jaxlib.version.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

import pathlib
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import fsspec
import hypothesis
import pytest
import threadpoolctl
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

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
# MP3 stays playable when it is cut at any byte: about 9.6 s of each clip, and the hash of just
# these bytes
# sends 6 of the 8 to training and one each to validation and test, on every machine.
_CUT_BYTES = 48_100
_NUM_CLIPS = 8

# Here a plugin has loaded numpy before; sums over two threads round differently, and runs are
# compared to the bit.
threadpoolctl.threadpool_limits(1, user_api="blas")

hypothesis.settings.register_profile(
    "confp_jax", deadline=None, max_examples=50
)  # no test hangs on the machine's speed
hypothesis.settings.load_profile("confp_jax")


def pytest_configure(config: pytest.Config) -> None:
    """One compilation cache for this session and the processes it starts: a resumed run need not
    compile again.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.mkdtemp(prefix="confp_jax_cache")
        config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if "jax" in sys.modules:  # it has read the environment already
        import jax

        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the tests of training: a file of them may take a minute, and at the end one
    worker would wait for the other.
    """
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder `../shared` beside the repository; without it the test is skipped."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"{folder}/data is not there: this test needs the project's shared audio")
    return folder


@pytest.fixture(scope="session")
def music_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Eight of the example clips, about 9.6 s each, as mp3."""
    folder = tmp_path_factory.mktemp("music")
    clips = [
        path for path in sorted((EXAMPLES / "music").glob("*.mp3")) if "askyel" not in path.name
    ]  # that one is 44.1 kHz
    for path in clips[:_NUM_CLIPS]:
        (folder / path.name).write_bytes(path.read_bytes()[:_CUT_BYTES])
    return folder


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
