"""Where the files of tracks are now, and what an update may take for gone."""

import pathlib
import stat
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.database import Database, StoredTrack
from confp_jax.database.records import UPLOADED, KnownFile
from confp_jax.database.roots import is_below, read_roots

_SAME_COSINE = 0.99
_MOST_REMOVED = 0.5  # of all tracks, without being asked for twice


class Places:
    """The tracks of a database and the files whose content they are, now and as they are found."""

    def __init__(self, database: Database):
        self.known = database.known_files()
        self.tracks = {track.sha256: track for track in database.tracks()}
        self._paths: dict[str, set[str]] = {}
        for path, file in self.known.items():
            self._paths.setdefault(file.sha256, set()).add(path)
        self._at: dict[str, list[StoredTrack]] = {}
        for track in self.tracks.values():
            self._at.setdefault(track.path, []).append(track)

    def see(self, path: str, file: KnownFile) -> None:
        """Notes what a file is like now."""
        before = self.known.get(path)
        if before:
            self._paths.get(before.sha256, set()).discard(path)
        self.known[path] = file
        self._paths.setdefault(file.sha256, set()).add(path)

    def at(self, path: str) -> list[StoredTrack]:
        """Returns the tracks that have this path."""
        return self._at.get(path, [])

    def moved_to(self, track: StoredTrack) -> str | None:
        """Returns where a track's content lies now, if not at its path."""
        if track.path.startswith(UPLOADED) or not self._is_lost(track):
            return None
        others = sorted(self._paths.get(track.sha256, set()) - {track.path})
        return next((path for path in others if is_unchanged(path, self.known[path])), None)

    def _is_lost(self, track: StoredTrack) -> bool:
        known = self.known.get(track.path)
        try:
            return is_gone(track.path) or (known is not None and known.sha256 != track.sha256)
        except OSError:
            return False  # it may be there


def is_gone(path: str) -> bool:
    """Returns whether there is no file.

    Raises:
      OSError: it cannot be found out.
    """
    try:
        return not stat.S_ISREG(pathlib.Path(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a zero byte is in no path
        return True


def is_unchanged(path: str | pathlib.Path, known: KnownFile | None) -> bool:
    """Returns whether a file has the size and the time that it had when it was read."""
    if known is None:
        return False
    try:
        about = pathlib.Path(path).stat()
    except (OSError, ValueError):
        return False  # reading it will say why
    return (about.st_size, about.st_mtime_ns) == (known.size_bytes, known.mtime_ns)


def sounds_the_same(one: Float32[np.ndarray, "n E"], other: Float32[np.ndarray, "m E"]) -> bool:
    """Returns whether fingerprints are of the same audio, as those of a file whose tags were
    edited.
    """
    num = min(len(one), len(other))
    if abs(len(one) - len(other)) > 1:
        return False
    norms = np.linalg.norm(one[:num], axis=1) * np.linalg.norm(other[:num], axis=1)
    return float((one[:num] * other[:num]).sum()) > _SAME_COSINE * float(norms.sum())


def too_much(database: Database, gone: Sequence[StoredTrack]) -> str:
    """Returns why these tracks' files may merely be out of reach: all of a root is gone, or most
    tracks are; "" where neither is so.
    """
    tracks = [track for track in database.tracks() if not track.path.startswith(UPLOADED)]
    lost = {track.id for track in gone}
    roots = read_roots(database)
    groups: dict[str, list[StoredTrack]] = {}
    for track in tracks:
        groups.setdefault(_root_of(track.path, roots), []).append(track)
    empty = [root for root, group in groups.items() if lost.issuperset(t.id for t in group)]
    if empty:
        return f"all tracks below {' and '.join(sorted(empty))} would go"
    if len(lost) > _MOST_REMOVED * len(tracks):
        return f"{len(lost)} of {len(tracks)} tracks would go"
    return ""


def _root_of(path: str, roots: Iterable[str]) -> str:
    """Returns the folder that a track was added from, or of files added by name and of old
    databases the first two folders of the path.
    """
    named = next((root for root in roots if is_below(path, root)), None)
    return named or str(pathlib.Path(*pathlib.Path(path).parts[:3]))
