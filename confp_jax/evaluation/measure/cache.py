"""Results that are measured once and kept; an interrupted write is never taken for one, and a
damaged file is measured again.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from confp_jax.errors import UserError
from confp_jax.files import one_process, write_atomically

_log = logging.getLogger(__name__)
_Row = TypeVar("_Row")  # a dataclass
_Kept = TypeVar("_Kept")
# What JSON, NumPy and zip files raise where bytes have changed, or fields are missing.
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def write_json(path: pathlib.Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes values as JSON, whole or not at all."""
    write_atomically(path, json.dumps(values))


class EvaluationInUseError(UserError):
    """Another evaluation writes to the same place."""


@contextlib.contextmanager
def one_run(locks: Sequence[pathlib.Path]) -> Iterator[None]:
    """Holds lock files in the places that an evaluation writes to.

    Raises:
      EvaluationInUseError: another one writes to one of them.
    """
    with contextlib.ExitStack() as held:
        for lock in locks:
            held.enter_context(one_process(lock, functools.partial(_in_use, lock)))
        yield


def _in_use(lock: pathlib.Path, by: str) -> EvaluationInUseError:
    return EvaluationInUseError(
        f"{lock.parent} is being written to{by}; wait until that evaluation ends, stop it, or name "
        "another place (--out, --config.cache)"
    )


def read_cached(path: pathlib.Path, read: Callable[[pathlib.Path], _Kept]) -> _Kept | None:
    """Returns what `read` makes of a kept file; None where it is missing, or damaged, which is
    reported: what it held must be made again.
    """
    if not path.is_file():
        return None
    try:
        return read(path)
    except _DAMAGE as error:
        reason = str(error).splitlines()[:1] or [type(error).__name__]
        _log.warning("%s is damaged (%s); it is made again", path, reason[0])
        return None


def cached_rows(
    path: pathlib.Path, kind: type[_Row], measure: Callable[[], Sequence[_Row]]
) -> list[_Row]:
    """Returns the rows (dataclasses) that `path` keeps; if there are none, measures them first."""

    def read(path: pathlib.Path) -> list[_Row]:
        return [kind(**values) for values in json.loads(path.read_text())]

    kept = read_cached(path, read)
    if kept is not None:
        return kept
    # pyrefly: ignore[bad-argument-type]
    write_json(path, [dataclasses.asdict(row) for row in measure()])
    return read(path)
