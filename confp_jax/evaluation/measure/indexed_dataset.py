"""What the evaluation searches: the clean clips of a prepared dataset, fingerprinted; and query
sets as fingerprints.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float16, Float64, Int64
from rich.console import Console
from rich.progress import track as progress

from confp_jax.data.clips import ClipSource
from confp_jax.data.duplicates import read_duplicates
from confp_jax.data.records import Clip, DatasetError
from confp_jax.database.damage import is_sound
from confp_jax.database.vectors import decode, encode
from confp_jax.evaluation.measure.cache import read_cached
from confp_jax.evaluation.measure.query_sets import dataset_id
from confp_jax.files import write_atomically
from confp_jax.fingerprint.embedder import HOP_S, Embedder
from confp_jax.fingerprint.query import Query
from confp_jax.matching.searchable import Reference, make_reference


@dataclasses.dataclass(frozen=True)
class EvaluationReference:
    """A searchable reference, and the track id of each of its tracks (ascending); copies of a
    recording are there once.
    """

    reference: Reference
    track_ids: Int64[np.ndarray, " T"]
    starts_s: Float64[
        np.ndarray, " T"
    ]  # where in the recording its clip begins: of long ones the middle is indexed
    group_of: dict[int, int] = dataclasses.field(default_factory=dict)  # of the duplicates

    def number(self, track_id: int) -> int:
        """Returns which of the reference's tracks has this id, or is its copy.

        Raises:
          DatasetError: none.
        """
        place = int(np.searchsorted(self.track_ids, self.group_of.get(track_id, track_id)))
        if place == len(self.track_ids) or self.track_ids[place] != self.group_of.get(
            track_id, track_id
        ):
            raise DatasetError(
                f"the queries' track {track_id} is not in the index: name the dataset that they "
                "were cut from, with its split in index_splits"
            )
        return place


class IndexedClip(NamedTuple):
    """A clean clip to search: record number `record` of its split, under the id of its group."""

    group: int
    source: ClipSource
    record: int


def one_of_each(folder: str | pathlib.Path, splits: Sequence[str]) -> list[IndexedClip]:
    """Returns the clean clips of a prepared dataset's splits, one for each recording.

    If a recording has copies, the clip of the last split is taken: held-out queries are cut from
    it, and a copy may have another tempo and another beginning.

    Raises:
      DatasetError: no dataset there, or no such split.
    """
    group_of = read_duplicates(folder)
    found = {}
    for split in reversed(splits):
        source = ClipSource(folder, split)
        for i, track_id in enumerate(source.track_ids()):
            group = group_of.get(track_id, track_id)
            found.setdefault(
                group, IndexedClip(group, source, i * (1 + source.summary.num_replicas))
            )
    return sorted(found.values(), key=lambda clip: clip.group)


def embed_reference(
    embedder: Embedder,
    folder: str,
    splits: Sequence[str],
    console: Console,
    *,
    wanted: Iterable[int] = (),
    most_tracks: int = 0,
    cache: str = "",
    seed: int = 0,
) -> EvaluationReference:
    """Returns the fingerprints, 300 ms apart, of all clean clips of a prepared dataset's splits.

    Args:
      wanted: ids of the tracks that come first where `most_tracks` is less than all.
      most_tracks: how many are drawn; 0: all.
      cache: a folder that keeps each track's fingerprints for the next evaluation of the same
        model; empty: none.

    Raises:
      DatasetError: no dataset there, or no such split.
    """
    group_of, places = read_duplicates(folder), one_of_each(folder, splits)
    if most_tracks:
        first, luck = (
            {group_of.get(track_id, track_id) for track_id in wanted},
            np.random.default_rng(seed).permutation(len(places)),
        )
        order = sorted(
            range(len(places)), key=lambda place: (places[place].group not in first, luck[place])
        )
        places = [places[place] for place in order[:most_tracks]]
    places.sort(key=lambda place: place.group)
    parts, known_by = [], dataset_id(folder, splits) if cache else ""
    for group, source, record in progress(places, "index", console=console, transient=True):
        name = f"{source.row(record).track_id}.npy"
        kept = pathlib.Path(cache) / embedder.weights_hash / known_by / name if cache else None
        vectors = read_cached(kept, _read_vectors) if kept else None
        if vectors is None:
            samples = source[record].samples
            vectors = embedder.embed(samples, sample_rate_hz=source.summary.sample_rate_hz).astype(
                np.float16
            )
            if kept:
                write_atomically(kept, functools.partial(np.save, arr=vectors))
        stored = encode(vectors.astype(np.float32), embedder.precision)
        parts.append((str(group), decode(stored)))  # as a database gives them back
    segment_s = embedder.config.audio.segment_s
    reference = make_reference(
        parts, hop_s=HOP_S, segment_s=segment_s, query_phases=embedder.query_phases
    )
    starts_s = np.array([source.row(record).start_s for _, source, record in places], np.float64)
    return EvaluationReference(
        reference, np.array([int(name) for name, _ in parts]), starts_s, group_of
    )


def _read_vectors(path: pathlib.Path) -> Float16[np.ndarray, "n E"]:
    vectors = np.load(path, allow_pickle=False)
    if vectors.ndim != 2 or not is_sound(vectors.astype(np.float32)).all():
        raise ValueError(f"{vectors.dtype} {vectors.shape}, or not of unit length")
    return vectors


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A query with the truth: `start_s` is where it begins in the original, which it plays at
    `tempo`.
    """

    condition: str
    track_id: int
    start_s: float
    tempo: float
    query: Query
    row: int = -1  # in the query set's split


def cut(
    clip: Clip,
    condition: str,
    embedder: Embedder,
    *,
    begin_s: float,
    length_s: float,
    sample_rate_hz: int,
    row: int = -1,
) -> Excerpt:
    """Returns a part of an excerpt as a query; excerpts are aligned with the original at their
    middles.

    Args:
      clip: the excerpt.
      condition: how it was distorted.
      embedder: makes the query.
      begin_s: where the part begins in the excerpt, in seconds.
      length_s: how long it is, in seconds.
      sample_rate_hz: of the excerpt.
      row: of the excerpt in its split; -1: unknown.

    Raises:
      DatasetError: the query set has another sample rate than the model hears.
    """
    begin = round(begin_s * sample_rate_hz)
    num = round(length_s * sample_rate_hz)
    samples = clip.samples[begin : begin + num].astype(np.float32) / 32768
    if sample_rate_hz != embedder.sample_rate_hz:
        raise DatasetError(
            f"the query set has {sample_rate_hz} Hz, the model hears {embedder.sample_rate_hz} Hz; "
            f"make it again with --config.sample_rate_hz={embedder.sample_rate_hz}"
        )
    middle_s = len(clip.samples) / sample_rate_hz / 2
    start_s = clip.start_s + middle_s + (begin_s - middle_s) * clip.tempo
    return Excerpt(
        condition,
        clip.track_id,
        start_s,
        clip.tempo,
        embedder.query(samples),
        row,
    )
