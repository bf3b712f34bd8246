"""A run's folder where it may be a bucket: files that grow are written here and copied there."""

import contextlib
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from confp_jax.errors import UserError
from confp_jax.typed_config import ConfigError


class RunFolderError(UserError):
    """The run's folder could not be written to while it trained. What it holds is whole."""


@contextlib.contextmanager
def names_a_full_disk(workdir: epath.Path) -> Iterator[None]:
    """Raises RunFolderError, with what to do, in place of an error of the file system."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{error}; free space for {workdir}: the same command continues from its last "
            "checkpoint"
        ) from error


def check_writable(workdir: epath.Path) -> None:
    """Makes a run's folder, and tries to write to it.

    Raises:
      ConfigError: the folder cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable_{uuid.uuid4().hex}"  # every host tries at the same time
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} cannot be written to ({error}); name another, or free its disk"
        ) from error


class GrowingFiles:
    """A local folder for files that are appended to; `publish` copies what changed.

    The objects of a bucket cannot be appended to. A run in a folder of this machine is written to
    in place.
    """

    def __init__(self, local: epath.Path, remote: epath.Path | None):
        self.local = local
        self._remote = remote
        self._published: dict[str, int] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, workdir: epath.Path, *, continued: tuple[str, ...]) -> Iterator["GrowingFiles"]:
        """Begins with the bucket's copies of `continued`; publishes on leaving."""
        if "://" not in str(workdir):
            yield cls(workdir, None)
            return
        with tempfile.TemporaryDirectory(prefix="confp_jax_run") as spool:
            files = cls(epath.Path(spool), workdir)
            for name in continued:
                if (workdir / name).exists():
                    (files.local / name).write_bytes((workdir / name).read_bytes())
            try:
                yield files
            finally:
                files.publish()

    def publish(self) -> None:
        """Copies the files that grew since the last time; nothing to do for a local run."""
        if self._remote is None:
            return
        for folder, _, names in os.walk(self.local):
            for name in names:
                path = epath.Path(folder) / name
                relative = str(path.relative_to(self.local))
                size = path.stat().length
                if self._published.get(relative) != size:
                    target = self._remote / relative
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(path.read_bytes())
                    self._published[relative] = size


def save_arrays(path: epath.Path, arrays: dict[str, Any]) -> None:
    """Writes an .npz, here or in a bucket."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
