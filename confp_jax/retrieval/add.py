"""Adding music to a database: files in, committed tracks out."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence

from confp_jax.audio.decode import DecodeError, decode, find_audio
from confp_jax.retrieval.database import Database, NewTrack
from confp_jax.retrieval.embed import AudioError, Embedder
from confp_jax.retrieval.identify import reason

_COMMIT_SECONDS = 3600.0  # of audio: what a kill can lose, and what an add holds in memory


@dataclasses.dataclass(frozen=True)
class Added:
    """What became of one file: "added", "unchanged" or "failed" (then `error` says why)."""

    path: str
    status: str
    duration_s: float = 0.0
    num_fingerprints: int = 0
    error: str = ""


def add_paths(
    database: Database,
    embedder: Embedder,
    paths: Sequence[pathlib.Path],
    *,
    report: Callable[[Added, int], None] = lambda added, total: None,
) -> list[Added]:
    """Adds files and the audio files of folders; a bad file is reported and the rest goes on.

    Commits about every hour of audio, so that a kill loses little. `report(added, total)` is called after every file.
    """
    files = find_audio(list(paths))
    results: list[Added] = []
    pending: list[NewTrack] = []
    with database.writing():
        try:
            for path in files:
                result = _add_one(database, embedder, path, pending)
                results.append(result)
                report(result, len(files))
                if sum(track.duration_s for track in pending) >= _COMMIT_SECONDS:
                    database.add(pending)
                    pending = []
        finally:  # Ctrl-C keeps what was done
            database.add(pending)
    return results


def _add_one(database: Database, embedder: Embedder, path: pathlib.Path, pending: list[NewTrack]) -> Added:
    try:
        sha256 = _sha256(path)
        if database.has(sha256) or any(track.sha256 == sha256 for track in pending):
            return Added(str(path), "unchanged")
        audio = decode(path, sample_rate_hz=embedder.sample_rate_hz)
        if audio.duration_s < embedder.config.audio.segment_s:
            raise AudioError(
                f"{path}: {audio.duration_s:.2f} s is shorter than one segment of {embedder.config.audio.segment_s:.0f} s"
            )
        fingerprints = embedder.fingerprint(audio.samples)
        if fingerprints.num_silent == len(fingerprints.vectors):
            raise AudioError(f"{path}: is silent; there is nothing to recognise")
    except (DecodeError, AudioError, OSError) as error:
        return Added(str(path), "failed", error=reason(path, error))
    pending.append(NewTrack(path.stem, str(path.resolve()), sha256, audio.duration_s, fingerprints.vectors))
    return Added(str(path), "added", audio.duration_s, len(fingerprints.vectors))


def _sha256(path: pathlib.Path) -> str:
    if not path.is_file():
        raise DecodeError(f"{path}: no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
