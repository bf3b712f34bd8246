"""Any folder of audio as a data set, split by a stable hash of the content."""

import hashlib
import pathlib

from confp_jax.audio.folders import find_audio
from data_prep.tracks import SourceError, Track

# shares; the rest is training
_VALIDATION = 0.1
_TEST = 0.1


def read_tracks(music_dir: str | pathlib.Path) -> list[Track]:
    """Returns every audio file below the folder; the split follows from the file's bytes, so adding
    files moves none.

    Bit-identical files are one track; a folder below this one is an album. The track id is 62 bits
    of the content's SHA-256.

    Raises:
      SourceError: no such folder, or nothing in it.
    """
    root = pathlib.Path(music_dir)
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder; pass --config.music_dir=FOLDER")
    tracks: dict[int, Track] = {}
    for path in find_audio([root]).files:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        place = int.from_bytes(digest[8:12], "big") / 2**32
        split = (
            "test" if place < _TEST else "validation" if place < _TEST + _VALIDATION else "training"
        )
        track_id = int.from_bytes(digest[:8], "big") >> 2
        name = path.relative_to(root)
        album = name.parent.as_posix() if name.parent.name else ""
        tracks.setdefault(track_id, Track(track_id, path, split, name.as_posix(), album))
    if not tracks:
        raise SourceError(f"{root}: holds no audio file")
    return sorted(tracks.values(), key=lambda track: track.track_id)
