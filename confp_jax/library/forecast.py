"""What a database takes when it has grown: arithmetic from what it takes now and from measurements
(docs/operate/capacity.md has the formula, and the commands that repeat them).
"""

import dataclasses

from confp_jax.library.maintenance import Info

_ROW_NUMBER_BYTES = 8  # Faiss's, beside a row's code
_ROW_BYTES = 12  # of a row's track and its place in the index, in memory
_TRACK_BYTES = 1_000  # of a track's names and path, in memory
_USUAL_CATALOGUE_BYTES = 600  # of a track, on disk, before there are enough to measure
_PROCESS_BYTES = 400 << 20  # the program and the model
_LEAST_TRACKS = 100
_VALUES_PER_CODE_BYTE = {"binary": 8, "int8": 4, "float16": 4}


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A database that is `factor` times as large."""

    factor: float
    hours: float
    num_fingerprints: int
    disk_bytes: int
    memory_bytes: int  # of a process that searches it


def forecast(info: Info, factor: float) -> Forecast:
    """Returns what `factor` times as many tracks of the same kind take."""
    stored = info.num_fingerprints + info.num_removed
    row_bytes = info.vector_bytes / stored if stored else 0.0
    code_bytes = _num_values(info, row_bytes) / _VALUES_PER_CODE_BYTE[info.precision]
    index_bytes = code_bytes + _ROW_NUMBER_BYTES if row_bytes else 0.0
    track_bytes = float(_USUAL_CATALOGUE_BYTES)
    if info.num_tracks >= _LEAST_TRACKS:
        track_bytes = info.catalogue_bytes / info.num_tracks
    num = factor * info.num_fingerprints
    tracks = factor * info.num_tracks
    return Forecast(
        factor=factor,
        hours=round(factor * info.duration_s / 3600, 2),
        num_fingerprints=round(num),
        disk_bytes=round(num * (row_bytes + index_bytes) + tracks * track_bytes),
        memory_bytes=round(
            num * (index_bytes + _ROW_BYTES) + tracks * _TRACK_BYTES + _PROCESS_BYTES
        ),
    )


def _num_values(info: Info, row_bytes: float) -> float:
    if info.precision == "binary":
        return 8 * row_bytes
    return row_bytes - 2 if info.precision == "int8" else row_bytes / 2
