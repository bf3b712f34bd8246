"""What a system that takes part in the benchmark must do, and what it answers."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

NUM_FOUND = 5  # results that are asked of a system: top-1 and top-5


class SystemFailedError(Exception):
    """A system that cannot take part: not installed, crashed, too slow.

    The message says why and what to do.
    """


class QueryError(Exception):
    """One query that a system could not answer; the others still run."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A result: the indexed file's name without its ending, and where in it the query begins.

    A greater score is surer.
    """

    track: str
    offset_s: float
    score: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one query: distinct tracks, best first; none where the system knows nothing."""

    found: tuple[Found, ...]
    elapsed_s: float
    error: str = ""


class System(Protocol):
    """A fingerprinter with a folder for its index.

    `query` may run in another process than `index`, after it.
    """

    def version(self) -> str:
        """Returns what changes whenever its answers may: weights, package, program."""
        ...

    def index(self, files: Sequence[pathlib.Path]) -> None:
        """Makes the index of WAV files in the folder that the system was made with."""

    def query(self, files: Sequence[pathlib.Path]) -> Iterator[Answer]:
        """An answer a file, in their order."""


def answers(
    files: Sequence[pathlib.Path], answer: Callable[[pathlib.Path], Sequence[Found]]
) -> Iterator[Answer]:
    """Every file's answer with the time it took, a `QueryError` noted."""
    for file in files:
        began = time.perf_counter()
        try:
            found = tuple(answer(file)[:NUM_FOUND])
            error = ""
        except QueryError as reason:
            found = ()
            error = str(reason)
        yield Answer(found, time.perf_counter() - began, error)
