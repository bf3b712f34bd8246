"""Any command line as a system: templates with placeholders, an argument list, never a shell."""

import dataclasses
import pathlib
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence

from confp_jax.evaluation.systems.bounded import run_bounded
from confp_jax.evaluation.systems.protocol import (
    NUM_FOUND,
    Answer,
    Found,
    QueryError,
    SystemFailedError,
    answers,
)
from confp_jax.typed_config import ConfigError

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_KNOWN = {"index": {"folder", "file", "files", "list"}, "query": {"folder", "query"}}
_MAX_TROUBLES = 3  # one after the other: then the rest of the queries is not tried


@dataclasses.dataclass(frozen=True)
class CommandConfig:
    """A program by its command lines.

    `index` may name {folder} (its own, to write in) and {files} (all), {file} (then it runs once a
    file) or {list} (a text file with a path a line); `query` names {folder} and {query}. `answer`
    is a regular expression, searched for in each line of what `query` prints, best first, with the
    groups `track` (a path or a name), `offset` (s, optional) and `score` (optional).
    """

    name: str = ""  # of the system in the report; empty: none
    index: str = ""  # the command that indexes
    query: str = ""  # the command that asks
    # a line of its answer
    answer: str = (
        r"^(?P<track>[^,\t]+)[,\t]\s*(?P<offset>[-+.\deE]+)(?:[,\t]\s*(?P<score>[-+.\deE]+))?"
    )

    def check(self) -> None:
        """Raises ConfigError for a template that cannot work."""
        for field, known in _KNOWN.items():
            unknown = set(_PLACEHOLDER.findall(getattr(self, field))) - known
            if unknown:
                raise ConfigError(
                    f"command.{field} has {unknown}; known: "
                    f"{', '.join(sorted(f'{{{name}}}' for name in known))}"
                )
        if not self.name or "{query}" not in self.query:
            raise ConfigError("command needs a name, and a query line with {query} in it")
        try:
            groups = re.compile(self.answer).groupindex
        except re.error as error:
            raise ConfigError(f"command.answer is no regular expression: {error}") from error
        if "track" not in groups:
            raise ConfigError("command.answer needs a group (?P<track>...)")


@dataclasses.dataclass(frozen=True)
class External:
    """A program that is started once a query; the time of its start is part of its time."""

    folder: pathlib.Path
    command: CommandConfig
    index_limit_s: float
    query_limit_s: float

    def version(self) -> str:
        """Returns the sizes and times of the files that its command lines name."""
        words = {
            word for line in (self.command.index, self.command.query) for word in shlex.split(line)
        }
        paths = [pathlib.Path(shutil.which(word) or word) for word in sorted(words)]
        return "; ".join(
            f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"
            for path in paths
            if path.is_file()
        )

    def index(self, files: Sequence[pathlib.Path]) -> None:
        """Runs the index line, once or once a file; none where it is empty."""
        if not self.command.index:
            return
        listed = self.folder / "files.txt"
        listed.write_text("".join(f"{file}\n" for file in files))
        values = {"folder": str(self.folder), "list": str(listed)}
        one_by_one = "{file}" in self.command.index
        for file in files if one_by_one else [None]:
            argv = arguments(
                self.command.index, values | ({"file": str(file)} if file else {}), files
            )
            trouble = _run(argv, self.index_limit_s).trouble
            if trouble:
                raise SystemFailedError(f"{argv[0]} (index): {trouble}")

    def query(self, files: Sequence[pathlib.Path]) -> Iterator[Answer]:
        """Runs the query line for every file."""
        troubles = 0

        def answer(file: pathlib.Path) -> list[Found]:
            nonlocal troubles
            ran = _run(
                arguments(self.command.query, {"folder": str(self.folder), "query": str(file)}),
                self.query_limit_s,
            )
            troubles = troubles + 1 if ran.trouble else 0
            if troubles >= _MAX_TROUBLES:
                raise SystemFailedError(
                    f"{_MAX_TROUBLES} queries one after the other failed; the last: {ran.trouble}"
                )
            if ran.trouble:
                raise QueryError(ran.trouble)
            return parse_answer(ran.stdout, self.command.answer)

        return answers(files, answer)


def arguments(
    template: str, values: Mapping[str, str], files: Sequence[pathlib.Path] = ()
) -> list[str]:
    """Returns the argument list: split as a shell splits, then filled in, so that a space or a `;`
    in a path stays what it is.
    """
    out = []
    for word in shlex.split(template):
        if word == "{files}":
            out += [str(file) for file in files]
        else:
            out.append(_PLACEHOLDER.sub(lambda found: values[found[1]], word))
    return out


def parse_answer(text: str, pattern: str) -> list[Found]:
    """Distinct tracks of the lines that match; a later line is worth less where there is no score.

    Raises:
      QueryError: an offset or a score that is no number.
    """
    best: dict[str, Found] = {}
    for line in text.splitlines():
        found = re.search(pattern, line)
        if found is None:
            continue
        groups = found.groupdict()
        track = pathlib.PurePath(groups["track"].strip()).name
        track = track.removesuffix(".wav")
        try:
            offset_s = float(groups.get("offset") or "nan")
            score = float(groups.get("score") or -len(best))
        except ValueError as error:
            raise QueryError(
                f"its line {line!r} holds no number where command.answer has one ({error})"
            ) from error
        best.setdefault(track, Found(track, offset_s, score))
    return list(best.values())[:NUM_FOUND]


def _run(argv: Sequence[str], limit_s: float):
    try:
        return run_bounded(argv, limit_s=limit_s)
    except FileNotFoundError as error:
        raise SystemFailedError(
            f"{argv[0]} is not installed, or not to be found by this name ({error})"
        ) from error
