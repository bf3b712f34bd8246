"""Search servers that this user named: a database from someone else must not choose a server.

An address counts as named if it is in CONFP_MILVUS, or if this user once gave it to
`confp compact --index` (remembered in the user's own configuration). The address of
`confp serve --index` does not come from the database. The secret CONFP_MILVUS_TOKEN is sent only to
the address in CONFP_MILVUS. Options after the "?" of an address do not distinguish it.
"""

import logging
import os
import pathlib

_log = logging.getLogger(__name__)
VARIABLE = "CONFP_MILVUS"
TOKEN = "CONFP_MILVUS_TOKEN"  # noqa: S105 - the variable's name


def is_named(uri: str) -> bool:
    """Returns whether this user named the address."""
    return _place(uri) in {_place(text) for text in (_variable(), *_remembered())}


def remember(uri: str) -> None:
    """Notes that this user named the address."""
    if is_named(uri):
        return
    file = _file()
    try:
        if file is None:
            raise OSError("there is no home folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(f"{uri}\n")
    except OSError as error:
        _log.warning("%s cannot be remembered (%s); set %s=%s", uri, error, VARIABLE, uri)


def token_for(uri: str) -> str:
    """Returns the secret for an address, "" if there is none for it."""
    token = os.environ.get(TOKEN, "")
    if token and _place(uri) != _place(_variable()):
        _log.warning("%s is not sent to %s; set %s=%s if it is for it", TOKEN, uri, VARIABLE, uri)
        return ""
    return token


def _place(uri: str) -> str:
    return uri.partition("?")[0]


def _variable() -> str:
    return os.environ.get(VARIABLE, "")


def _remembered() -> list[str]:
    file = _file()
    try:
        return file.read_text("utf-8").splitlines() if file else []
    except (OSError, UnicodeDecodeError):
        return []


def _file() -> pathlib.Path | None:
    """Returns the file of this user's addresses, None without a home folder."""
    try:
        home = os.environ.get("XDG_CONFIG_HOME") or pathlib.Path.home() / ".config"
    except RuntimeError:
        return None
    return pathlib.Path(home) / "confp" / "search-servers"
