"""Files that are whole or not there, and what a full disk looks like."""

import errno
import pathlib
from collections.abc import Callable
from typing import Any

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: pathlib.Path, content: str | Callable[[Any], object]) -> pathlib.Path:
    """Writes a file that stands under its name only when it is complete. Missing folders are made.

    Args:
      path: the file.
      content: text (written as UTF-8), or what is called with the open binary file.

    Returns:
      The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        if isinstance(content, str):
            file.write(content.encode())
        else:
            content(file)
    partial.replace(path)
    return path


def is_disk_full(error: Exception) -> bool:
    """Returns whether an error says that there is no space left, or no more is allowed."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL
