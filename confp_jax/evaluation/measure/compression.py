"""Smaller fingerprints: what fewer dimensions and fewer bits cost in hits (the paper's future
work).

The stored rows are made smaller; the queries stay float32, as a program would keep them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.database.vectors import PRECISIONS, decode, encode
from confp_jax.evaluation.measure.query_results import Outcomes, Searched
from confp_jax.index import ExactIndex

DIMS = (64, 32)
_FIT_ROWS = 20_000  # of the index, evenly: more tell the principal axes no better
Rows = Float32[np.ndarray, "N E"]


def as_stored(rows: Rows, precision: str) -> tuple[Rows, int]:
    """Returns rows as the database gives them back, and the bytes that it keeps of each."""
    if precision == "float32":  # which no database stores: what the others are compared with
        return rows, rows.itemsize * rows.shape[1]
    stored = encode(rows, precision)
    return decode(stored), stored.nbytes // len(stored)


@dataclasses.dataclass(frozen=True)
class CompressionRow:
    """Top-1 shares of one way of storing fingerprints, for each condition."""

    dim: int
    axes: str  # "all", of the fewer the "principal" ones or the "first"
    precision: str
    bytes_per_hour: int
    track: dict[str, float]
    exact: dict[str, float]


def compression_rows(
    searched: Searched, measured: Mapping[str, Outcomes], *, hop_s: float
) -> list[CompressionRow]:
    """All dimensions and precisions on the conditions' queries, by exact search in the whole
    index.
    """
    vectors = np.asarray(searched.evaluation.reference.snapshot.vectors, np.float32)
    out = []
    for dim, axes, turned in _fewer(vectors):
        rows = _unit(vectors @ turned)
        for precision in ("float32", *PRECISIONS):
            smaller, num_bytes = as_stored(rows, precision)
            index = ExactIndex(smaller)
            shares = {
                name: _shares(index, _unit(one.queries @ turned), one, searched)
                for name, one in measured.items()
            }
            per_hour = round(3600 / hop_s) * num_bytes
            track, exact = ({name: pair[i] for name, pair in shares.items()} for i in range(2))
            out.append(CompressionRow(dim, axes, precision, per_hour, track, exact))
    return out


def _fewer(vectors: Rows) -> Iterator[tuple[int, str, Float32[np.ndarray, "E D"]]]:
    """Number, name and matrix of the axes that are kept: all, then fewer, by PCA or simply cut
    off.
    """
    whole = vectors.shape[1]
    own = np.eye(whole, dtype=np.float32)
    principal = principal_axes(vectors)
    yield whole, "all", own
    for dim in (dim for dim in DIMS if dim < whole):
        yield dim, "principal", principal[:, :dim]
        yield dim, "first", own[:, :dim]


def principal_axes(vectors: Rows) -> Float32[np.ndarray, "E E"]:
    """Columns by falling variance, about the origin: a cosine is kept as far as the kept axes hold
    it.
    """
    sample = vectors[
        np.linspace(0, len(vectors) - 1, min(len(vectors), _FIT_ROWS)).astype(int)
    ].astype(np.float64)
    variances, axes = np.linalg.eigh(sample.T @ sample)
    return axes[:, np.argsort(-variances, kind="stable")].astype(np.float32)


def _shares(
    index: ExactIndex, queries: Rows, one: Outcomes, searched: Searched
) -> tuple[float, float]:
    tracks, offsets_s = searched.places(index.search(queries, k=1).rows)
    again = dataclasses.replace(one, exact_tracks=tracks, exact_s=offsets_s)
    return float(again.hits("track", k=1).mean()), float(again.hits("exact", k=1).mean())


def _unit(rows: Rows) -> Rows:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def chosen_conditions(names: Sequence[str]) -> list[str]:
    """Returns what the table shows: one of each kind, where it was measured."""
    wanted = (
        "clean",
        "shift_40",
        "reverb",
        "background_10db",
        "background_5db",
        "background_0db",
        "reverb_background_10db",
    )
    return [name for name in wanted if name in names]
