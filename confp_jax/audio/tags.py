"""What a file says of itself: one form of the tags of every container.

FFmpeg reads the tags of all containers (ID3, Vorbis comments, MP4 atoms, RIFF, ASF, Matroska, APE)
but two kinds: the owner's identifier of ID3, where MusicBrainz Picard writes the recording, and an
APE tag at the end of an MP3.
"""

import dataclasses
import io
import os
import pathlib
import re
import struct
from collections.abc import Callable, Mapping

import av
import av.error
import tinytag

from confp_jax.audio.container import ALONE

_MUSICBRAINZ = "http://musicbrainz.org"
_MAGIC_OF_ID3 = (b"ID3", b"RIFF", b"FORM")
_APE_MARK = b"APETAGEX"
_APE_FOOTER = struct.Struct("<8sIIII8x")
_APE_ITEM = struct.Struct("<II")
_APE_IS_TEXT = 0
_MOST_APE_BYTES = 1 << 20
_ID3V1_BYTES = 128
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ISRC = re.compile(
    r"(?<![A-Z0-9])[A-Z]{2}-?[A-Z0-9]{3}-?[0-9]{2}-?[0-9]{5}(?![0-9])", re.IGNORECASE
)
_YEAR = re.compile(r"(?<![0-9])[0-9]{4}(?![0-9])")
# The names of a tag in all containers, the surest first, without what lies between words.
_NAMES = {
    "title": ("title",),
    "artist": ("artist", "author"),
    "album": ("album",),
    "album_artist": ("albumartist", "wmalbumartist"),
    "track_number": ("track", "tracknumber", "partnumber", "wmtracknumber"),
    "year": ("date", "year", "wmyear", "daterecorded", "datereleased", "originaldate", "tory"),
    "label": ("label", "publisher", "organization", "wmpublisher"),
    "isrc": ("isrc", "tsrc", "wmisrc"),
    "musicbrainz_recording_id": ("musicbrainztrackid", "musicbrainzrecordingid", "ufid"),
    "acoustid": ("acoustidid",),
}
_BETWEEN_WORDS = re.compile(r"[^a-z0-9]")


@dataclasses.dataclass(frozen=True)
class Tags:
    """What a file says of itself; "" where it does not."""

    title: str = ""
    artist: str = ""
    album: str = ""
    album_artist: str = ""
    track_number: str = ""  # on its medium
    year: str = ""
    label: str = ""
    isrc: str = ""  # twelve characters
    musicbrainz_recording_id: str = ""
    acoustid: str = ""


def read_tags(path: pathlib.Path) -> Tags:
    """Returns what a file's metadata says.

    A file in an unknown container has no tags, and no error: tags are no reason to refuse music. A
    text that does not have the form of an ISRC or of an identifier is left out.
    """
    found = _by_ffmpeg(path)
    try:
        with open(path, "rb") as file:
            if file.read(4).startswith(_MAGIC_OF_ID3):
                found = {"ufid": _musicbrainz_id(path)} | found
            found = _ape_items(file) | found
    except OSError:
        return Tags()
    texts = {
        field: _first(found, names, _FORMS.get(field, _plain)) for field, names in _NAMES.items()
    }
    return Tags(**texts | {"artist": texts["artist"] or texts["album_artist"]})


def _by_ffmpeg(path: pathlib.Path) -> dict[str, str]:
    try:
        with (
            open(path, "rb") as file,
            av.open(file, "r", options=ALONE, metadata_errors="replace") as container,
        ):
            found = _named(container.metadata)
            for stream in container.streams.audio:  # Ogg and Opus keep them there
                found = _named(stream.metadata) | found
    except (av.error.FFmpegError, OSError):
        return {}
    return found


def _named(found: Mapping[str, str]) -> dict[str, str]:
    return {_BETWEEN_WORDS.sub("", key.lower()): value for key, value in found.items()}


def _musicbrainz_id(path: pathlib.Path) -> str:
    """Returns the recording's identifier that MusicBrainz owns in an ID3 tag, else ""."""
    try:
        other = tinytag.TinyTag.get(path, duration=False, image=False).other
    except (tinytag.TinyTagException, OSError, ValueError, LookupError, struct.error):
        return ""
    texts = (str(text).partition("\0") for text in other.get("ufid", ()))
    return next((number for owner, _, number in texts if owner == _MUSICBRAINZ), "")


def _ape_items(file: io.BufferedReader) -> dict[str, str]:
    """Returns the texts of an APE tag at a file's end, or before its ID3v1 tag."""
    size = file.seek(0, os.SEEK_END)
    for after in (0, _ID3V1_BYTES):
        if size < after + _APE_FOOTER.size:
            break
        file.seek(size - after - _APE_FOOTER.size)
        mark, _, num_bytes, num_items, _ = _APE_FOOTER.unpack(file.read(_APE_FOOTER.size))
        if mark == _APE_MARK and _APE_FOOTER.size <= num_bytes <= min(_MOST_APE_BYTES, size):
            file.seek(max(0, size - after - num_bytes))
            return _named(_ape_texts(file.read(num_bytes - _APE_FOOTER.size), num_items))
    return {}


def _ape_texts(data: bytes, num_items: int) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    for _ in range(num_items):
        end = data.find(b"\0", at + _APE_ITEM.size)
        if end < 0:
            break
        length, flags = _APE_ITEM.unpack_from(data, at)
        if flags >> 1 & 3 == _APE_IS_TEXT:
            key = data[at + _APE_ITEM.size : end].decode("ascii", "replace")
            found[key] = data[end + 1 : end + 1 + length].decode("utf-8", "replace")
        at = end + 1 + length
    return found


def _first(found: Mapping[str, str], names: tuple[str, ...], form: Callable[[str], str]) -> str:
    texts = (form(found[name]) for name in names if name in found)
    return next(filter(None, texts), "")


def _plain(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())


def _track_number(text: str) -> str:
    """Returns the number before the number of tracks, without leading zeros: "03/12" is "3"."""
    number = _plain(text).partition("/")[0].strip()
    return number.lstrip("0") if number.isdecimal() else number


def _isrc(text: str) -> str:
    match = _ISRC.search(text)
    return match[0].replace("-", "").upper() if match else ""


def _year(text: str) -> str:
    match = _YEAR.search(text)
    return match[0] if match else ""


def _uuid(text: str) -> str:
    match = _UUID.search(text)
    return match[0].lower() if match else ""


_FORMS = {
    "track_number": _track_number,
    "year": _year,
    "isrc": _isrc,
    "musicbrainz_recording_id": _uuid,
    "acoustid": _uuid,
}
