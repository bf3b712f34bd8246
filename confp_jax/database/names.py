"""Names and paths as a catalogue keeps them, and when two of them are the same."""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable, Sequence

from confp_jax.database.records import StoredTrack
from confp_jax.texts import shown_bytes

_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def storable(text: str) -> str:
    """Returns a name that can be stored and shown: bytes that are no UTF-8 become escapes."""
    return shown_bytes(text)


def stored_path(path: str) -> str:
    """Returns a path as valid text, from which `restored_path` makes the same bytes again."""
    return storable(_ESCAPE.sub(r"\\x5cx\1", path))


def restored_path(text: str) -> str:
    """Returns the inverse of `stored_path`."""
    return _ESCAPE.sub(_byte, text)


def folded(text: str) -> str:
    """Returns what texts that Unicode calls equal have in common, whatever their letters' case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def is_named(texts: Sequence[str | None], wanted: str) -> bool:
    """Returns whether a `folded` text is in one of these, of which the last is a stored path."""
    *names, path = texts
    return any(wanted in folded(text) for text in (*names, restored_path(path or "")) if text)


def same_name(one: str, other: str) -> bool:
    """Returns whether two names are equal in Unicode's sense: a Mac writes letters and accents
    apart.
    """
    return one == other or unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def meant_by(tracks: Sequence[StoredTrack], wanted: str, *, has_numbers: bool) -> list[StoredTrack]:
    """Returns the tracks of this path (as stored, or as seen from here), else of this name.

    A number is also taken for an id, unless some track `has_numbers` for a name.
    """
    paths = {restored_path(wanted), wanted, os.path.realpath(wanted)}
    exact = [track for track in tracks if track.path in paths]
    if exact:
        return exact
    named = [track for track in tracks if same_name(track.name, storable(wanted))]
    if named:
        return named
    near = [track for track in tracks if any(same_name(track.path, path) for path in paths)]
    if near or has_numbers:
        return near
    return [track for track in tracks if str(track.id) == wanted]


def meaning(wanted: str) -> Callable[[str, str, int], bool]:
    """Returns whether `meant_by` could return a track of this name, stored path and id."""
    places = (restored_path(wanted), wanted, os.path.realpath(wanted))
    texts = {unicodedata.normalize("NFC", text) for text in (storable(wanted), *places)}

    def may_be(name: str, path: str, number: int) -> bool:
        some = name, restored_path(path)
        return str(number) == wanted or any(unicodedata.normalize("NFC", x) in texts for x in some)

    return may_be


def shown_texts(track: StoredTrack) -> list[str]:
    """Returns all that a track is known by but its path: what a search looks through."""
    tags = dataclasses.astuple(track.tags) if track.tags else ()
    return [text for text in (track.name, track.title, track.artist, track.album, *tags) if text]


def _byte(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return "\\" if number < 0x80 else chr(0xDC00 + number)
