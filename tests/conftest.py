"""What several rooms share: example audio and the caches of the session; `prepared_data.py` has
the data sets. Where JAX is not installed, the tests that need it are left out.
"""

import importlib.util
import os
import pathlib
import re
import shutil
import sys
import tempfile

import hypothesis
import pytest
import threadpoolctl

HAS_JAX = importlib.util.find_spec("jax") is not None
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # docs/develop/facts.md
if HAS_JAX:
    import jaxlib.version

    # What of XLA compiles in half the time (docs/develop/facts.md). A process ends at an option
    # that its XLA does not know: these two are known from here to there.
    if "XLA_FLAGS" not in os.environ and (0, 9) <= jaxlib.version.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        )
    pytest_plugins = ["prepared_data"]

_ROOMS_OF_JAX = ("data", "data_prep", "evaluation", "training")
_NEEDS_JAX = re.compile(
    r"^(?:from|import) (?:jax\b|flax|optax|orbax|etils|onnx\b|grain|tensorflow|ml_collections|absl"
    r"|librosa|confp_jax\.(?:training|evaluation|data|model\.weights)\b|data_prep"
    r"|configs|confp_jax\.fingerprint import jax_engine)",
    re.MULTILINE,
)
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


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leaves out the files that need JAX or what its extras bring, where it is not installed."""
    if HAS_JAX:
        return None
    if collection_path.is_dir():
        return True if collection_path.name in _ROOMS_OF_JAX else None
    if collection_path.suffix != ".py":
        return None
    return True if _NEEDS_JAX.search(collection_path.read_text()) else None


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
