"""What a model answered to the queries of one condition: a row a query, measured once and kept by
content.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from rich.console import Console

from confp_jax.evaluation.measure.indexed_dataset import EvaluationReference
from confp_jax.evaluation.measure.trials import Trials, read_excerpts, run_trials
from confp_jax.files import write_atomically
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.query import Query
from confp_jax.index import Index
from confp_jax.matching.decision import Decision
from confp_jax.metrics import EXACT_S, NEAR_S

KINDS = ("exact", "near", "track")  # of hits
_TRIALS = tuple(field.name for field in dataclasses.fields(Trials))


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Tracks are ids, copies of a recording under one. `segment_*`: by the first fingerprint alone,
    as the paper does.
    """

    rows: Int64[np.ndarray, " Q"]  # in the query set's split
    track_ids: Int64[np.ndarray, " Q"]
    start_s: Float64[np.ndarray, " Q"]  # where the excerpt begins in the original
    tempo: Float64[np.ndarray, " Q"]
    segment_s: Float64[
        np.ndarray, " Q"
    ]  # where the index's window does whose middle is that of the query's first window
    queries: Float32[np.ndarray, "Q E"]  # the first fingerprint of each
    exact_tracks: Int64[np.ndarray, "Q K"]
    exact_s: Float64[np.ndarray, "Q K"]
    exact_scores: Float32[np.ndarray, "Q K"]
    index_tracks: Int64[np.ndarray, "Q K"]  # of the approximate index
    index_s: Float64[np.ndarray, "Q K"]
    trials: Trials  # of the whole excerpt by the program's own matching; its tracks are ids as well

    def hits(self, kind: str, *, k: int, search: str = "exact") -> Bool[np.ndarray, " Q"]:
        """Returns whether a segment hit of a kind is among the first k results of a search ("exact"
        or "index").
        """
        tracks = getattr(self, f"{search}_tracks")[:, :k]
        at_s = getattr(self, f"{search}_s")[:, :k]
        limit_s = {"exact": EXACT_S, "near": NEAR_S, "track": np.inf}[kind]
        right = tracks == self.track_ids[:, None]
        # A hop of exactly 150 ms away must not fall out by a rounding in the last bit.
        return (right & (np.abs(at_s - self.segment_s[:, None]) <= limit_s + 1e-6)).any(axis=1)

    def save(self, path: pathlib.Path) -> None:
        """Keeps them; the file appears when it is complete."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "trials"
        }
        values |= {f"trials_{name}": getattr(self.trials, name) for name in _TRIALS}
        write_atomically(path, lambda file: np.savez(file, **values))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Outcomes":
        """Returns what `save` kept."""
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            trials = Trials(*(kept[f"trials_{name}"] for name in _TRIALS))
            return cls(
                **{name: kept[name] for name in kept.files if not name.startswith("trials_")},
                trials=trials,
            )


@dataclasses.dataclass(frozen=True)
class Searched:
    """A reference with both searches, and the decision of the model."""

    embedder: Embedder
    evaluation: EvaluationReference
    indexes: dict[str, Index]  # "exact" and "index"
    decision: Decision

    def places(
        self, rows: Int64[np.ndarray, "Q k"]
    ) -> tuple[Int64[np.ndarray, "Q k"], Float64[np.ndarray, "Q k"]]:
        """Returns the track ids (-1 for a row that is not the reference's) and the offsets, in
        seconds, of rows that a search found.
        """
        reference = self.evaluation.reference
        is_row = (rows >= 0) & (rows < len(reference.snapshot.vectors))
        tracks = reference.snapshot.row_tracks[np.where(is_row, rows, 0)]
        offsets_s = (
            self.evaluation.starts_s[tracks]
            + (rows - reference.first_rows[tracks]) * reference.hop_s
        )
        return np.where(is_row, self.evaluation.track_ids[tracks], -1), offsets_s


def measure_condition(
    searched: Searched,
    folder: str,
    condition: str,
    *,
    top_k: int,
    most: int,
    seed: int,
    console: Console,
) -> Outcomes:
    """Searches the queries of a condition.

    Args:
      searched: the reference and its indexes.
      folder: the query set.
      condition: its split.
      top_k: how many results of a query are kept.
      most: queries, evenly spread; 0: all.
      seed: of the order in which equal results are kept.
      console: shows the progress.

    Raises:
      DatasetError: the queries have another rate than the model hears, or a track that is not in
        the index.
    """
    excerpts = read_excerpts(
        searched.embedder, folder, [condition], 0.0, console, seed=seed, most=most
    )
    rows = np.array([excerpt.row for excerpt in excerpts])
    ids = searched.evaluation.track_ids
    reference = searched.evaluation.reference
    own = ids[[searched.evaluation.number(excerpt.track_id) for excerpt in excerpts]]
    trials = _by_id(run_trials(excerpts, searched.evaluation, searched.decision, console), ids)
    queries = np.stack([_looks(excerpt.query) for excerpt in excerpts])
    # Aligned at the middles: a stretched window, or one shorter than the index's, begins elsewhere
    # (docs/research/paper.md, "query position").
    segment_s = np.array(
        [e.start_s + (e.tempo * e.query.segment_s - reference.segment_s) / 2 for e in excerpts]
    )
    found: dict[str, np.ndarray] = {}
    for name, index in searched.indexes.items():
        found |= {
            f"{name}_{part}": values
            for part, values in _nearest(queries, index, searched, top_k).items()
        }
    del found["index_scores"]
    start_s, tempo = (
        np.array([getattr(e, name) for e in excerpts], np.float64) for name in ("start_s", "tempo")
    )
    return Outcomes(rows, own, start_s, tempo, segment_s, queries[:, 0], **found, trials=trials)


def _looks(query: Query) -> Float32[np.ndarray, "L E"]:
    """Returns what the first segment is searched by: its fingerprint, or all of an excerpt that is
    shorter than a segment.
    """
    return query.vectors if query.is_partial else query.vectors[:1]


def _nearest(
    queries: Float32[np.ndarray, "Q L E"], index: Index, searched: Searched, top_k: int
) -> dict[str, np.ndarray]:
    """Returns the nearest rows of any of a query's L windows, as the place of the middle one: [Q,
    K] tracks, seconds, scores.
    """
    num, looks, dim = queries.shape
    hits = index.search(queries.reshape(-1, dim), k=top_k)
    tracks, at_s = searched.places(hits.rows)
    from_middle_s = (np.arange(looks) - (looks - 1) / 2) * searched.evaluation.reference.hop_s
    at_s = at_s - np.tile(from_middle_s, num)[:, None]
    values = {"tracks": tracks, "s": at_s, "scores": hits.scores}
    flat = {name: value.reshape(num, -1) for name, value in values.items()}
    best = np.argsort(-flat["scores"], axis=1, kind="stable")[:, :top_k]
    return {name: np.take_along_axis(value, best, axis=1) for name, value in flat.items()}


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Returns the runs of a condition, one after the other."""
    values = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Outcomes)
        if field.name != "trials"
    }
    trials = Trials(
        *(np.concatenate([getattr(part.trials, name) for part in parts]) for name in _TRIALS)
    )
    return Outcomes(**values, trials=trials)


def _by_id(trials: Trials, ids: Int64[np.ndarray, " T"]) -> Trials:
    named = {
        name: np.where(getattr(trials, name) >= 0, ids[getattr(trials, name)], -1)
        for name in ("tracks", "unknown_track", "known_track")
    }
    return dataclasses.replace(trials, **named)
