"""Models that lie in a bucket (gs://, s3://): read and written through a copy on this machine."""

import contextlib
import pathlib
import tempfile
from collections.abc import Collection, Iterator

from etils import epath

from confp_jax.model.addresses import is_remote

_NOT_NEEDED = ("optimizer", "data")  # of a run's checkpoint: what a continued run reads


@contextlib.contextmanager
def copied_here(folder: epath.Path) -> Iterator[epath.Path]:
    """Gives a copy of a bucket's checkpoint, or the folder itself where it is on this machine."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="confp_jax_model") as here:
        target = epath.Path(here) / folder.name
        _copy(folder, target)
        yield target


@contextlib.contextmanager
def written_there(folder: epath.PathLike, *, last: str) -> Iterator[pathlib.Path]:
    """Gives a folder to write to, whose content then lies in `folder`; files called `last` come
    there when all others have.
    """
    if not is_remote(folder):
        yield pathlib.Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="confp_jax_model") as here:
        yield pathlib.Path(here)
        _copy(epath.Path(here), epath.Path(folder), without=(last,))
        for path in pathlib.Path(here).rglob(last):
            place = path.relative_to(here)
            (epath.Path(folder) / place).write_bytes(path.read_bytes())


def _copy(
    source: epath.Path, target: epath.Path, *, without: Collection[str] = _NOT_NEEDED
) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name in without:
            continue
        if path.is_dir():
            _copy(path, target / path.name, without=without)
        else:
            (target / path.name).write_bytes(path.read_bytes())
