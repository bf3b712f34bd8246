"""Generates the reference pages from the code, as a hook of MkDocs (mkdocs.yml).

A line `<!-- generate: NAME -->` in a page is replaced by what the function of that name in
`GENERATORS` returns. The model cards of confp_jax/pretrained/ become pages below models/.
"""

import argparse
import ast
import dataclasses
import functools
import importlib
import inspect
import io
import json
import pathlib
import re
import textwrap
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[1]
_MARKER = re.compile(r"<!-- generate: (\w+) -->")
_NOT_RUN_BY_HAND = ("bounded", "worker", "decode_worker")
_CARDS = ROOT / "confp_jax" / "pretrained"
# Each file of settings, its variants, and the dataclass that its values are turned into.
_CONFIGS = (
    (
        "fma",
        ("small", "medium", "large", "small_online", "edge", "tiny"),
        "confp_jax.config.TrainConfig",
    ),
    ("prepare", ("large", "paper_large"), "data_prep.config.PrepareConfig"),
    ("queries", ("test", "validation", "all", "paper"), "data_prep.config.QueryConfig"),
    ("calibrate", (), "confp_jax.evaluation.config.CalibrationConfig"),
    ("open_set", (), "confp_jax.evaluation.config.OpenSetConfig"),
    (
        "benchmark",
        ("paper", "ours", "quick"),
        "confp_jax.evaluation.config.BenchmarkConfig",
    ),
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the model cards as pages."""
    for path in sorted(_CARDS.glob("*/*.md")):
        uri = f"models/{path.relative_to(_CARDS).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the markers of a page."""
    return _MARKER.sub(lambda found: GENERATORS[found[1]](), markdown)


def command_line() -> str:
    """Returns every command of `confp` with its arguments, from the parser."""
    from confp_jax import cli

    parser = cli._parser()
    commands = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return "\n".join(_command(name, sub) for name, sub in commands.choices.items())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage:").split())
    rows = [
        (f"`{_spelled(action)}`", _one_line((action.help or "") % vars(action)))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    lines = [f"## confp {name}", "", parser.description or "", "", "```", usage, "```", ""]
    lines += _table(("argument", "meaning"), rows)
    if parser.epilog:
        examples = textwrap.dedent(parser.epilog.removeprefix("examples:\n"))
        lines += ["", "```bash", examples.rstrip(), "```"]
    return "\n".join([*lines, ""])


def _spelled(action: argparse.Action) -> str:
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if isinstance(value, tuple):
        value = " ".join(value)
    if action.choices:
        value = ",".join(map(str, action.choices))
    return " ".join(filter(None, [", ".join(action.option_strings), value]))


def configuration() -> str:
    """Returns every field of every file of settings: name, default, values of variants, meaning."""
    return "\n".join(_config_section(*row) for row in _CONFIGS)


def _config_section(name: str, variants: Sequence[str], place: str) -> str:
    module = importlib.import_module(f"configs.{name}")
    package, _, cls_name = place.rpartition(".")
    cls = getattr(importlib.import_module(package), cls_name)
    said = _file_comments(inspect.getsource(module))
    values = {variant: _flat(module.get_config(variant).to_dict()) for variant in variants}
    values = values or {"": _flat(module.get_config().to_dict())}
    named = set().union(*values.values())
    rows = [
        (
            f"`{field}`",
            _value(default),
            _differing(field, default, values),
            meaning or (said(field) if field in named else ""),
        )
        for field, default, meaning in config_fields(cls)
    ]
    intro = _one_line((inspect.getdoc(cls) or "").split("\n\n")[0])
    file = f"`configs/{name}.py`" + (f" ({', '.join(variants)})" if variants else "")
    header = ("field", "default", "set by the file", "meaning")
    return "\n".join(
        [f"## {cls_name}", "", f"{intro} File: {file}.", "", *_table(header, rows), ""]
    )


def config_fields(cls: Any, *, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields (dotted name, default, comment in the source) for every field, also of the groups."""
    said = field_comments(cls)
    for field in dataclasses.fields(cls):
        default = field.default
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            yield from _group_fields(type(default), default, path=f"{path}{field.name}.")
        else:
            yield path + field.name, default, said.get(field.name, "")


def _group_fields(cls: Any, group: Any, *, path: str) -> Iterator[tuple[str, Any, str]]:
    """Yields the fields of a group with the values that the group has where it is used."""
    if hasattr(group, "p"):  # a probability and its ranges: one row says it all
        name = path.removesuffix(".")
        yield name, tuple(vars(group).values()), f"({', '.join(vars(group))})"
        return
    for name, default, meaning in config_fields(cls, path=path):
        values: Any = group
        for part in name.removeprefix(path).split("."):
            values = getattr(values, part)
        is_group = dataclasses.is_dataclass(values)
        yield name, default if is_group else values, meaning


@functools.cache
def field_comments(cls: Any) -> dict[str, str]:
    """Returns the comment of each field of a dataclass: above it, or beside it."""
    source = textwrap.dedent(inspect.getsource(cls))
    fields = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign)]
    comments = _comments(source)
    found = {}
    for node in fields:
        if not isinstance(node.target, ast.Name):
            continue
        above = []
        line = node.lineno - 1
        while line in comments and comments[line][0]:
            above.insert(0, comments[line][1])
            line -= 1
        last = node.end_lineno or node.lineno
        beside = [comments[n][1] for n in range(node.lineno, last + 1) if n in comments]
        if text := " ".join(above + beside):
            found[node.target.id] = text
    return found


def _comments(source: str) -> dict[int, tuple[bool, str]]:
    """Returns by line: whether the comment has the line for itself, and its text."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = is_alone, token.string.lstrip("# ").strip()
    return found


def _file_comments(source: str) -> Callable[[str], str]:
    """Returns a look-up of the comments beside or above the keys of a file of settings."""
    comments = _comments(source)
    found = {}
    keys = re.compile(r'^\s+"(\w+)":')
    for number, line in enumerate(source.splitlines(), start=1):
        if key := keys.match(line):
            above = []
            before = number - 1
            while before in comments and comments[before][0]:
                above.insert(0, comments[before][1])
                before -= 1
            beside = [comments[number][1]] if number in comments else []
            found.setdefault(key[1], " ".join(above + beside))
    return lambda field: found.get(field.rpartition(".")[2], "")


def _differing(field: str, default: Any, values: dict[str, dict[str, Any]]) -> str:
    """Returns the values that differ from the default, with the variants that set them."""
    by_value: dict[str, list[str]] = {}
    for variant, flat in values.items():
        found = flat.get(field, default)
        if _plain(found) != _plain(default):
            by_value.setdefault(_value(found), []).append(variant)
    if len(by_value) == 1 and sum(map(len, by_value.values())) == len(values):
        return next(iter(by_value))
    return "; ".join(f"{', '.join(names)}: {value}" for value, names in by_value.items())


def _flat(values: dict[str, Any], *, path: str = "") -> dict[str, Any]:
    """Returns nested groups by dotted names, and each group also as the tuple of its values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat[path + name] = tuple(value.values())
            flat |= _flat(value, path=f"{path}{name}.")
        else:
            flat[path + name] = value
    return flat


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _value(value: Any) -> str:
    return f"`{_plain(value)!r}`"


def http() -> str:
    """Returns every path of the service with its parameters and answers, from OpenAPI."""
    from confp_jax.service.openapi import document
    from confp_jax.service.settings import Settings

    api = document(Settings())
    parts = [_operation(path, *item) for path, ops in api["paths"].items() for item in ops.items()]
    schemas = api["components"]["schemas"].items()
    return "\n".join([*parts, "## Schemas", "", *(_schema(name, value) for name, value in schemas)])


def _operation(path: str, method: str, about: dict[str, Any]) -> str:
    lines = [f"## {method.upper()} {path}", "", _one_line(about["summary"]), ""]
    if "security" in about:
        lines += ["Needs the token: `Authorization: Bearer TOKEN`.", ""]
    if rows := [
        (f"`{p['name']}`", p["in"], _kind(p["schema"]), _one_line(p.get("description", "")))
        for p in about.get("parameters", [])
    ]:
        lines += [*_table(("parameter", "in", "type", "meaning"), rows), ""]
    if body := about.get("requestBody"):
        kinds = " or ".join(f"`{kind}`" for kind in body["content"])
        lines += [f"Body, as {kinds}: {_one_line(body['description'])}", ""]
    answers = [
        (code, _one_line(answer["description"]), ", ".join(_contents(answer)))
        for code, answer in about["responses"].items()
    ]
    return "\n".join([*lines, *_table(("status", "when", "content"), answers), ""])


def _contents(answer: dict[str, Any]) -> Iterator[str]:
    for kind, content in answer.get("content", {}).items():
        schema = content.get("schema", {})
        yield _kind(schema) if "$ref" in schema else f"`{kind}`"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (f"`{key}`", _kind(value), "" if key in required else "optional", _described(value))
        for key, value in schema.get("properties", {}).items()
    ]
    return "\n".join([f"### {name}", "", *_table(("member", "type", "", "meaning"), rows), ""])


def _described(schema: dict[str, Any]) -> str:
    return _one_line(schema.get("description", ""))


def _kind(schema: dict[str, Any]) -> str:
    """Returns the type of a schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(_kind(one) for one in schema[key])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else kind


def errors() -> str:
    """Returns every exception that this package defines, from the sources."""
    rows = []
    for path in sorted((ROOT / "confp_jax").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
                place = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                meaning = _one_line((ast.get_docstring(node) or "").split("\n\n")[0])
                rows.append((f"`{node.name}`", bases, f"`{place}`", meaning))
    return "\n".join(_table(("error", "is a", "module", "when"), rows))


def modules() -> str:
    """Returns every file that is run as `python -m`, with the beginning of its docstring."""
    rows = []
    for folder in ("confp_jax", "data_prep", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if "__name__ ==" in source and path.stem not in _NOT_RUN_BY_HAND:
                doc = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
                place = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                rows.append((f"`{place}`", _one_line(doc)))
    return "\n".join(_table(("module", "what it does"), rows))


def extras() -> str:
    """Returns the extras of pyproject.toml with their packages and comments."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = tomllib.loads(text)["project"]["optional-dependencies"]
    said = dict(re.findall(r"^(\w+) = \[.*?# (.+)$", text, flags=re.MULTILINE))
    rows = [
        (
            f"`{name}`",
            said.get(name, ""),
            ", ".join(re.split(r"[<>=;~! ]", one)[0] for one in needs),
        )
        for name, needs in packages.items()
    ]
    return "\n".join(_table(("extra", "for", "packages"), rows))


def python() -> str:
    """Returns a mkdocstrings directive for each name that `import confp_jax` gives."""
    import confp_jax

    names = [name for name in confp_jax.__all__ if name != "open"]
    places = ["confp_jax.open", *(f"confp_jax.{confp_jax._PLACES[name]}.{name}" for name in names)]
    return "\n\n".join(f"::: {place}" for place in places)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table, without the columns that are empty in every row."""
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[header[i] for i in used], ["---"] * len(used)]
    lines += [[row[i].replace("|", "\\|") for i in used] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _one_line(text: str) -> str:
    return " ".join(text.split())


GENERATORS: dict[str, Callable[[], str]] = {
    "command_line": command_line,
    "configuration": configuration,
    "errors": errors,
    "extras": extras,
    "http": http,
    "modules": modules,
    "python": python,
}
