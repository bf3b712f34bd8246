"""Files to fingerprints: threads read, hash and decode ahead of the model, in bounded memory,
results in order.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, check_readable, decode_blocks
from confp_jax.audio.errors import Losses
from confp_jax.audio.segments import Chunk
from confp_jax.audio.tags import Tags, read_tags
from confp_jax.database.records import TAG_NAMES, KnownFile, NewTrack, TrackTags
from confp_jax.fingerprint.embedder import SHORTEST_S, Embedder
from confp_jax.fingerprint.fingerprints import AudioError

_CHUNK_WINDOWS = 1024  # 5 minutes, 20 MB of samples: what a file takes, however long it is
_CHUNKS_AHEAD = 1
_MAX_THREADS = 8  # the model is slower than any more of them
_WAIT_S = 0.1


@dataclasses.dataclass(frozen=True)
class ReadFile:
    """What became of one file: a track, or content that was not wanted, or an error."""

    path: pathlib.Path
    file: KnownFile | None = None
    track: NewTrack | None = None
    error: str = ""
    note: str = ""  # what was unusual in it


@dataclasses.dataclass
class _Reading:
    """One file on its way from its thread to the model: chunks of samples, then None."""

    path: pathlib.Path
    chunks: queue.Queue[Chunk | None]
    stopped: threading.Event
    file: KnownFile | None = None
    wanted: bool = False
    tags: Tags = Tags()
    num_samples: int = 0
    losses: Losses = dataclasses.field(default_factory=Losses)
    error: Exception | None = None


def read_files(
    embedder: Embedder,
    paths: Iterable[pathlib.Path],
    *,
    wanted: Callable[[KnownFile], bool] = lambda file: True,
) -> Iterator[ReadFile]:
    """Yields the fingerprints of files, in order.

    Args:
      embedder: computes them.
      paths: of the files.
      wanted: whether a file's content is to be decoded; else it is only hashed. It is called in the
        reading thread, and again before the model runs, as earlier files may have changed the
        answer.
    """
    num_threads = min(_MAX_THREADS, max(2, os.cpu_count() or 1))
    readings: collections.deque[_Reading] = collections.deque()
    waiting = iter(paths)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    try:
        while True:
            while len(readings) <= num_threads and (path := next(waiting, None)) is not None:
                readings.append(_Reading(path, queue.Queue(_CHUNKS_AHEAD), threading.Event()))
                pool.submit(
                    _read, readings[-1], embedder, wanted
                )  # started in order: the first is never kept waiting
            if not readings:
                return
            yield _fingerprint(readings[0], embedder, wanted)
            readings.popleft()
    finally:
        for reading in readings:
            reading.stopped.set()
        pool.shutdown(cancel_futures=True)


def reason(path: pathlib.Path, error: Exception) -> str:
    """Returns the error's message, with the file's name before it."""
    return str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}"


def track_tags(tags: Tags) -> TrackTags:
    """Returns those of a file's tags that a database keeps beside title, artist and album."""
    return TrackTags(**{name: getattr(tags, name) for name in TAG_NAMES})


def known_file(path: pathlib.Path, sha256: str) -> KnownFile:
    """Returns the file as it is now."""
    stat = path.stat()
    return KnownFile(stat.st_size, stat.st_mtime_ns, sha256)


def _read(reading: _Reading, embedder: Embedder, wanted: Callable[[KnownFile], bool]) -> None:
    try:
        check_readable(reading.path)
        with open(reading.path, "rb") as file:
            reading.file = known_file(reading.path, hashlib.file_digest(file, "sha256").hexdigest())
        reading.wanted = wanted(reading.file)
        if reading.wanted:
            heard = decode_blocks(
                reading.path, sample_rate_hz=embedder.sample_rate_hz, losses=reading.losses
            )
            blocks = _counted(reading, heard)
            for chunk in embedder.chunk_windows(blocks, windows_per_chunk=_CHUNK_WINDOWS):
                _put(reading, chunk)
            if known_file(reading.path, reading.file.sha256) != reading.file:
                raise DecodeError("was changed while it was read", "add it again", reading.path)
            reading.tags = read_tags(reading.path)
    except Exception as error:  # noqa: BLE001 - raised again where the file's turn comes
        reading.error = error
    _put(reading, None)


def _counted(reading: _Reading, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        reading.num_samples += len(block)
        yield block


def _put(reading: _Reading, chunk: Chunk | None) -> None:
    while not reading.stopped.is_set():
        try:
            return reading.chunks.put(chunk, timeout=_WAIT_S)
        except queue.Full:
            continue


def _fingerprint(
    reading: _Reading, embedder: Embedder, wanted: Callable[[KnownFile], bool]
) -> ReadFile:
    try:
        vectors = _encode(reading, embedder, wanted)
        if reading.error:
            raise reading.error
    except (DecodeError, AudioError, OSError) as error:
        reading.stopped.set()
        return ReadFile(reading.path, error=reason(reading.path, error))
    if vectors is None or reading.file is None:
        return ReadFile(reading.path, reading.file)
    path = str(reading.path.resolve())
    duration_s = reading.num_samples / embedder.sample_rate_hz
    file = reading.file
    tags = reading.tags
    track = NewTrack(
        reading.path.stem,
        path,
        file.sha256,
        duration_s,
        vectors,
        title=tags.title,
        artist=tags.artist,
        album=tags.album,
        tags=track_tags(tags),
        size_bytes=file.size_bytes,
        mtime_ns=file.mtime_ns,
    )
    return ReadFile(reading.path, file, track, note="; ".join(reading.losses.notes()))


def _encode(
    reading: _Reading, embedder: Embedder, wanted: Callable[[KnownFile], bool]
) -> Float32[np.ndarray, "n E"] | None:
    """Returns all windows of a file, None if its content is not wanted."""
    parts = []
    num_silent = 0
    while (chunk := reading.chunks.get()) is not None:
        if not (reading.file and wanted(reading.file)):
            reading.stopped.set()
            return None
        if chunk.is_whole:
            _check_length(reading, len(chunk.samples), embedder)
        found = embedder.fingerprint_chunk(chunk)
        num_silent += found.num_silent
        parts.append(found.vectors)
    if reading.error or not reading.wanted:
        return None
    vectors = np.concatenate(parts)
    if num_silent == len(vectors):
        raise AudioError("is silent", "there is nothing to recognise", reading.path)
    return vectors


def _check_length(reading: _Reading, num_samples: int, embedder: Embedder) -> None:
    if not num_samples:
        raise DecodeError(
            "holds no audio samples",
            "check that the recording was written completely",
            reading.path,
        )
    if num_samples < SHORTEST_S * embedder.sample_rate_hz:
        length_s = num_samples / embedder.sample_rate_hz
        raise AudioError(
            f"{length_s:.2f} s is too short to distinguish from other recordings",
            f"add recordings of {SHORTEST_S:.0f} s and more",
            reading.path,
        )
