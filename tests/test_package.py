"""What is published: one version, the formats in the changelog, what an import loads."""

import importlib
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import confp_jax
from confp_jax.data import records
from confp_jax.database import catalogue
from confp_jax.evaluation import benchmark
from confp_jax.matching import decision

OF_TRAINING = {
    "absl",
    "array_record",
    "audiomentations",
    "grain",
    "ml_collections",
    "tensorboardX",
    "tensorflow_datasets",
}


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())


def test_one_version(root, project):
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "confp_jax/__init__.py"
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["version"] == confp_jax.__version__
    assert f"## {confp_jax.__version__}" in (root / "CHANGELOG.md").read_text()


def test_the_changelog_names_every_format(root):
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", (root / "CHANGELOG.md").read_text(), re.M)
    assert dict(rows) == {
        "database": str(catalogue.FORMAT),
        "decision (`decision.json`)": str(decision.VERSION),
        "prepared dataset": records.VERSION,
        "benchmark results": benchmark._VERSION,
    }


def test_the_wheel_holds_one_package(root, project):
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["confp_jax"]
    assert (root / "confp_jax" / "py.typed").exists()


def test_training_is_an_extra(project):
    def names(requirements):
        return {re.split(r"[\[<>=;~! ]", one)[0].replace("-", "_") for one in requirements}

    extras = project["project"]["optional-dependencies"]
    of_extra = names(extras["train"]) | names(extras["prepare"]) | names(extras["jax"])
    assert {"jax", "flax", "orbax_checkpoint", "onnx"} <= of_extra
    assert {"grain", "tensorflow_datasets", "array_record", "tensorboardX"} <= of_extra
    assert not names(project["project"]["dependencies"]) & (of_extra | {"pyarrow"} - {"confp_jax"})


def test_the_lock_file_names_no_machine(root):
    lines = (root / "requirements.lock").read_text().splitlines()
    wanted = r"[\w.-]+==[\w.!+-]+( ; .+)?|    # +via.*|    #   [\w.\[\],() -]+"
    assert [line for line in lines[2:] if not re.fullmatch(wanted, line)] == []


def modules_after(code: str) -> set[str]:
    """Every module that a fresh interpreter holds after `code`."""
    report = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    loaded = {name.split(".")[0] for name in modules_after("import confp_jax")}
    assert not loaded & (OF_TRAINING | {"jax", "flax", "optax", "orbax", "scipy", "pyarrow"})


def test_identify_loads_no_jax_and_nothing_of_training():
    loaded = modules_after(
        "import confp_jax.cli.queries, confp_jax.library.open, confp_jax.library.searcher"
    )
    assert "confp_jax.library.open" in loaded
    assert not {name for name in loaded if name.startswith("confp_jax.training")}
    unwanted = OF_TRAINING | {"jax", "flax", "optax", "orbax", "onnx", "pyarrow"}
    assert not {name.split(".")[0] for name in loaded} & unwanted


@pytest.mark.parametrize(("package", "extra"), [("training", "train"), ("evaluation", "evaluate")])
def test_a_missing_extra_is_named(package, extra, monkeypatch):
    module = importlib.import_module(f"confp_jax.{package}")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ml_collections" else found(name)
    )
    with pytest.raises(ImportError, match=rf"pip install 'confp-jax\[{extra}\]'"):
        importlib.reload(module)


def test_the_workflows_name_extras_and_scripts_that_exist(root, project):
    files = list((root / ".github" / "workflows").glob("*.yml"))
    assert len(files) == 2
    for path in files:
        text = path.read_text()
        assert all(job["steps"] for job in yaml.safe_load(text)["jobs"].values())
        scripts = re.findall(r"\./(launch/\w+\.sh)", text)
        assert all((root / script).exists() for script in scripts)
        extras = re.findall(r"(?:EXTRAS: |\.\[)([\w,]+)", text)
        assert extras
        named = {name for listed in extras for name in listed.split(",")}
        assert named <= project["project"]["optional-dependencies"].keys()


def test_nobody_is_told_that_it_is_used():
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_programs_with_the_names_of_before_go_on():
    assert confp_jax.FoundTrack is confp_jax.Match
    sys.modules.pop("confp_jax.retrieval", None)
    with pytest.deprecated_call():
        records = importlib.import_module("confp_jax.retrieval.database.records")
    assert records.ModelStamp is importlib.import_module("confp_jax.database").ModelId
    for name in importlib.import_module("confp_jax.retrieval")._MODULES:
        module = importlib.import_module(f"confp_jax.retrieval.{name}")
        with pytest.raises(AttributeError):
            module.nothing_of_this_name  # noqa: B018 - each module is there
