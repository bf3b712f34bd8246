"""Which files of tracks may be read for clients: a catalogue may come from somebody else, so that
its paths decide nothing.
"""

import dataclasses
import hashlib
import pathlib
import threading
from collections.abc import Sequence

from confp_jax.database import StoredTrack

_MAX_KNOWN = 10_000
_MAX_BYTES = 4 << 30  # of a file that is looked at


class TrackFiles:
    """The tracks' own files: below the shared folders they may be played."""

    def __init__(self, shared_folders: Sequence[pathlib.Path]):
        self._roots = [folder.resolve() for folder in shared_folders]
        self._known: dict[tuple[str, int, int], str] = {}  # path, size, time: SHA-256
        self._lock = threading.Lock()

    @property
    def are_shared(self) -> bool:
        """Returns whether the operator shares any folder."""
        return bool(self._roots)

    def is_shared(self, track: StoredTrack) -> bool:
        """Returns whether the track's file exists below a shared folder, links resolved."""
        return self._shared_path(track) is not None

    def playable(self, track: StoredTrack) -> pathlib.Path | None:
        """Returns the track's file where it may be played: shared, and with the content that the
        catalogue names.
        """
        path = self._shared_path(track)
        return path if path is not None and self._sha256(path) == track.sha256 else None

    def own_file(self, track: StoredTrack) -> pathlib.Path | None:
        """Returns the track's file where its content is the one that the catalogue names."""
        path = _regular_file(track.path)
        return path if path is not None and self._sha256(path) == track.sha256 else None

    def _shared_path(self, track: StoredTrack) -> pathlib.Path | None:
        path = _regular_file(track.path) if self._roots else None
        if path is None or not any(path.is_relative_to(root) for root in self._roots):
            return None
        return path

    def _sha256(self, path: pathlib.Path) -> str | None:
        """Returns the content's SHA-256; read once for as long as the file stays as it is."""
        try:
            status = path.stat()
            if not 0 < status.st_size <= _MAX_BYTES:
                return None
            key = (str(path), status.st_size, status.st_mtime_ns)
            if key not in self._known:
                with self._lock, open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    if len(self._known) >= _MAX_KNOWN:
                        self._known.clear()
                    self._known[key] = digest
            return self._known[key]
        except (OSError, KeyError):  # gone meanwhile
            return None


def _regular_file(path: str) -> pathlib.Path | None:
    try:
        resolved = pathlib.Path(path).resolve(strict=True)
        return resolved if resolved.is_file() else None
    except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a NUL
        return None


@dataclasses.dataclass(frozen=True)
class Links:
    """Addresses in answers, below the path that the service has on its site."""

    files: TrackFiles
    root_path: str = ""

    def track(self, track: StoredTrack) -> str:
        """Returns the track's address."""
        return f"{self.root_path}/v1/tracks/{track.id}"

    def audio(self, track: StoredTrack, *, from_s: float = 0.0) -> str | None:
        """Returns where the track can be played from a moment on, None where it is not shared."""
        if not self.files.is_shared(track):
            return None
        return f"{self.track(track)}/audio" + (f"#t={from_s:.1f}" if from_s else "")
