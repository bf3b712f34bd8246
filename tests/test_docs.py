"""The documentation: it builds, it is whole, and what it shows can be run."""

import ast
import dataclasses
import importlib
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import confp_jax
from confp_jax import cli
from confp_jax.config import MixConfig, TrainConfig
from confp_jax.typed_config import flat_fields

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "confp_jax" / "pretrained").rglob("*.md")),
]
CITATION = re.compile(r'(docs/[\w/-]+\.md)(?:, "([^"]+)")?')
CONFIGS = ("benchmark", "calibrate", "fma", "open_set", "prepare", "queries")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py."""
    pytest.importorskip("mkdocs", reason="the extra `docs` builds the documentation")
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(page: pathlib.Path) -> Iterator[str]:
    """Yields the commands of a page's blocks: one a line, pipes and `&&` apart."""
    blocks = re.findall(r"```(bash|console)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    for kind, block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            if kind == "console" and not line.startswith("$ "):
                continue  # what a command printed
            words = " ".join(shlex.split(line.removeprefix("$ "), comments=True))
            yield from re.split(r" (?:\||&&|;|>) ", words)


def test_it_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` builds the documentation")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) > 25
    assert not any("<!-- generate" in page for page in pages)
    assert not any("fonts.googleapis" in page for page in pages)


def test_every_command_and_every_option_is_in_the_reference(generate: ModuleType) -> None:
    text = generate.command_line()
    parser = cli._parser()
    choices = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    assert {"identify", "add", "serve"} <= set(choices)
    for name, command in choices.items():
        section = text.split(f"## confp {name}\n")[1].split("\n## ")[0]
        for action in command._actions:
            assert all(option in section for option in action.option_strings if option != "--help")
            assert not action.metavar or action.metavar in section


def test_every_field_of_a_training_run_is_in_the_reference(generate: ModuleType) -> None:
    text = generate.configuration()
    missing = [name for name in flat_fields(TrainConfig()) if f"| `{name}` |" not in text]
    assert not missing
    assert not re.findall(r"^\| .*\|  \|$", text, flags=re.MULTILINE), "a field has no comment"
    section = text.split("## TrainConfig\n")[1].split("\n## ")[0]
    row = next(line for line in section.splitlines() if "`encoder.dim`" in line)
    assert "`256`" in row and "large: `768`" in row


def test_the_comment_of_a_field_is_its_meaning(generate: ModuleType) -> None:
    found = generate.field_comments(MixConfig)
    assert "per octave" in found["tilt_db"]  # beside it
    fields = {name: (default, said) for name, default, said in generate.config_fields(TrainConfig)}
    assert "distillation" in fields["teacher"][1]  # above it
    # A group that is used twice has the values of each place.
    assert fields["mel.fft_samples"][0] == 1024
    assert fields["encoder.projection.mel.fft_samples"][0] == 2048


def test_every_path_and_every_schema_is_in_the_reference(generate: ModuleType) -> None:
    from confp_jax.service.openapi import document
    from confp_jax.service.settings import Settings

    text = generate.http()
    api = document(Settings())
    for path, operations in api["paths"].items():
        for method, about in operations.items():
            section = text.split(f"## {method.upper()} {path}\n")[1].split("\n## ")[0]
            assert all(f"| {code} |" in section for code in about["responses"])
    for name, schema in api["components"]["schemas"].items():
        section = text.split(f"### {name}\n")[1].split("\n### ")[0]
        assert all(f"`{member}`" in section for member in schema["properties"])


def test_every_field_of_an_answer_is_explained() -> None:
    text = (DOCS / "music" / "answer.md").read_text()
    for kind in (confp_jax.Answer, confp_jax.Match):
        missing = [f.name for f in dataclasses.fields(kind) if f"`{f.name}`" not in text]
        assert not missing, f"docs/music/answer.md does not explain {missing} of {kind.__name__}"
    statuses = re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)
    assert statuses == ["0", "1", "2", "3", "130"]


def test_errors_and_extras_are_in_the_reference(generate: ModuleType) -> None:
    assert "`DecodeError`" in generate.errors() and "`DatabaseError`" in generate.errors()
    assert "| `serve` |" in generate.extras() and "starlette" in generate.extras()
    assert "`confp_jax.training.train`" in generate.modules()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_can_be_run(page: pathlib.Path) -> None:
    pytest.importorskip("ml_collections", reason="the extra `train` has the configurations")
    parser = cli._parser()
    known = {
        field
        for name in CONFIGS
        for field in flat_names(importlib.import_module(f"configs.{name}").get_config().to_dict())
    }
    for command in commands(page):
        words = command.split()
        if words[:1] == ["confp"] and "COMMAND" not in words:
            try:
                parser.parse_args(words[1:])
            except SystemExit as stopped:
                assert stopped.code == 0, f"{page}: `{command}` is no command of this program"
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), f"{page}: there is no {words[2]}"
        for field in re.findall(r"--config\.([\w.]+)=", command):
            assert field in known, f"{page}: no configuration has the field {field}"


def test_pages_show_commands() -> None:
    """The tests around this one find them."""
    words = [command.split() for page in PAGES for command in commands(page)]
    assert sum(first[:1] == ["confp"] for first in words) > 50
    assert sum(first[:2] == ["python", "-m"] for first in words) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_in_python_is_python(page: pathlib.Path) -> None:
    if page.name != "conventions.md":  # which shows bad and good code side by side
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
            ast.parse(block)


def flat_names(values: dict, path: str = "") -> Iterator[str]:
    """Yields the dotted name of every field; a group of values may be set as a whole."""
    for name, value in values.items():
        yield path + name
        if isinstance(value, dict):
            yield from flat_names(value, f"{path}{name}.")


def test_what_the_code_cites_is_there() -> None:
    """A citation is a page of docs, with a comma and a part of its text in quotes or without."""
    cited = []
    for folder in ("confp_jax", "configs", "data_prep", "tests", "launch", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = re.sub(r"\s*\n\s*(?:# )?", " ", path.read_text())
            cited += [(path, *found) for found in CITATION.findall(text)]
    assert len(cited) > 10
    for path, page, part in cited:
        assert (ROOT / page).is_file(), f"{path} cites {page}"
        assert part in (ROOT / page).read_text(), f'{path} cites "{part}" of {page}'


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_no_place_outside_the_repository(page: pathlib.Path) -> None:
    assert not re.search(r"\.\./shared|/wor[k]/|\b(PAPER|FACTS|LAYOUT|HOUSE)\b", page.read_text())


def test_the_first_page_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(lines)):
        assert target.startswith("http") or (ROOT / target).exists(), f"README links {target}"
