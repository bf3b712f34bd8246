"""Files that are whole or not there: what was measured once is kept, and an interrupted write must
not be taken for it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

_Row = TypeVar("_Row")  # a dataclass


def write_atomically(path: pathlib.Path, write: Callable[[Any], object]) -> pathlib.Path:
    """Calls `write` with a binary file; it stands under its name when it is complete.

    Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        write(file)
    partial.replace(path)
    return path


def write_json(path: pathlib.Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    """As `write_atomically`."""
    write_atomically(path, lambda file: file.write(json.dumps(values).encode()))


def cached_rows(
    path: pathlib.Path, kind: type[_Row], measure: Callable[[], Sequence[_Row]]
) -> list[_Row]:
    """Rows (dataclasses) that `path` keeps; measured and written there where it does not."""
    if not path.is_file():
        # pyrefly: ignore[bad-argument-type]
        write_json(path, [dataclasses.asdict(row) for row in measure()])
    return [kind(**values) for values in json.loads(path.read_text())]
