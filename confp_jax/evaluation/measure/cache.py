"""Results that are measured once and kept; an interrupted write is never taken for one."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from confp_jax.files import write_atomically

_Row = TypeVar("_Row")  # a dataclass


def write_json(path: pathlib.Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes values as JSON, whole or not at all."""
    write_atomically(path, json.dumps(values))


def cached_rows(
    path: pathlib.Path, kind: type[_Row], measure: Callable[[], Sequence[_Row]]
) -> list[_Row]:
    """Rows (dataclasses) that `path` keeps; measured and written there where it does not."""
    if not path.is_file():
        # pyrefly: ignore[bad-argument-type]
        write_json(path, [dataclasses.asdict(row) for row in measure()])
    return [kind(**values) for values in json.loads(path.read_text())]
