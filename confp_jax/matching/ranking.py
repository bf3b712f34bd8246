"""From segment hits to ranked tracks: where each runs along the query, at which tempo, and how
similar it is on the way.

A query of W windows matches a track where its windows run along a line: the window whose centre
lies x s after the query's middle sounds like the track at `anchor + tempo * x`. The nearest rows
of all windows vote for such lines; the best line of each track is then scored from the stored
vectors: the mean cosine of the windows with the track's fingerprints, interpolated between the two
rows that enclose each place. A query's edge windows count like the others, but those outside a
track's ends are left out of the mean: nothing of the query is missing there. The same holds for all
windows of a query shorter than a segment, each of which holds the whole query. Every step is array
arithmetic over all candidates at once.

For an encoder with a projection, a query is ranked by the projection at the query's own tempo. If
that is not sure, it is also ranked by the conformer, which tolerates other pitches, at any tempo.
If both name the same track at the same place, the result is surer than either.

The windows of a short query are too close together to estimate its tempo, and music played at 70 %
fills them with little. Such a query is also searched at a faster tempo, and that result counts if
its first track is more similar and stands out more from its cohort.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from confp_jax.fingerprint.query import Query
from confp_jax.fingerprint.windows import SPEEDUP
from confp_jax.matching.copies import same_as_first
from confp_jax.matching.lines import ZOOM, Lines, of_each_window, weighted_mean, zoomed
from confp_jax.matching.query_windows import middle_s, query_windows
from confp_jax.matching.searchable import Reference
from confp_jax.matching.seeds import COHORT_SIZE, seed_lines, tempo_cost
from confp_jax.model.forked import check_not_forked

_NUM_SEARCHES = 8  # as long as up to 32 copies leave no room for a cohort
_NUM_SEPARATED = 60  # of the cohort, that deviations are measured by: more measure them better
_LEAST_DEVIATION = 0.01  # of their scores
# A window's cosine with another recording seldom exceeds this by chance: only what exceeds it is
# evidence (more recordings by microphones are accepted so than by the mean cosine; at 0.05 as
# many, at 0.1 fewer, and of music at another pitch as well).
_CHANCE_COSINE = 0.06
# The deviation of one window's evidence in the cohort; it weighs as much as two of its tracks.
_USUAL_DEVIATION = 0.025
_CONFORMER_DEVIATION = 0.05  # the same of the conformer alone, whose dimensions are fewer
_USUAL_WORTH = 2
# The part of the evidence on neighbouring lines that is subtracted: music that resembles itself.
_BESIDE_WORTH = 0.5
_BESIDE_HOPS = np.array([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5])
# With both at least this high the conformer never named another track (324 recordings, 760 made
# queries): another tempo or pitch leaves some windows alike, not all.
_SURE_PROMINENCE, _SURE_SCORE = 12.0, 0.35
_AGREED_WORTH = 0.3  # of how much the other part's first track stands out, if it is the same
_AGREED_S = 1.0
# In separation; more costs music whose pitch was changed, and lets unknown queries stand out more.
_CONFORMER_COST = 1.0
_LEAST_TO_SEPARATE, _CONFORMER_COST_OF_FEW = (
    4,
    0.2,
)  # with fewer tracks there is no cohort: their scores are compared
_FASTER_COST = 0.1  # of the separation; less costs noisy queries, more slowed ones (validation)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Distinct tracks, best first."""

    tracks: Int64[np.ndarray, " T"]  # index into the snapshot's tracks
    scores: Float32[
        np.ndarray, " T"
    ]  # mean cosine of the query's windows; a whole one outside the track counts 0
    offsets_s: Float64[
        np.ndarray, " T"
    ]  # where in the track the query begins; below 0: the track begins within the query
    tempos: Float64[np.ndarray, " T"]  # the query's: above 1 it is played faster than the track
    cosines: Float32[np.ndarray, "T W"]  # of each own window along the line
    # the evidence on neighbouring lines of each; empty: not computed
    beside: Float32[np.ndarray, " T"] = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.float32)
    )
    # the first and its copies at the same place, which are not in the cohort; empty: not computed
    same: Bool[np.ndarray, " T"] = dataclasses.field(default_factory=lambda: np.zeros(0, bool))
    usual_deviation: float = _USUAL_DEVIATION
    agreed: float = 0.0  # how much the first stands out by the other part; 0: another is first

    @property
    def cohort(self) -> Int64[np.ndarray, " R"]:
        """Returns the places of the tracks that the first is compared with: those after the second,
        which may be the same recording once more, without copies.
        """
        places = np.arange(2 if len(self.tracks) > 2 else 1, len(self.tracks))
        return places[~self.same[places]] if len(self.same) else places

    @property
    def copies(self) -> Int64[np.ndarray, " C"]:
        """Returns the tracks that hold the first one's recording, the first itself included."""
        return self.tracks[self.same] if len(self.same) else self.tracks[:1]

    def leading(self, num: int) -> Int64[np.ndarray, " F"]:
        """Returns the places of the first `num` recordings, with all copies of the first."""
        if not len(self.same):
            return np.arange(min(num, len(self.tracks)))
        others = np.flatnonzero(~self.same)[: num - 1]
        return np.sort(np.concatenate([np.flatnonzero(self.same), others]))

    @property
    def cohort_mean(self) -> float:
        """Returns the mean score of the cohort."""
        cohort = self.scores[self.cohort[:COHORT_SIZE]]
        return float(cohort.astype(np.float64).mean()) if len(cohort) else 0.0

    def separation(self, first: int = 1) -> Float64[np.ndarray, " F"]:
        """Returns by how many deviations of the cohort each of the first tracks stands out from it;
        0 for a cohort of fewer than two.
        """
        scores = self.scores[:first].astype(np.float64)
        cohort = self.scores[self._far_cohort].astype(np.float64)
        if len(cohort) < 2:
            return np.zeros(len(scores))
        return (scores - cohort.mean()) / (cohort.std() + _LEAST_DEVIATION)

    def prominence(self, first: int = 1) -> Float64[np.ndarray, " F"]:
        """Returns by how many deviations of the cohort the evidence for each of the first tracks
        exceeds the cohort's mean.

        The evidence is by how much the cosines exceed `_CHANCE_COSINE`, on average over the
        windows, less a part of the same on neighbouring lines. Without a cohort, the usual
        deviation is taken.
        """
        found = _evidence(self.cosines).mean(axis=1) if self.cosines.size else self.scores * 0.0
        if len(self.beside):
            found = found - _BESIDE_WORTH * self.beside
        cohort = found[self._far_cohort]
        usual = self.usual_deviation**2 / max(self.cosines.shape[1], 1)
        squares = np.square(cohort - cohort.mean()).sum() if len(cohort) else 0.0
        deviation = np.sqrt((squares + _USUAL_WORTH * usual) / (len(cohort) + _USUAL_WORTH))
        return (found[:first] - (cohort.mean() if len(cohort) else 0.0)) / deviation

    def standout(self, first: int = 1) -> Float64[np.ndarray, " F"]:
        """Returns the prominence of each of the first tracks, or its margin in usual deviations if
        that is more. The first track's is raised if the other part of the model finds it, too.

        Noise leaves few windows with evidence, which the prominence counts; a change of pitch
        leaves all of them equally similar, which the margin counts.
        """
        margins = (self.scores[:first].astype(np.float64) - self.cohort_mean) / _USUAL_DEVIATION
        standouts = np.maximum(self.prominence(first), margins)
        standouts[:1] += _AGREED_WORTH * self.agreed
        return standouts

    @property
    def _far_cohort(self) -> Int64[np.ndarray, " R"]:
        """Returns the cohort that deviations are measured by: none of fewer than three tracks."""
        return self.cohort[:_NUM_SEPARATED] if len(self.tracks) > 2 else self.cohort[:0]

    @property
    def score_separation(self) -> float:
        """Returns the first track's score plus its margin, which suits small databases too: a few
        tracks give no reliable deviation.
        """
        return 2 * float(self.scores[0]) - self.cohort_mean if len(self.scores) else -math.inf

    def without(self, track: int) -> "Ranking":
        """Returns the ranking without one track."""
        return self._where(self.tracks != track)

    def only(self, track: int) -> "Ranking":
        """Returns the ranking of one track alone."""
        return self._where(self.tracks == track)

    def _where(self, kept: Bool[np.ndarray, " T"]) -> "Ranking":
        arrays = {name: values[kept] for name, values in self._arrays().items() if len(values)}
        return dataclasses.replace(self, **arrays, agreed=self.agreed if kept[:1].all() else 0.0)

    def _arrays(self) -> dict[str, Any]:
        """Returns what there is one of for each track, by its name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def rank(query: Query, reference: Reference, *, without: int = -1) -> Ranking:
    """Ranks the tracks that resemble a query.

    Args:
      query: what is searched.
      reference: the tracks that are searched.
      without: a track that is left out; -1: none.

    Returns:
      The best tracks, each with its best line; empty if no window is near to any.

    Raises:
      ForkedError: this process was forked from one in which something was ranked.
    """
    check_not_forked()
    if query.by_conformer is None:
        return _surest(_rank_all(_heard(query), reference, without), query)
    first = _rank(query, reference, without)
    if _is_sure(first):
        return first  # the conformer would not be surer, and is not computed
    return _surest([first, *_rank_all(_heard(query.by_conformer()), reference, without)], query)


def _is_sure(ranking: Ranking) -> bool:
    if not len(ranking.tracks) or ranking.scores[0] < _SURE_SCORE:
        return False
    return bool(ranking.prominence()[0] >= _SURE_PROMINENCE)


def rank_with_and_without(
    query: Query, reference: Reference, track: int
) -> tuple[Ranking, Ranking]:
    """Returns the ranking, and the ranking without one track, by one search."""
    check_not_forked()
    heard = _heard(query)
    if query.by_conformer is not None:
        heard = [query, *_heard(query.by_conformer())]
    rankings = _rank_all(heard, reference, -1)
    return _surest(rankings, query), _surest(
        [ranking.without(track) for ranking in rankings], query
    )


def _rank_all(heard: list[Query], reference: Reference, without: int) -> list[Ranking]:
    """Returns a ranking for each query, computed in parallel."""
    if len(heard) == 1:
        return [_rank(heard[0], reference, without)]
    return list(_pool().map(_rank, heard, [reference] * len(heard), [without] * len(heard)))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="rank")


def _heard(query: Query) -> list[Query]:
    """Returns a query, and the same at a faster tempo if it has that."""
    return [query] if query.sped_up is None else [query, query.sped_up]


def _surest(rankings: list[Ranking], query: Query) -> Ranking:
    """Returns the surest of the rankings of one query: by both parts, by the conformer alone, and
    at a faster tempo. Its places are in the query's own time.
    """
    own, *faster = rankings
    if query.by_conformer is not None:
        by_conformer = [
            dataclasses.replace(one, usual_deviation=_CONFORMER_DEVIATION) for one in rankings[1:]
        ]
        own = _better_heard(rankings[0], by_conformer[0], middle_s(query))
        faster = by_conformer[1:]
    if not faster or faster[0].score_separation - _FASTER_COST <= own.score_separation:
        return own
    cosines = np.repeat(faster[0].scores[:, None], len(query.vectors), axis=1)
    return dataclasses.replace(
        faster[0], tempos=faster[0].tempos / SPEEDUP, cosines=cosines
    )  # both begin at the same moment


def _better_heard(both: Ranking, conformer: Ranking, middle: float) -> Ranking:
    """Returns the ranking by both parts of an encoder, or by the conformer alone if its first track
    stands out clearly more; `middle` is the query's, in seconds.
    """
    if not len(both.tracks) or not len(conformer.tracks):
        return both if len(both.tracks) else conformer
    is_same = both.tracks[0] == conformer.tracks[0]
    if min(len(both.tracks), len(conformer.tracks)) < _LEAST_TO_SEPARATE:
        prefers = conformer.scores[0] - _CONFORMER_COST_OF_FEW > both.scores[0]
    else:
        cost = 0.0 if is_same else _CONFORMER_COST  # for the same track the better line counts
        prefers = conformer.separation()[0] - cost > both.separation()[0]
    better, other = (conformer, both) if prefers else (both, conformer)
    places_s = [one.offsets_s[0] + one.tempos[0] * middle for one in (both, conformer)]
    if not is_same or abs(places_s[0] - places_s[1]) > _AGREED_S:
        return better
    return dataclasses.replace(better, agreed=float(other.standout()[0]))


def _rank(query: Query, reference: Reference, without: int) -> Ranking:
    """Returns the ranking of one query as it is. If a recording has so many copies that they leave
    no room for a cohort, more searches are made without them.
    """
    ranking = _with_same(_rank_once(query, reference, [without]), query, reference)
    for _ in range(_NUM_SEARCHES - 1):
        num_left = reference.num_tracks - len(ranking.tracks)
        if len(ranking.copies) < 2 or len(ranking.cohort) >= COHORT_SIZE or num_left < 1:
            break
        others = _rank_once(query, reference, [without, *ranking.tracks])
        if not len(others.tracks):
            break
        parts = ranking._arrays(), others._arrays()
        both: dict[str, Any] = {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
        joined = Ranking(**both)
        joined = dataclasses.replace(joined, same=np.zeros(0, bool))
        ranking = _with_same(joined, query, reference)
    return ranking


def _with_same(ranking: Ranking, query: Query, reference: Reference) -> Ranking:
    if len(ranking.tracks) < 2:
        return ranking
    same = same_as_first(
        reference,
        ranking.tracks,
        ranking.scores,
        ranking.offsets_s + ranking.tempos * middle_s(query),
        ranking.tempos,
        length_s=query.duration_s,
    )
    return dataclasses.replace(ranking, same=same)


def _rank_once(query: Query, reference: Reference, without: Sequence[int]) -> Ranking:
    windows = query_windows(query)
    seeds = (
        seed_lines(windows, reference, without)
        if windows.loud.any() and len(reference.snapshot.vectors)
        else None
    )
    if seeds is None or not len(seeds.tracks):
        empty = np.zeros(0)
        cosines = np.zeros((0, len(query.vectors)), np.float32)
        return Ranking(empty.astype(np.int64), empty.astype(np.float32), empty, empty, cosines)
    lines = Lines(windows, seeds, reference)
    log_tempos, anchors_s = np.log(seeds.tempos), seeds.anchors_s
    for tempo_steps, place_steps in ZOOM:
        log_tempos, anchors_s = zoomed(lines, log_tempos, anchors_s, tempo_steps, place_steps)
    cosines, weights = (
        values[:, 0] for values in lines.cosines(np.exp(log_tempos)[:, None], anchors_s[:, None])
    )
    scores = weighted_mean(cosines, weights)
    first = query.num_edge_windows
    if windows.num_phases == 1:
        cosines = np.where(weights > 0, cosines, scores[:, None]) * windows.loud
        cosines = cosines[:, first : first + len(query.vectors)]
    else:
        cosines = of_each_window(cosines, weights, windows.num_phases)
    order = np.argsort(-(scores - tempo_cost(log_tempos)), kind="stable")
    order = order[
        np.sort(np.unique(seeds.tracks[order], return_index=True)[1])
    ]  # each track's best line
    tempos = np.exp(log_tempos)
    offsets_s = anchors_s - tempos * middle_s(query)
    found = Ranking(
        seeds.tracks[order], scores[order], offsets_s[order], tempos[order], cosines[order]
    )
    if not windows.is_steady:
        return found
    beside = _evidence_beside(lines, tempos, anchors_s, reference.hop_s)
    return dataclasses.replace(found, beside=beside[order])


def _evidence(cosines: Float32[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Returns by how much each cosine exceeds `_CHANCE_COSINE`."""
    return np.maximum(cosines.astype(np.float64) - _CHANCE_COSINE, 0)


def _evidence_beside(
    lines: Lines,
    tempos: Float64[np.ndarray, " T"],
    anchors_s: Float64[np.ndarray, " T"],
    hop_s: float,
) -> Float32[np.ndarray, " T"]:
    """Returns the mean evidence on lines that run up to 1.5 s before and after each line."""
    places_s = anchors_s[:, None] + hop_s * _BESIDE_HOPS
    tempos = np.repeat(tempos[:, None], len(_BESIDE_HOPS), axis=1)
    cosines, weights = lines.cosines(tempos, places_s)
    found = weighted_mean(_evidence(cosines), weights)
    return np.maximum(found, 0).mean(axis=1).astype(np.float32)
