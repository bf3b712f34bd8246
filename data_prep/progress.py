"""What long steps show: a bar on a terminal, a line now and then in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_EVERY_S = 30.0  # a line, where there is no terminal


@contextlib.contextmanager
def counting(console: Console, label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives `report(done, total)`, which moves a bar with the elapsed and the remaining time, or
    prints both in lines where the output is no terminal.
    """
    if not console.is_terminal:
        yield _Lines(console, label).report
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    """Progress by lines: the first at once, then one every `_EVERY_S`, and the last."""

    def __init__(self, console: Console, label: str):
        self._console = console
        self._label = label
        self._began_s = self._said_s = time.monotonic()
        self._first: int | None = None  # done before this run

    def report(self, done: int, total: int) -> None:
        """Says how far it is, if it is time to."""
        now_s = time.monotonic()
        if self._first is not None and done < total and now_s - self._said_s < _EVERY_S:
            return
        self._first = done if self._first is None else self._first
        self._said_s = now_s
        spent_s = now_s - self._began_s
        left = ""
        if done > self._first and done < total:
            left_s = spent_s / (done - self._first) * (total - done)
            left = f", about {left_s / 60:.0f} min left"
        self._console.print(
            f"{self._label}: {done} of {total} after {spent_s / 60:.1f} min{left}", highlight=False
        )
