"""What the commands share: tables, JSON, progress, exit status, and how a command is declared."""

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from confp_jax.texts import plain, steady_json

if TYPE_CHECKING:
    from rich.progress import Progress

_MODEL_HELP = (
    "a shipped model (see `confp models`), a checkpoint folder or an ONNX file; default: the "
    "database's own, or edge2"
)
_ENGINE_HELP = (
    "what computes the model: auto (the default, or CONFP_ENGINE) is JAX on an accelerator, else "
    "ONNX Runtime; int8 takes half of the memory"
)

_NUM_COPIES = 3  # of a recording that is there many times, to be named in a line


class Commands:
    """Declares the commands of `confp`."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *,
        examples: str = "",
        model: bool = False,
        db: bool = True,
    ) -> argparse.ArgumentParser:
        """Declares a command with --json (and DB, and --model); `text` begins in lower case,
        `examples` are shown below its help.
        """
        sub = self._commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        if db:
            sub.add_argument("db", type=pathlib.Path, metavar="DB", help="the database's folder")
        sub.add_argument("--json", action="store_true", help="print JSON instead of text")
        if model:
            sub.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)
            sub.add_argument("--engine", choices=("auto", "onnx", "int8", "jax"), help=_ENGINE_HELP)
        return sub


def say(text: str, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Prints one line of plain text."""
    print(plain(text), file=file, flush=flush)


def drop_output() -> None:
    """Lets what could not be printed go, so that Python does not try again at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Output:
    """Standard output of a command that runs for long. Where it fails, the command still runs,
    unless nothing but it shows what is found.
    """

    def __init__(self, *, is_alone: bool):
        self._is_alone = is_alone
        self.error = ""

    def say(self, text: str) -> None:
        """Prints a line at once."""
        self._print(lambda: say(text, flush=True))

    def json_line(self, value: Any) -> None:
        """Prints one line of JSON at once."""
        self._print(lambda: print_json_line(value))

    def _print(self, act: Callable[[], None]) -> None:
        if self.error:
            return
        try:
            act()
        except OSError as error:
            if self._is_alone:
                raise
            self.error = f"standard output cannot be written ({error.strerror})"
            drop_output()


def print_answer(answer: Any) -> None:
    """Prints one answer, a line for each accepted match; notes and errors go to stderr."""
    if answer.error:
        say(f"failed {answer.error}", file=sys.stderr)
        return
    for note in answer.notes:
        say(f"note: {answer.query}: {note}", file=sys.stderr)
    for found in answer.matches[: answer.num_accepted]:
        end_s = found.query_offset_s + found.length_s
        where = (
            f"{clock(found.query_offset_s)} to {clock(end_s)}: " if answer.num_accepted > 1 else ""
        )
        tempo = f", tempo {found.tempo:.2f}" if abs(found.tempo - 1) >= 0.005 else ""
        sure = f"score {found.score:.2f}, confidence {found.confidence:.3f}{tempo}"
        say(
            f"{answer.query}: {where}{found.track} at {clock(found.offset_s)} [{known_as(found)}] "
            f"({sure})"
        )
    if not answer.num_accepted:
        best = answer.matches[0] if answer.matches else None
        nearest = (
            f" (nearest: {best.track} [{known_as(best)}], score {best.score:.2f}, confidence "
            f"{best.confidence:.3f})"
            if best
            else ""
        )
        say(f"{answer.query}: unknown{nearest}")


def known_as(found: Any) -> str:
    """Returns how a found track differs from others of its name: by its id, artist and title."""
    tags = " - ".join(tag for tag in (found.artist, found.title) if tag)
    copies = [f"{copy.track} (id {copy.id})" for copy in found.copies[:_NUM_COPIES]]
    more = len(found.copies) - len(copies)
    also = f"; also {', '.join(copies)}{f' and {more} more' if more else ''}" if copies else ""
    return f"id {found.id}" + (f", {tags}" if tags else "") + also


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns on a terminal, whole lines in a pipe."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(plain, row))
    width = None if sys.stdout.isatty() else 10_000  # a pipe gets whole lines
    Console(width=width, highlight=False, markup=False).print(table)


def print_json(value: Any) -> None:
    """Prints indented JSON in UTF-8."""
    print(steady_json(value, indent=1))


def print_json_line(value: Any) -> None:
    """Prints one line of JSON at once, for programs that read a stream."""
    print(steady_json(value), flush=True)


def progress(text: str) -> "Progress":
    """Shows a bar on stderr with elapsed and remaining time."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn(text),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


def clock(seconds: float) -> str:
    """Returns 83.4 s as 1:23.4."""
    tenths = round(float(f"{abs(seconds):.1f}") * 10)
    sign = "-" if seconds < 0 and tenths else ""
    return f"{sign}{tenths // 600}:{tenths % 600 / 10:04.1f}"


def status(num_failed: int, num: int) -> int:
    """Returns the exit status: 0 all well, 1 all failed (or nothing done), 3 some failed."""
    return 0 if not num_failed and num else 1 if num_failed == num else 3


def positive(text: str) -> float:
    """Reads a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def rate(text: str) -> float:
    """Reads the proportion of unknown queries that may be answered."""
    value = float(text)
    if not 1e-9 <= value < 0.05:
        raise argparse.ArgumentTypeError(
            f"{text} must lie between 1e-9 and 0.05; 0.001 is one in a thousand"
        )
    return value


def whole_number(text: str) -> int:
    """Reads a number of things: 0, 1, 2 and so on."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number such as 50")
    return int(text)


def milvus_address(text: str) -> str:
    """Checks an address of Milvus."""
    from confp_jax.index.milvus_sync import parse_uri

    try:
        parse_uri(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
