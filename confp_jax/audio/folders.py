"""Which files of a folder are audio: linked folders are followed, what is unknown is tried."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

from confp_jax.audio.decode import DecodeError, decode_blocks

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".wma", ".webm"}
    | {".aif", ".aiff", ".mka", ".mkv", ".caf", ".au", ".w64", ".gsm", ".g722"}
)
# Files that are often beside music, and are not audio: they are never opened.
_OTHER_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".svg", ".ico", ".heic"}
    | {".txt", ".md", ".pdf", ".doc", ".docx", ".odt", ".rtf", ".htm", ".html", ".url", ".webloc"}
    | {".m3u", ".m3u8", ".pls", ".xspf", ".wpl", ".asx", ".cue", ".toc", ".log", ".nfo", ".accurip"}
    | {".lrc", ".srt", ".vtt", ".ass", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini"}
    | {".csv", ".tsv", ".parquet", ".npy", ".npz", ".db", ".sqlite", ".sqlite3", ".db-wal"}
    | {".zip", ".rar", ".7z", ".gz", ".bz2", ".xz", ".tar", ".torrent", ".part", ".iso", ".par2"}
    | {".crdownload", ".download", ".tmp", ".aria2"}
    | {".md5", ".sha1", ".sha256", ".sfv", ".ffp", ".sig", ".asc", ".exe", ".dll", ".so", ".py"}
)
_TRIED_RATE_HZ = 16_000


@dataclasses.dataclass(frozen=True)
class FoundAudio:
    """What a search for audio found: audio files in order, other files, and folders that failed."""

    files: list[pathlib.Path]
    passed_over: list[pathlib.Path]  # no audio, or a link that leads nowhere
    failed: list[tuple[pathlib.Path, str]]  # folders that cannot be read, with the reason


def find_audio(paths: Sequence[pathlib.Path]) -> FoundAudio:
    """Returns files as given, and the audio files of every folder given, sorted.

    Linked folders are followed, each folder is read once. Hidden files and folders (".name") and
    fingerprint databases are left out. A file with an unknown suffix is opened to see whether it is
    audio.
    """
    search = _Search()
    for path in paths:
        if is_folder(path):
            search.folder(path)
        else:
            search.files[path] = None
    return FoundAudio(list(search.files), search.passed_over, search.failed)


def audio_among(
    paths: Sequence[pathlib.Path], *, below: Sequence[pathlib.Path]
) -> list[pathlib.Path]:
    """Returns the files of `paths` that a search of the folders `below` would find, and those in
    the folders of `paths`.
    """
    search = _Search()
    for path in paths:
        if not any(_is_hidden(path, folder) for folder in below if path.is_relative_to(folder)):
            search.found(path)
    return list(search.files)


def _is_hidden(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Returns whether a name on the way from a folder is hidden, or leads into a database."""
    way = path.relative_to(folder)
    parents = [folder / parent for parent in way.parents]
    return any(part.startswith(".") for part in way.parts) or any(
        (parent / "catalogue.sqlite").exists() for parent in parents
    )


def is_folder(path: pathlib.Path) -> bool:
    """Returns whether a folder is there and can be reached."""
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder before it that may not be entered
        return False


class _Search:
    def __init__(self) -> None:
        self.files: dict[pathlib.Path, None] = {}
        self.passed_over: list[pathlib.Path] = []
        self.failed: list[tuple[pathlib.Path, str]] = []
        self._seen: set[tuple[int, int]] = set()

    def folder(self, top: pathlib.Path) -> None:
        """Adds the audio files below a folder in the order of their paths."""
        found = sorted(self._below(top))
        self.files.update(dict.fromkeys(found))

    def found(self, path: pathlib.Path) -> None:
        """Adds a file if it is audio, or the audio files below a folder."""
        if is_folder(path):
            self.folder(path)
        elif self._is_audio(path):
            self.files[path] = None

    def _below(self, top: pathlib.Path) -> Iterator[pathlib.Path]:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            for entry in self._entries(folder):
                path = folder / entry.name
                if is_folder(path):
                    waiting.append(path)
                elif self._is_audio(path):
                    yield path

    def _entries(self, folder: pathlib.Path) -> list[os.DirEntry[str]]:
        """Returns what is in a folder; nothing where it was read before or holds a database."""
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in self._seen:
                return []
            self._seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
            if found:
                found[0].stat(follow_symlinks=False)  # it may be listed and not entered
        except FileNotFoundError:
            return []  # gone meanwhile
        except OSError as error:
            self.failed.append((folder, f"{folder}: cannot be read ({error.strerror})"))
            return []
        return [] if any(entry.name == "catalogue.sqlite" for entry in found) else found

    def _is_audio(self, path: pathlib.Path) -> bool:
        suffix = path.suffix.lower()
        if suffix in AUDIO_SUFFIXES:
            known = _is_file(path)
        else:
            known = suffix not in _OTHER_SUFFIXES and _sounds(path)
        if known:
            return True
        self.passed_over.append(path)
        return False


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _sounds(path: pathlib.Path) -> bool:
    """Returns whether the beginning of a file can be decoded."""
    try:
        return len(next(decode_blocks(path, sample_rate_hz=_TRIED_RATE_HZ), ())) > 0
    except (DecodeError, OSError):
        return False
