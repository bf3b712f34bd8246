"""An index that is built while others write: the writer's lock is taken only to make it known."""

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator

from confp_jax import locks
from confp_jax.database import Database
from confp_jax.database.shards import flush_folder, write_error
from confp_jax.index import on_disk
from confp_jax.index.kinds import is_remote


def is_due(database: Database) -> bool:
    """Returns whether so many rows came or went that a generation must be rebuilt."""
    return on_disk.stale_share(database, database.snapshot()) > on_disk.MAX_STALE_SHARE


@contextlib.contextmanager
def built_in_background(database: Database) -> Iterator[Callable[[], object]]:
    """Builds a generation of the present rows; what this gives makes it known, and must be
    called inside `writing`.

    A generation knows its rows by their tracks: what is added or removed until then does not make
    it wrong.

    Raises:
      DatabaseError: the disk is full.
      OtherModelError: the database was reindexed meanwhile.
    """
    model = database.model_id
    snapshot = database.snapshot()
    database.model_id.check_compatible(model)
    kind = on_disk.wanted_kind(database, snapshot)
    if not kind or is_remote(kind):  # there is nothing to build
        yield lambda: on_disk.rebuild(database)
        return
    with _held_folder(database) as partial:
        name, _ = on_disk.write_generation(database, snapshot, kind, partial)

        def commit() -> None:
            database.model_id.check_compatible(model)
            if not is_due(database):  # another process has built one
                return
            if not (partial.parent / name).exists():
                partial.rename(partial.parent / name)
            flush_folder(partial.parent)
            database.set_setting("generation", name)
            database.remove_strays()

        yield commit


@contextlib.contextmanager
def _held_folder(database: Database) -> Iterator[pathlib.Path]:
    """A folder for a generation that no writer takes for a stray, as long as this process lives."""
    partial = database.folder / "index" / f"{uuid.uuid4().hex}.part"
    try:
        partial.mkdir(parents=True)
        handle = locks.open_folder(partial)
        try:
            with contextlib.suppress(OSError):  # NFS locks no folders; see `is_held`
                if handle is not None:
                    locks.take(handle)
            yield partial
        finally:
            if handle is not None:
                os.close(handle)
    except (OSError, RuntimeError) as error:
        raise write_error(partial.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
