"""The folders that a database's music was added from, as they were named."""

import json
import os
from collections.abc import Iterable

from confp_jax.database.store import Database
from confp_jax.texts import parse_json

_SETTING = "roots"


def read_roots(database: Database) -> list[str]:
    """Returns the folders, outermost ones only."""
    try:
        found = parse_json(database.setting(_SETTING) or "[]")
    except ValueError:
        found = []
    return [folder for folder in found if isinstance(folder, str)] if type(found) is list else []


def remember_roots(database: Database, folders: Iterable[str]) -> None:
    """Adds folders to those that are known; only inside `writing`."""
    before = read_roots(database)
    roots: list[str] = []
    for folder in sorted({*before, *folders}):
        if not any(is_below(folder, root) for root in roots):
            roots.append(folder)
    if roots != before:
        database.set_setting(_SETTING, json.dumps(roots))


def is_below(path: str, folder: str) -> bool:
    """Returns whether a path is a folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
