"""docs/develop/architecture.md as a test: who may import whom.

Every import counts, also inside functions and under TYPE_CHECKING.
"""

import ast
import graphlib
import pathlib
from collections.abc import Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Left to right: a room imports from itself and from what stands before it.
ROOMS = [
    "errors",
    "locks",
    "files",
    "texts",
    "typed_config",
    "config",
    "metrics",
    "command_line",
    "audio",
    "data",
    "model",
    "training",
]
ROOMS += ["database", "index", "fingerprint", "matching", "library", "evaluation", "events"]
ROOMS += ["radio", "service", "cli"]
ROOMS += ["retrieval"]  # old names of modules, for programs outside
# Training and searching share the model alone: neither knows of the other.
SEARCH = {"database", "index", "fingerprint", "matching", "library"}
# The database and its indexes hold rows of numbers; they know no audio and no model.
NO_AUDIO = {"database", "index"}
WITHOUT_JAX = {
    "errors",
    "files",
    "texts",
    "typed_config",
    "config",
    "metrics",
    "audio",
    "data",
    "database",
    "index",
    "cli",
}
PREPARATION_USES = {
    "errors",
    "texts",
    "files",
    "typed_config",
    "config",
    "command_line",
    "audio",
    "data",
    *SEARCH,
}
COMMANDS = {  # the files that are run as commands and that parse with absl
    "confp_jax/training/train.py",
    "confp_jax/training/compile_for.py",
    "confp_jax/evaluation/benchmark.py",
    "confp_jax/evaluation/calibrate.py",
    "confp_jax/evaluation/open_set.py",
    "data_prep/make_train.py",
    "data_prep/make_queries.py",
    "data_prep/duplicates.py",
    "data_prep/beam.py",
}
HEAVY = {
    "soundfile": {
        "confp_jax/audio/decode.py",
        "confp_jax/audio/encode.py",  # GSM full rate
        "data_prep/sounds.py",  # the cache of noise as wav
    },
    "soxr": {"confp_jax/audio/decode.py"},
    "av": {
        "confp_jax/audio/container.py",
        "confp_jax/audio/encode.py",
        "confp_jax/audio/tags.py",
    },
    "tinytag": {"confp_jax/audio/tags.py"},
    "paho": {"confp_jax/events/mqtt.py"},
    "yaml": {"confp_jax/radio/stations.py"},
    "watchfiles": {"confp_jax/library/watch.py"},
    "sounddevice": {"confp_jax/audio/microphone.py"},
    "audiomentations": {"data_prep/augment.py"},
    "tensorflow_datasets": {"confp_jax/data/records.py", "confp_jax/data/clips.py"},
    "apache_beam": {"data_prep/beam.py", "confp_jax/library/beam.py"},
    "array_record": {"confp_jax/data/records.py"},
    "grain": {"confp_jax/data/input.py"},
    "orbax": {"confp_jax/training/checkpoint.py", "confp_jax/model/weights.py"},
    "onnx": {"confp_jax/model/onnx_graph.py", "confp_jax/model/onnx_export.py"},
    "onnxruntime": {"confp_jax/fingerprint/onnx_engine.py", "confp_jax/model/onnx_export.py"},
    "scann": {"confp_jax/index/scann.py"},
    "faiss": {"confp_jax/index/faiss.py"},
    "pyarrow": {"confp_jax/library/parquet.py", "confp_jax/library/imported_rows.py"},
    "audfprint2": {"confp_jax/evaluation/systems/audfprint.py"},
    "pymilvus": {"confp_jax/index/milvus.py"},
    "starlette": {"confp_jax/service/"},
    "uvicorn": {"confp_jax/service/server.py"},
    "prometheus_client": {"confp_jax/service/metrics.py"},
    "etils": {  # paths that may lie in a bucket
        "confp_jax/training/train.py",
        "confp_jax/training/checkpoint.py",
        "confp_jax/model/weights.py",
        "confp_jax/model/remote.py",
        "confp_jax/training/export.py",
        "confp_jax/training/metric_log.py",
        "confp_jax/training/run_folder.py",
        "confp_jax/training/run_owner.py",
    },
    "ml_collections": COMMANDS
    | {"configs/", "confp_jax/command_line.py"},  # ConfigDict stops at the command line
    "absl": COMMANDS | {"confp_jax/command_line.py"},
    "tensorflow": set(),
    "torch": {"benchmarks/"},
    "torchaudio": set(),
    "librosa": {"tests/"},
}
JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}
# Searching needs no JAX: these files of the model, and all of its rooms but one file, do without.
MODEL_WITHOUT_JAX = {"addresses", "errors", "forked", "onnx_file", "parts", "shipped"}
JAX_ENGINE = "confp_jax/fingerprint/jax_engine.py"
SEARCHING = {*SEARCH, "evaluation", "service", "cli"}
SETTINGS = ("confp_jax.config.", "confp_jax.evaluation.config.", "confp_jax.typed_config.")
ONNX_EXPORT = "confp_jax.model.onnx_export"  # a command's, imported where it runs


def python_files() -> Iterator[tuple[str, str]]:
    """(path relative to the root, source) of all that ships."""
    for package in ("confp_jax", "data_prep", "configs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def imports(file: str, source: str) -> Iterator[str]:
    """Dotted names that the file imports: `from a.b import c` gives "a.b.c", which may be a module
    or a thing inside one.
    """
    package = pathlib.PurePosixPath(file).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            yield from (
                a.value
                for a in node.args[:1]
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def room_of(name: str) -> str:
    """The room of a dotted name inside confp_jax, "" for the package's front door."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def needs_jax(name: str) -> bool:
    """Whether a dotted name is JAX's, or of a file of the model that imports JAX."""
    if name.startswith("confp_jax.model.") and not name.startswith(ONNX_EXPORT):
        return name.split(".")[2] not in MODEL_WITHOUT_JAX
    return name.split(".")[0] in JAX


def violations(file: str, source: str) -> list[str]:
    """Everything that the architecture forbids in this file, in words."""
    found = []
    top = file.split("/")[0]
    room = pathlib.PurePosixPath(file).parts[1].removesuffix(".py") if top == "confp_jax" else ""
    front_door = file == "confp_jax/__init__.py"
    if top == "confp_jax" and room not in ROOMS and not front_door:
        found.append(f"{file} lies in no package of docs/develop/architecture.md")
        return found
    for name in imports(file, source):
        package = name.split(".")[0]
        if package in HEAVY and not any(file.startswith(place) for place in HEAVY[package]):
            found.append(
                f"{file} imports {name}, which belongs in "
                f"{', '.join(sorted(HEAVY[package])) or 'no file'}"
            )
        if top == "confp_jax" and package in ("data_prep", "benchmarks", "tests", "configs"):
            found.append(f"{file} imports {name}")
        if package in JAX and (room in WITHOUT_JAX or top in ("data_prep", "configs")):
            found.append(f"{file} imports {name}: no JAX there")
        if room in SEARCHING and file != JAX_ENGINE and needs_jax(name):
            found.append(f"{file} imports {name}: searching does without JAX")
        if package == "confp_jax":
            other = room_of(name)
            if other == "command_line" and file not in COMMANDS:
                found.append(f"{file} imports {name}: only commands do")
            if (
                top == "confp_jax"
                and not front_door
                and other
                and ROOMS.index(other) > ROOMS.index(room)
            ):
                found.append(f"{file} imports {name}: {other} stands to the right of {room}")
            if {room, other} & SEARCH and "training" in (room, other):
                found.append(
                    f"{file} imports {name}: training and searching never import each other"
                )
            if room in NO_AUDIO and other in ("audio", "data", "model"):
                found.append(f"{file} imports {name}: {room} knows no audio and no model")
            if top == "confp_jax" and not other and room != "cli":
                found.append(f"{file} imports {name}: through the front door")
            if top == "data_prep" and other not in PREPARATION_USES:
                found.append(
                    f"{file} imports {name}: data_prep uses {', '.join(sorted(PREPARATION_USES))}"
                )
            if top == "configs" and not name.startswith(SETTINGS):
                found.append(f"{file} imports {name}: settings are dataclasses and values")
    return found


@pytest.mark.parametrize("file", [file for file, _ in python_files()])
def test_every_file_keeps_to_its_place(file):
    assert violations(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("confp_jax/audio/decode.py", "from confp_jax.matching import ranking"),
        ("confp_jax/audio/decode.py", "def f():\n    from confp_jax import model"),
        ("confp_jax/audio/decode.py", "from ..data import records"),
        ("confp_jax/audio/decode.py", "import jax.numpy as jnp"),
        ("confp_jax/data/input.py", "from confp_jax.model.encoder import Encoder"),
        ("confp_jax/data/records.py", "from flax import nnx"),
        ("confp_jax/model/encoder.py", "import confp_jax.training.step"),
        (
            "confp_jax/training/step.py",
            "if TYPE_CHECKING:\n    from confp_jax.fingerprint.embedder import Embedder",
        ),
        ("confp_jax/matching/ranking.py", "from confp_jax.evaluation import open_set"),
        ("confp_jax/matching/ranking.py", "from confp_jax import Embedder"),
        ("confp_jax/library/add.py", "from confp_jax.training import step"),
        ("confp_jax/training/step.py", "from confp_jax.matching import ranking"),
        ("confp_jax/database/store.py", "from confp_jax.audio import mel"),
        ("confp_jax/index/exact.py", "import jax"),
        ("confp_jax/config/train.py", "from confp_jax.metrics import hit_rates"),
        ("confp_jax/audio/decode.py", "from confp_jax import command_line"),
        ("confp_jax/metrics.py", "import jax"),
        ("confp_jax/cli/queries.py", "import jax"),
        ("confp_jax/cli/queries.py", "import data_prep.fma"),
        ("confp_jax/utils.py", ""),
        ("confp_jax/training/train.py", "from configs import fma"),
        ("confp_jax/training/step.py", "from ml_collections import ConfigDict"),
        ("confp_jax/training/step.py", "from absl import flags"),
        ("confp_jax/training/train.py", "import orbax.checkpoint"),
        ("confp_jax/fingerprint/embedder.py", "import soundfile"),
        ("confp_jax/fingerprint/embedder.py", "import jax"),
        ("confp_jax/library/open.py", "from confp_jax.model.weights import EncoderState"),
        ("confp_jax/fingerprint/embedder.py", "import onnxruntime"),
        ("confp_jax/cli/queries.py", "import sounddevice"),
        ("confp_jax/cli/serve.py", "import uvicorn"),
        ("confp_jax/evaluation/tables.py", "from confp_jax.service import settings"),
        ("confp_jax/index/exact.py", "import scann"),
        ("confp_jax/index/__init__.py", "importlib.import_module('faiss')"),
        ("confp_jax/training/train.py", "import grain.python as pygrain"),
        ("data_prep/shards.py", "from confp_jax.model import encoder"),
        ("data_prep/shards.py", "import confp_jax"),
        ("data_prep/shards.py", "import audiomentations"),
        ("data_prep/shards.py", "from array_record.python import array_record_module"),
        ("configs/fma.py", "from confp_jax.training.train import train"),
    ],
)
def test_each_kind_of_violation_is_seen(file, source):
    assert len(violations(file, source)) >= 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "confp_jax/fingerprint/embedder.py",
            "from confp_jax.model.parts import mixed\nfrom confp_jax.audio import mel",
        ),
        (
            "confp_jax/matching/ranking.py",
            "from confp_jax.index.exact import ExactIndex\nfrom . import database",
        ),
        ("confp_jax/cli/queries.py", "import confp_jax\nfrom confp_jax.library import searcher"),
        ("confp_jax/metrics.py", "from confp_jax.config import AudioConfig"),
        (
            "data_prep/shards.py",
            "from confp_jax.data.records import Clip\nfrom data_prep.tracks import Track",
        ),
        ("confp_jax/data/input.py", "import grain\nimport jaxtyping"),
        ("configs/fma.py", "from confp_jax.config import TrainConfig"),
        ("data_prep/make_train.py", "from absl import flags\nfrom confp_jax import command_line"),
    ],
)
def test_what_is_allowed_is_let_through(file, source):
    assert violations(file, source) == []


def test_the_rules_speak_of_what_there_is():
    """A file that was renamed must not leave a rule behind that guards nothing."""
    sources = dict(python_files())
    for package in (
        "soundfile",
        "soxr",
        "av",
        "sounddevice",
        "audiomentations",
        "tensorflow_datasets",
        "array_record",
        "grain",
        "orbax",
        "etils",
        "onnx",
        "onnxruntime",
        "scann",
        "faiss",
        "pymilvus",
        "pyarrow",
        "audfprint2",
        "uvicorn",
        "prometheus_client",
    ):
        for file in HEAVY[package]:
            assert any(name.split(".")[0] == package for name in imports(file, sources[file])), (
                f"{file} imports no {package}"
            )


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Returns by module of confp_jax those that it imports, anywhere in its file."""
    named = {
        file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): file
        for file in sources
        if file.startswith("confp_jax/")
    }
    graph: dict[str, set[str]] = {name: set() for name in named}
    for module, file in named.items():
        for name in imports(file, sources[file]):
            while name and name not in named:
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {module, "confp_jax", ""}
    return graph


def test_no_import_circle():
    graphlib.TopologicalSorter(import_graph(dict(python_files()))).prepare()
    circle = {"confp_jax/a.py": "from confp_jax import b", "confp_jax/b.py": "import confp_jax.a"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(circle)).prepare()
