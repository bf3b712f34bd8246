"""Excerpts searched by the program's own matching, once with their track in the database and once
with it passed over.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from rich.console import Console
from rich.progress import track as progress

from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.evaluation.measure.indexed_dataset import EvaluationReference, Excerpt, cut
from confp_jax.evaluation.measure.query_sets import spread
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.query import Query
from confp_jax.matching.decision import Decision, Judgement
from confp_jax.matching.ranking import rank
from confp_jax.matching.searchable import Reference


@dataclasses.dataclass(frozen=True)
class Trials:
    """One row for each excerpt. `*_rate` is how often an unknown query reaches as much: smaller is
    surer.
    """

    tracks: Int64[np.ndarray, " Q"]
    right: Bool[np.ndarray, " Q"]  # the own track came first
    known_rate: Float64[np.ndarray, " Q"]
    known_logit: Float64[np.ndarray, " Q"]
    unknown_rate: Float64[np.ndarray, " Q"]
    unknown_logit: Float64[np.ndarray, " Q"]
    unknown_track: Int64[np.ndarray, " Q"]  # that came first without the own one
    offset_error_s: Float64[
        np.ndarray, " Q"
    ]  # at the query's middle; NaN where another track came first
    known_track: Int64[np.ndarray, " Q"]  # that came first; -1: none
    offset_s: Float64[np.ndarray, " Q"]  # where in it the query begins

    def accepted_right(self, rate: float) -> Bool[np.ndarray, " Q"]:
        """Returns which are answered, and rightly."""
        return self.right & (self.known_rate <= rate)

    def false_alarms(self, rate: float) -> Bool[np.ndarray, " Q"]:
        """Returns which are answered although their track is not there."""
        return self.unknown_rate <= rate

    def rows(self, chosen: Bool[np.ndarray, " Q"]) -> "Trials":
        """Returns those of some excerpts."""
        values = {
            field.name: getattr(self, field.name)[chosen] for field in dataclasses.fields(self)
        }
        return Trials(**values)


def read_excerpts(
    embedder: Embedder,
    folder: str,
    conditions: Sequence[str],
    length_s: float,
    console: Console,
    *,
    seed: int,
    most: int = 0,
) -> list[Excerpt]:
    """Returns the excerpts of a query set.

    Args:
      embedder: makes the queries.
      folder: the query set.
      conditions: its splits that are read.
      length_s: what excerpts are cut to at a random place, in seconds; 0: whole.
      console: shows the progress.
      seed: of the random places.
      most: excerpts of each condition, evenly spread; 0: all.
    """
    rng = np.random.default_rng(seed)
    out = []
    for split in progress(
        conditions or read_splits(folder), "excerpts", console=console, transient=True
    ):
        source = ClipSource(folder, split)
        rate_hz = source.summary.sample_rate_hz
        for number in spread(len(source), most):
            clip = source[number]
            whole_s = len(clip.samples) / rate_hz
            used_s = min(length_s, whole_s) or whole_s
            begin_s = rng.uniform(0, whole_s - used_s)
            out.append(
                cut(
                    clip,
                    split,
                    embedder,
                    begin_s=begin_s,
                    length_s=used_s,
                    sample_rate_hz=rate_hz,
                    row=number,
                )
            )
    return out


def run_trials(
    excerpts: Sequence[Excerpt], searched: EvaluationReference, decision: Decision, console: Console
) -> Trials:
    """Searches every excerpt with its own track in the database, and without."""
    rows = []
    for excerpt in progress(excerpts, "searching", console=console, transient=True):
        own = searched.number(excerpt.track_id)
        best, place, known = first_match(excerpt.query, searched.reference, decision)
        unknown_track, _, unknown = first_match(
            excerpt.query, searched.reference, decision, masked=own
        )
        start_s = float(searched.starts_s[best])
        half_s = excerpt.query.duration_s / 2
        # At the query's middle: the tempo of a short query is not estimated, and the truth is
        # aligned there.
        error_s = (
            abs(start_s + place.at(half_s) - excerpt.start_s - excerpt.tempo * half_s)
            if best == own
            else np.nan
        )
        rows.append(
            (
                own,
                best == own,
                *known,
                *unknown,
                unknown_track,
                error_s,
                best,
                start_s + place.offset_s,
            )
        )
    columns = list(zip(*rows, strict=True))
    return Trials(*(np.array(column) for column in columns))


class Place(NamedTuple):
    """Where in an indexed clip a query was found to begin, and how fast it plays it."""

    offset_s: float
    tempo: float

    def at(self, moment_s: float) -> float:
        """Returns where in the clip the query's moment lies."""
        return self.offset_s + self.tempo * moment_s


def first_match(
    query: Query, reference: Reference, decision: Decision, *, masked: int = -1
) -> tuple[int, Place, tuple[float, float]]:
    """Returns the best track (-1: none) but the `masked` one, the place in it, and its (alarm rate,
    logit).
    """
    ranking = rank(query, reference, without=masked)
    if not len(ranking.tracks):
        return -1, Place(np.nan, np.nan), (1.0, -np.inf)
    num_tracks = reference.num_tracks - (masked >= 0)
    judged: Judgement = decision.judge(
        ranking,
        length_s=query.loud_s,
        num_tracks=num_tracks,
        has_edge_windows=query.has_edge_windows,
    )
    place = Place(float(ranking.offsets_s[0]), float(ranking.tempos[0]))
    return int(ranking.tracks[0]), place, (float(judged.alarm_rates[0]), float(judged.logits[0]))


def alarm_pairs(
    trials: Trials, searched: EvaluationReference, rate: float
) -> list[tuple[int, int, int]]:
    """(track id, id of the track it was taken for, how often), most often first: many are one piece
    in two versions.
    """
    alarms = trials.false_alarms(rate)
    pairs = np.stack([trials.tracks[alarms], trials.unknown_track[alarms]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ids = searched.track_ids[found]
    return [(int(ids[i, 0]), int(ids[i, 1]), int(counts[i])) for i in order]


def curve(trials: Trials) -> list[tuple[float, float]]:
    """(share of unknown queries answered, share of known ones not answered rightly) over all
    thresholds.
    """
    logits = np.unique(
        np.quantile(
            trials.unknown_logit, np.r_[np.linspace(0.5, 0.99, 50), np.linspace(0.9905, 1, 20)]
        )
    )
    points = [
        (
            float((trials.unknown_logit >= t).mean()),
            float(1 - (trials.right & (trials.known_logit >= t)).mean()),
        )
        for t in logits
    ]
    return points[::-1]
