"""Real recordings: what a microphone heard, against the music that was played.

A folder holds `recordings.csv` with the columns query, reference (files inside it) and offset_s
(where in the reference the query begins). Every query is cut into pieces of each length and
searched among all music that lies beside the references and an index of other music, once with its
reference there and once with it passed over.
"""

import csv
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from rich.console import Console
from rich.progress import track as progress

from confp_jax.audio.decode import decode
from confp_jax.audio.folders import find_audio
from confp_jax.data.records import DatasetError, to_int16
from confp_jax.database.vectors import decode as decode_rows
from confp_jax.database.vectors import encode as encode_rows
from confp_jax.evaluation.measure.query_sets import dataset_id
from confp_jax.evaluation.measure.trials import first_match
from confp_jax.evaluation.systems.protocol import SystemFailedError
from confp_jax.evaluation.systems.registry import SystemSpec, system_version
from confp_jax.evaluation.systems.results import SystemRun
from confp_jax.evaluation.systems.runner import SystemRunner, write_wav
from confp_jax.files import write_atomically
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.matching.decision import Decision
from confp_jax.matching.searchable import Reference, make_reference

LENGTHS_S = (10.0, 5.0, 3.0)
PLACE_S = 1.5  # within so much of the label a place counts as right
_COLUMNS = ("query", "reference", "offset_s")


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording, what it is of, and where in that it begins."""

    query: pathlib.Path
    reference: pathlib.Path
    offset_s: float


@dataclasses.dataclass(frozen=True)
class RecordingTrials:
    """One entry a piece of a recording. `*_rate` is how often an unknown query reaches as much."""

    length_s: float
    right: Bool[np.ndarray, " Q"]
    placed: Bool[np.ndarray, " Q"]  # right, and within PLACE_S of the label
    known_rate: Float64[np.ndarray, " Q"]
    unknown_rate: Float64[np.ndarray, " Q"]  # with the reference passed over

    def row(self, system: str, rate: float) -> "RecordingRow":
        """Shares of all pieces, where one of `rate` unknown queries may be answered."""
        accepted = float((self.right & (self.known_rate <= rate)).mean())
        false_alarms = float((self.unknown_rate <= rate).mean())
        shares = float(self.right.mean()), float(self.placed.mean()), accepted, false_alarms
        return RecordingRow(system, self.length_s, len(self.right), *shares)


@dataclasses.dataclass(frozen=True)
class RecordingRow:
    """A system on real recordings of one length: shares of all pieces.

    `accepted` and `false_alarms` are None for other systems, which have no verdict.
    """

    system: str
    length_s: float
    num_pieces: int
    right: float = 0.0
    placed: float = 0.0
    accepted: float | None = None  # and right
    false_alarms: float | None = None  # accepted, though the reference was not there
    trouble: str = ""


def read_recordings(folder: str | pathlib.Path) -> list[Recording]:
    """Reads FOLDER/recordings.csv.

    Raises:
      DatasetError: the file is missing, lacks a column, or has a line that names a file outside of
        the folder, or a text in place of a number.
    """
    root = pathlib.Path(folder)
    table = root / "recordings.csv"
    try:
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{table} cannot be read ({error}); it has the columns {', '.join(_COLUMNS)}"
        ) from error
    if not rows or not set(_COLUMNS) <= set(rows[0]):
        raise DatasetError(
            f"{table}: expected a line for each recording under the columns {', '.join(_COLUMNS)}"
        )
    return [_recording(root, number, row) for number, row in enumerate(rows, start=2)]


def _recording(root: pathlib.Path, line: int, row: dict[str, str]) -> Recording:
    query, reference = (root / (row[name] or "") for name in _COLUMNS[:2])
    for file in (query, reference):
        if not file.is_file() or not file.resolve().is_relative_to(root.resolve()):
            raise DatasetError(
                f"{root}/recordings.csv, line {line}: {file} is no file in this folder"
            )
    try:
        offset_s = float(row["offset_s"])
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{root}/recordings.csv, line {line}: offset_s={row['offset_s']!r} is no number"
        ) from error
    return Recording(query, reference, offset_s)


def pieces(recording: Recording, length_s: float, rate_hz: int) -> list[tuple[float, np.ndarray]]:
    """Returns consecutive pieces of a recording, and where in the reference each begins."""
    samples = decode(recording.query, sample_rate_hz=rate_hz).samples
    num = round(length_s * rate_hz)
    starts = range(0, len(samples) - num + 1, num)
    return [
        (recording.offset_s + start / rate_hz, samples[start : start + num]) for start in starts
    ]


def reference_files(recordings: Sequence[Recording]) -> list[pathlib.Path]:
    """Returns the music that is indexed: all audio in the references' folders but the queries."""
    folders = sorted({recording.reference.parent for recording in recordings})
    queries = {recording.query.resolve() for recording in recordings}
    found = {file for file in find_audio(folders).files if file.resolve() not in queries}
    return sorted(found | {recording.reference for recording in recordings})


def with_references(
    embedder: Embedder, recordings: Sequence[Recording], others: Reference, console: Console
) -> Reference:
    """Returns the music of `reference_files` first, under its files' names, and then the tracks of
    another reference.
    """
    files = reference_files(recordings)
    parts = []
    for file in progress(files, "references", console=console, transient=True):
        vectors = embedder.fingerprint(
            decode(file, sample_rate_hz=embedder.sample_rate_hz).samples
        ).vectors
        parts.append((file.name, decode_rows(encode_rows(vectors, embedder.precision))))
    tracks = others.snapshot.tracks
    parts += [(track.name, others.rows_of(number)) for number, track in enumerate(tracks)]
    return make_reference(
        parts, hop_s=others.hop_s, segment_s=others.segment_s, query_phases=embedder.query_phases
    )


def measure_recordings(
    embedder: Embedder,
    decision: Decision,
    recordings: Sequence[Recording],
    reference: Reference,
    console: Console,
    *,
    lengths_s: Sequence[float] = LENGTHS_S,
) -> list[RecordingTrials]:
    """Searches every piece of every recording, with its track there and passed over.

    Args:
      embedder: the model.
      decision: the model's.
      recordings: the real recordings.
      reference: what `with_references` gives.
      console: shows the progress.
      lengths_s: of the pieces, in seconds.

    Returns:
      The trials of each length.
    """
    numbers = {
        track.name: number for number, track in reversed(list(enumerate(reference.snapshot.tracks)))
    }
    found = []
    for length_s in lengths_s:
        rows = []
        for recording in progress(
            recordings, f"recordings, {length_s:g} s", console=console, transient=True
        ):
            own = numbers[recording.reference.name]
            for offset_s, samples in pieces(recording, length_s, embedder.sample_rate_hz):
                query = embedder.query(samples)
                best, place, known = first_match(query, reference, decision)
                unknown = first_match(query, reference, decision, masked=own)[2]
                placed = best == own and abs(place.offset_s - offset_s) <= PLACE_S
                rows.append((best == own, placed, known[0], unknown[0]))
        right, placed, known, unknown = zip(*rows, strict=True)
        found.append(
            RecordingTrials(
                length_s, np.array(right), np.array(placed), np.array(known), np.array(unknown)
            )
        )
    return found


def recordings_id(recordings: Sequence[Recording]) -> str:
    """Returns a hash of names, sizes and offsets, and of what is indexed with them."""
    digest = hashlib.sha256()
    for one in recordings:
        sizes = one.query.stat().st_size, one.reference.stat().st_size
        digest.update(f"{one.query.name} {one.reference.name} {one.offset_s} {sizes}".encode())
    for file in reference_files(recordings):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def measure_peer(
    spec: SystemSpec, run: SystemRun, recordings: Sequence[Recording], *, rate_hz: int
) -> list[RecordingRow]:
    """Another system on the same pieces, with the same references and other music in its index."""
    folder = run.wav_dir / f"recordings-{recordings_id(recordings)}"
    known_by = recordings_id(recordings)
    references = reference_files(recordings)

    def index_files() -> list[pathlib.Path]:
        made = [_as_wav(folder / f"reference-{file.stem}.wav", decode(file,
        sample_rate_hz=rate_hz).samples, rate_hz)
                for file in references]  # fmt: skip
        return [*made, *run.index_files]

    index_id = dataset_id(run.index, run.index_splits)
    runner = SystemRunner.of(spec, run.cache, f"{index_id} {known_by} {system_version(spec)}")
    try:
        runner.index(index_files)
    except SystemFailedError as error:
        return [RecordingRow(spec.name, length_s, 0, trouble=str(error)) for length_s in LENGTHS_S]
    return [
        _peer_row(runner, recordings, length_s, folder, known_by, rate_hz) for length_s in LENGTHS_S
    ]


def _peer_row(
    runner: SystemRunner,
    recordings: Sequence[Recording],
    length_s: float,
    folder: pathlib.Path,
    known_by: str,
    rate_hz: int,
) -> RecordingRow:
    cuts = [
        (recording, number, offset_s, samples)
        for recording in recordings
        for number, (offset_s, samples) in enumerate(pieces(recording, length_s, rate_hz))
    ]

    def query_files() -> list[pathlib.Path]:
        names = (
            f"{recording.query.stem}-{length_s:g}s-{number}.wav" for recording, number, _, _ in cuts
        )
        return [
            _as_wav(folder / name, cut[3], rate_hz) for name, cut in zip(names, cuts, strict=True)
        ]

    asked = runner.ask(f"recordings-{length_s:g}s", known_by, query_files)
    if asked.failure:
        return RecordingRow(runner.spec.name, length_s, 0, trouble=asked.failure)
    right = placed = 0
    for (recording, _, offset_s, _), answer in zip(cuts, asked.answers, strict=True):
        first = answer.found[0] if answer.found else None
        if first is not None and first.track == f"reference-{recording.reference.stem}":
            right += 1
            placed += abs(first.offset_s - offset_s) <= PLACE_S
    return RecordingRow(
        runner.spec.name, length_s, len(cuts), right / len(cuts), placed / len(cuts)
    )


def _as_wav(path: pathlib.Path, samples: np.ndarray, rate_hz: int) -> pathlib.Path:
    if path.is_file():
        return path
    return write_atomically(
        path, functools.partial(write_wav, samples=to_int16(samples), sample_rate_hz=rate_hz)
    )
