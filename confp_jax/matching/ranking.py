"""From segment hits to ranked tracks: where each runs along the query, at which tempo, and how
similar it is on the way.

A query of W windows matches a track where its windows run along a line: the window whose centre
lies x s after the query's middle sounds like the track at `anchor + tempo * x`. The nearest rows
of all windows vote for such lines; the best line of each track is then scored from the stored
vectors: the mean cosine of the windows with the track's fingerprints, interpolated between the two
rows that enclose each place. The windows that overhang a query's ends count like the others, but
those beyond a track's ends are left out of the mean, for nothing of the query is missing there; so
are all of a query shorter than a segment, which is whole in each of its windows. Every step is
array arithmetic over all candidates at once.

A short query's windows lie too near each other to tell its tempo, and music played at 70 % fills
its windows with little. Such a query is heard faster as well, and where its first track is more
similar and stands out more from its rivals that way, that is the answer.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from confp_jax.fingerprint.fingerprints import Fingerprints
from confp_jax.fingerprint.windows import FASTER
from confp_jax.matching.copies import same_as_first
from confp_jax.matching.searchable import Reference

NUM_RIVALS = 10
_NUM_SEARCHES = 8  # so often 32 copies may be in the way of rivals
_NUM_SEPARATED = (
    28  # rivals that `separation` is measured by: more of them tell their deviation better
)
_LEAST_DEVIATION = 0.01  # of their scores
# A window's cosine with another recording exceeds this by chance once in a while only: what does
# is evidence, and what does not tells nothing (of the recordings of microphones, more are accepted
# so than by the mean cosine; 0.05 to 0.1 are as good).
_CHANCE_COSINE = 0.08
# The deviation of one window's evidence among rivals, as sure as two rivals' own.
_USUAL_DEVIATION = 0.025
_USUAL_WORTH = 2
# From here on the conformer alone was never surer (324 recordings of 3 s, 1,800 made queries).
_SURE_PROMINENCE = 12.0
_NUM_TRACKS = 32  # that are scored: the best, its rivals, and room for what the votes misjudge
_NUM_REPEATING, _NUM_PLACES = 8, 4  # of the first tracks, so many lines each are scored
_HITS_PER_QUERY = 1_200  # of all windows together
_HITS_PER_DENSE_QUERY = 2_400
_MIN_HITS = 50
_MAX_HITS = 12_800
_TEMPOS = np.array([0.7, 0.77, 0.845, 0.92, 1.0, 1.08, 1.17, 1.27, 1.38])
_TEMPO_RANGE = (0.68, 1.45)
_BIN_S = 0.6
# of lying a row beyond the track's first or last: there all places look alike, and the end is
# likeliest
_BEYOND_COST = 0.05
# Zoom: steps (of the tempo's logarithm, of the place in s) and how many to either side.
# The second reaches as far as the first may be wrong: at a track's end, where lying beyond costs
# least.
_ZOOM = (
    ((0.04, 2), (0.15, 4)),
    ((0.013, 1), (0.05, 2)),
    ((0.0045, 1), (0.0167, 1)),
    ((0.0015, 1), (0.0055, 1)),
)
# What a tempo must earn: music is rarely played at another one, and a free tempo fits noise.
_TEMPO_COST = 0.25
_CONFORMER_COST = (
    2.0  # in separation; less costs recordings by microphones, more music whose pitch was changed
)
_LEAST_TO_SEPARATE, _CONFORMER_COST_OF_FEW = (
    4,
    0.2,
)  # with fewer tracks there are no rivals: their scores are compared
_FASTER_COST = 0.1  # of the surety; less costs noisy queries, more slowed ones (validation)


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
    cosines: Float32[np.ndarray, "T W"]  # of each window along the line, but those that overhang
    # the first and its copies at the same place, which are no rivals; empty: not looked for
    same: Bool[np.ndarray, " T"] = dataclasses.field(default_factory=lambda: np.zeros(0, bool))

    @property
    def rivals(self) -> Int64[np.ndarray, " R"]:
        """Returns the places of the first track's rivals: those after the second, which may be the
        same recording once more, but for copies.
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
    def field(self) -> float:
        """How similar the rivals are."""
        rivals = self.scores[self.rivals[:NUM_RIVALS]]
        return float(rivals.astype(np.float64).mean()) if len(rivals) else 0.0

    def separation(self, first: int = 1) -> Float64[np.ndarray, " F"]:
        """By how many of the rivals' deviations each of the first tracks stands out from them; 0
        where fewer than two tell.
        """
        scores = self.scores[:first].astype(np.float64)
        rivals = self.scores[self._far_rivals].astype(np.float64)
        if len(rivals) < 2:
            return np.zeros(len(scores))
        return (scores - rivals.mean()) / (rivals.std() + _LEAST_DEVIATION)

    def prominence(self, first: int = 1) -> Float64[np.ndarray, " F"]:
        """Returns by how many of the rivals' deviations the evidence for each of the first tracks
        exceeds the mean of theirs.

        The evidence is the mean over the windows of what a cosine exceeds `_CHANCE_COSINE` by. It
        needs no rivals: without any, its usual deviation is taken.
        """
        evidence = np.maximum(self.cosines.astype(np.float64) - _CHANCE_COSINE, 0)
        evidence = evidence.mean(axis=1) if evidence.size else np.zeros(len(self.tracks))
        rivals = evidence[self._far_rivals]
        usual = _USUAL_DEVIATION**2 / max(self.cosines.shape[1], 1)
        squares = np.square(rivals - rivals.mean()).sum() if len(rivals) else 0.0
        deviation = np.sqrt((squares + _USUAL_WORTH * usual) / (len(rivals) + _USUAL_WORTH))
        return (evidence[:first] - (rivals.mean() if len(rivals) else 0.0)) / deviation

    @property
    def _far_rivals(self) -> Int64[np.ndarray, " R"]:
        """Those that deviations are measured by: none where there is only one."""
        return self.rivals[:_NUM_SEPARATED] if len(self.tracks) > 2 else self.rivals[:0]

    @property
    def surety(self) -> float:
        """How similar the first track is, and by how much it stands out from its rivals: of a few
        these tell little.
        """
        return 2 * float(self.scores[0]) - self.field if len(self.scores) else -math.inf

    def without(self, track: int) -> "Ranking":
        """The same with one track left out."""
        return self._where(self.tracks != track)

    def only(self, track: int) -> "Ranking":
        """The same with one track alone."""
        return self._where(self.tracks == track)

    def _where(self, kept: Bool[np.ndarray, " T"]) -> "Ranking":
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Ranking(**{name: v[kept] if len(v) else v for name, v in values.items()})


def rank(query: Fingerprints, reference: Reference, *, without: int = -1) -> Ranking:
    """The best `_NUM_TRACKS` of the tracks that any window came near to; the track `without` is
    passed over.
    """
    heard = _heard(query)
    if query.conformer_alone is not None:
        first = _rank(heard[0], reference, without)
        if len(first.tracks) and first.prominence()[0] >= _SURE_PROMINENCE:
            return first  # no other way to hear it would be surer
        return _surest([first, *_rank_all(heard[1:], reference, without)], query)
    return _surest(_rank_all(heard, reference, without), query)


def rank_with_and_without(
    query: Fingerprints, reference: Reference, track: int
) -> tuple[Ranking, Ranking]:
    """The ranking, and what it would be if `track` were not there, by one search."""
    rankings = _rank_all(_heard(query), reference, -1)
    return _surest(rankings, query), _surest(
        [ranking.without(track) for ranking in rankings], query
    )


def _rank_all(heard: list[Fingerprints], reference: Reference, without: int) -> list[Ranking]:
    """A ranking for each way in which a query is heard, side by side."""
    if len(heard) == 1:
        return [_rank(heard[0], reference, without)]
    return list(_pool().map(_rank, heard, [reference] * len(heard), [without] * len(heard)))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="rank")


def _heard(query: Fingerprints) -> list[Fingerprints]:
    """A query as it is, as the conformer alone hears it, and both as heard faster: what there is of
    these.
    """
    own = [
        query,
        query.conformer_alone,
        query.faster,
        query.faster.conformer_alone if query.faster else None,
    ]
    return [heard for heard in own if heard is not None]


def _surest(rankings: list[Ranking], query: Fingerprints) -> Ranking:
    """Of a query as it is and as heard in other ways, the surer ranking, in the query's own
    time.
    """
    if query.conformer_alone is not None:
        pairs = [
            _better_heard(*rankings[first : first + 2]) for first in range(0, len(rankings), 2)
        ]
        rankings = pairs
    own, *faster = rankings
    if not faster or faster[0].surety - _FASTER_COST <= own.surety:
        return own
    cosines = np.repeat(faster[0].scores[:, None], len(query.vectors), axis=1)
    return dataclasses.replace(
        faster[0], tempos=faster[0].tempos / FASTER, cosines=cosines
    )  # both begin at the same moment


def _better_heard(both: Ranking, conformer: Ranking) -> Ranking:
    """By both parts of an encoder, unless the first track stands out clearly more by the conformer
    alone.
    """
    if not len(both.tracks) or not len(conformer.tracks):
        return both if len(both.tracks) else conformer
    if min(len(both.tracks), len(conformer.tracks)) < _LEAST_TO_SEPARATE:
        return conformer if conformer.scores[0] - _CONFORMER_COST_OF_FEW > both.scores[0] else both
    return conformer if conformer.separation()[0] - _CONFORMER_COST > both.separation()[0] else both


def _rank(query: Fingerprints, reference: Reference, without: int) -> Ranking:
    """Returns the tracks that a query resembles, as it is; of a recording that is there so many
    times that its copies leave no room for rivals, as many more searches are made.
    """
    ranking = _with_same(_rank_once(query, reference, [without]), query, reference)
    for _ in range(_NUM_SEARCHES - 1):
        num_left = reference.num_tracks - len(ranking.tracks)
        if len(ranking.copies) < 2 or len(ranking.rivals) >= NUM_RIVALS or num_left < 1:
            break
        others = _rank_once(query, reference, [without, *ranking.tracks])
        if not len(others.tracks):
            break
        fields = (field.name for field in dataclasses.fields(ranking) if field.name != "same")
        both = {name: [getattr(ranking, name), getattr(others, name)] for name in fields}
        joined = Ranking(**{name: np.concatenate(parts) for name, parts in both.items()})
        ranking = _with_same(joined, query, reference)
    return ranking


def _with_same(ranking: Ranking, query: Fingerprints, reference: Reference) -> Ranking:
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


def _rank_once(query: Fingerprints, reference: Reference, without: Sequence[int]) -> Ranking:
    windows = _windows(query)
    seeds = (
        _seeds(windows, reference, without)
        if windows.loud.any() and len(reference.snapshot.vectors)
        else None
    )
    if seeds is None or not len(seeds.tracks):
        empty = np.zeros(0)
        cosines = np.zeros((0, len(query.vectors)), np.float32)
        return Ranking(empty.astype(np.int64), empty.astype(np.float32), empty, empty, cosines)
    lines = _Lines(windows, seeds, reference)
    log_tempos, anchors_s = np.log(seeds.tempos), seeds.anchors_s
    for tempo_steps, place_steps in (
        _ZOOM if windows.tell_tempo else [((0.0, 0), place) for _, place in _ZOOM]
    ):
        log_tempos, anchors_s = _zoomed(lines, log_tempos, anchors_s, tempo_steps, place_steps)
    cosines, weights = (
        values[:, 0] for values in lines.cosines(np.exp(log_tempos)[:, None], anchors_s[:, None])
    )
    scores = _weighted_mean(cosines, weights)
    first = query.overhang.shape[1]
    if windows.num_phases == 1:
        cosines = np.where(weights > 0, cosines, scores[:, None]) * windows.loud
        cosines = cosines[:, first : first + len(query.vectors)]
    else:
        cosines = _of_each_window(cosines, weights, windows.num_phases)
    order = np.argsort(-(scores - _TEMPO_COST * log_tempos**2), kind="stable")
    order = order[
        np.sort(np.unique(seeds.tracks[order], return_index=True)[1])
    ]  # each track's best line
    tempos = np.exp(log_tempos)
    offsets_s = anchors_s - tempos * middle_s(query)
    return Ranking(
        seeds.tracks[order], scores[order], offsets_s[order], tempos[order], cosines[order]
    )


def centres_s(query: Fingerprints) -> Float64[np.ndarray, " W"]:
    """Where in the query the middle of each window lies."""
    from_middle = np.arange(len(query.vectors)) - (len(query.vectors) - 1) / 2
    return middle_s(query) + from_middle * query.hop_s


def middle_s(query: Fingerprints) -> float:
    """Where in the query its middle window has its middle: lines are told by where they are
    there.
    """
    return query.duration_s / 2


@dataclasses.dataclass(frozen=True)
class _Windows:
    """What a query is searched by."""

    vectors: Float32[np.ndarray, "W E"]
    loud: Bool[np.ndarray, " W"]
    from_middle_s: Float64[np.ndarray, " W"]  # of the query to the middle of each
    needed: Bool[
        np.ndarray, " W"
    ]  # full of the query: where the track has nothing there, something of the query is missing
    tell_tempo: bool
    num_phases: int = 1  # so many begin within a hop; then they lie in order of their beginning

    @property
    def searched(self) -> Int64[np.ndarray, " S"]:
        """Those whose nearest rows are searched: of dense ones every second is enough to find a
        line.
        """
        step = 2 if self.num_phases % 2 == 0 else 1
        return np.flatnonzero(self.loud & (np.arange(len(self.loud)) % step == 0))


def _windows(query: Fingerprints) -> _Windows:
    if len(query.between):
        return _dense_windows(query)
    num_beyond, num = query.overhang.shape[1], len(query.vectors)
    vectors = (
        np.concatenate([query.overhang[0], query.vectors, query.overhang[1]])
        if num_beyond
        else query.vectors
    )
    place = np.arange(-num_beyond, num + num_beyond)
    return _Windows(
        vectors,
        np.any(vectors != 0, axis=1),
        (place - (num - 1) / 2) * query.hop_s,
        (place >= 0) & (place < num) & (not query.is_partial),
        query.tells_tempo,
    )


def _dense_windows(query: Fingerprints) -> _Windows:
    num_phases, num = 1 + len(query.between), len(query.vectors)
    vectors = (
        np.concatenate([query.vectors[None], query.between])
        .swapaxes(0, 1)
        .reshape(num_phases * num, -1)
    )
    from_middle_s = (np.arange(len(vectors)) / num_phases - (num - 1) / 2) * query.hop_s
    loud = np.any(vectors != 0, axis=1)
    return _Windows(
        vectors, loud, from_middle_s, loud & (not query.is_partial), query.tells_tempo, num_phases
    )


@dataclasses.dataclass(frozen=True)
class _Seeds:
    """One line for each track: it passes `anchors_s` (centre of a window in the track) at the
    query's middle.
    """

    tracks: Int64[np.ndarray, " T"]
    tempos: Float64[np.ndarray, " T"]
    anchors_s: Float64[np.ndarray, " T"]


def _seeds(windows: _Windows, reference: Reference, without: Sequence[int]) -> _Seeds:
    """The lines with most votes of each track.

    A hit's vote is what it stands out by over its window's last hit.
    """
    searched = windows.searched
    num = len(searched)
    window, rows, votes = _hits(windows.vectors[searched], reference, without)
    tracks = reference.snapshot.row_tracks[rows].astype(np.int64)
    times_s = (rows - reference.first_rows[tracks]) * reference.hop_s + reference.segment_s / 2
    from_middle_s = windows.from_middle_s[searched][window]
    found: list[tuple[np.ndarray, ...]] = []
    for tempo in _TEMPOS if windows.tell_tempo else [1.0]:
        anchors_s = times_s - tempo * from_middle_s
        cells = tracks * (1 << 32) + np.floor(anchors_s / _BIN_S).astype(np.int64) + (1 << 31)
        cell, inverse = np.unique(cells, return_inverse=True)
        ballots, ballot = np.unique(inverse * num + window, return_inverse=True)
        loudest = np.zeros(len(ballots))
        np.maximum.at(
            loudest, ballot, votes
        )  # a window has one vote in a cell, however many of its rows it holds
        total = np.bincount(ballots // num, weights=loudest)
        mean_s = np.bincount(inverse, weights=votes * anchors_s) / np.bincount(
            inverse, weights=votes
        )
        found.append((cell >> 32, total, mean_s, np.full(len(cell), tempo)))
    cell_tracks, total, anchors_s, tempos = (
        np.concatenate(parts) for parts in zip(*found, strict=True)
    )
    order = np.argsort(-total, kind="stable")
    best = order[_chosen(cell_tracks[order])]
    return _Seeds(cell_tracks[best], tempos[best], anchors_s[best])


def _chosen(tracks: Int64[np.ndarray, " C"]) -> Int64[np.ndarray, " S"]:
    """Of cells with most votes first, by track: one of each of `_NUM_TRACKS`, and the first tracks'
    next ones: music repeats.
    """
    by_track = np.argsort(tracks, kind="stable")
    starts = np.flatnonzero(np.diff(tracks[by_track], prepend=-1))
    nth = np.empty(len(tracks), np.int64)  # of its track
    nth[by_track] = np.arange(len(tracks)) - np.repeat(starts, np.diff(starts, append=len(tracks)))
    _, first, inverse = np.unique(tracks, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[inverse]  # of its track among the tracks
    return np.flatnonzero(
        (place < _NUM_TRACKS) & (nth == 0) | (place < _NUM_REPEATING) & (nth < _NUM_PLACES)
    )


def _hits(
    vectors: Float32[np.ndarray, "W E"], reference: Reference, without: Sequence[int]
) -> tuple[Int64[np.ndarray, " H"], Int64[np.ndarray, " H"], Float64[np.ndarray, " H"]]:
    """Window, row and vote of every hit; enough of them for a field of rivals."""
    wanted = _HITS_PER_DENSE_QUERY if reference.query_phases > 1 else _HITS_PER_QUERY
    k, num_rows = max(_MIN_HITS, wanted // len(vectors)), len(reference.snapshot.vectors)
    while True:
        hits = reference.index.search(vectors, k=k)
        tracks = reference.snapshot.row_tracks[hits.rows]
        used = (hits.rows >= 0) & ~np.isin(tracks, without)
        if k >= num_rows or k >= _MAX_HITS or len(np.unique(tracks[used])) > NUM_RIVALS:
            break
        k *= 8  # one long or repetitive track fills the hits: the decision needs its rivals too
    least = np.where(hits.rows >= 0, hits.scores, np.inf).min(axis=1, keepdims=True)
    window, place = np.nonzero(used)
    return (
        window,
        hits.rows[window, place],
        (hits.scores - least)[window, place].astype(np.float64) + 1e-3,
    )


class _Lines:
    """Cosines along any line near the seeds, from the stored rows around them."""

    def __init__(self, windows: _Windows, seeds: _Seeds, reference: Reference):
        self._windows, self._hop_s = windows, reference.hop_s
        reach_s = np.abs(windows.from_middle_s).max(initial=0.0) * _TEMPO_RANGE[1] + 1.5
        middle = np.round((seeds.anchors_s - reference.segment_s / 2) / reference.hop_s).astype(
            np.int64
        )
        half = math.ceil(reach_s / reference.hop_s) + 1
        num_rows = reference.num_rows[seeds.tracks]
        first = np.clip(middle - half, 0, num_rows - 1)  # the rows that are there, first to last
        last = np.clip(middle + half, 0, num_rows - 1)
        rows = first[:, None] + np.arange(2 * half + 2)
        stored = reference.first_rows[seeds.tracks][:, None] + np.minimum(rows, last[:, None])
        vectors = reference.snapshot.vectors[stored].astype(np.float32)
        flat = (
            vectors.reshape(-1, vectors.shape[2]) @ windows.vectors.T
        )  # one product: many small ones wait for each other
        self._similar = flat.reshape(*vectors.shape[:2], -1)  # [T, R, W]
        if windows.num_phases == 1:  # dense windows count where they lie at a row
            self._neighbours = np.einsum("tre,tre->tr", vectors[:, :-1], vectors[:, 1:])
        self._first_s = first * reference.hop_s + reference.segment_s / 2
        self._num = (last - first)[:, None, None]

    def cosines(
        self, tempos: Float64[np.ndarray, "T G"], anchors_s: Float64[np.ndarray, "T G"]
    ) -> tuple[Float32[np.ndarray, "T G W"], Float32[np.ndarray, "T G W"]]:
        """Returns the cosine of each window with the track at its place on each of G lines a
        track, and how much it counts.

        Between two rows the track is what lies between them, and every window counts. Of dense
        windows those count that lie at a row. Beyond the track's ends the cosine is 0 for a window
        that is needed, and one that is not does not count.
        """
        place_s = anchors_s[..., None] + tempos[..., None] * self._windows.from_middle_s
        place = (place_s - self._first_s[:, None, None]) / self._hop_s
        inside = (place >= -0.5) & (place <= self._num + 0.5)
        beyond = np.abs(place - np.clip(place, 0, self._num))
        counted = (inside | self._windows.needed) & self._windows.loud
        if self._windows.num_phases == 1:
            cosines, weights = self._between_rows(np.clip(place, 0, self._num)), counted
        else:
            nearest = np.round(place)
            weights = counted * np.maximum(
                1 - self._windows.num_phases * np.abs(place - nearest), 0
            )
            cosines = self._at_rows(np.clip(nearest, 0, self._num).astype(np.int64))
        return cosines * inside * (1 - _BEYOND_COST * beyond), weights.astype(np.float32)

    def _at_rows(self, row: Int64[np.ndarray, "T G W"]) -> Float32[np.ndarray, "T G W"]:
        return self._similar[np.arange(len(row))[:, None, None], row, np.arange(row.shape[2])]

    def _between_rows(self, place: Float64[np.ndarray, "T G W"]) -> Float32[np.ndarray, "T G W"]:
        row = np.minimum(place.astype(np.int64), np.maximum(self._num - 1, 0))
        part = (place - row).astype(np.float32)
        before, after = self._at_rows(row), self._at_rows(row + 1)
        neighbours = self._neighbours[np.arange(len(row))[:, None, None], row]
        norm = (1 - part) ** 2 + part**2 + 2 * part * (1 - part) * neighbours
        return ((1 - part) * before + part * after) / np.sqrt(np.maximum(norm, 1e-6))


def _weighted_mean(
    cosines: Float32[np.ndarray, "... W"], weights: Float32[np.ndarray, "... W"]
) -> Float32[np.ndarray, "..."]:
    """The mean of the windows that count; -1 where none does."""
    total = weights.sum(axis=-1)
    return np.where(total > 0, (cosines * weights).sum(axis=-1) / np.maximum(total, 1e-6), -1.0)


def _of_each_window(
    cosines: Float32[np.ndarray, "T P*N"], weights: Float32[np.ndarray, "T P*N"], num_phases: int
) -> Float32[np.ndarray, "T N"]:
    """The cosine within each hop, of dense windows; where none of a hop counts, the mean of all."""
    by_hop = (len(cosines), cosines.shape[1] // num_phases, num_phases)
    cosines, weights = cosines.reshape(by_hop), weights.reshape(by_hop)
    whole = _weighted_mean(cosines.reshape(len(cosines), -1), weights.reshape(len(cosines), -1))
    return np.where(weights.sum(axis=-1) > 0, _weighted_mean(cosines, weights), whole[:, None])


def _zoomed(
    lines: _Lines,
    log_tempos: Float64[np.ndarray, " T"],
    anchors_s: Float64[np.ndarray, " T"],
    tempo_steps: tuple[float, int],
    place_steps: tuple[float, int],
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
    """The best line of each track on a grid around the one so far."""
    (tempo_step, num_tempos), (place_step, num_places) = tempo_steps, place_steps
    tempo_grid = np.repeat(np.arange(-num_tempos, num_tempos + 1) * tempo_step, 2 * num_places + 1)
    place_grid = np.tile(np.arange(-num_places, num_places + 1) * place_step, 2 * num_tempos + 1)
    log_tempo = np.clip(log_tempos[:, None] + tempo_grid, *np.log(_TEMPO_RANGE))
    anchor_s = anchors_s[:, None] + place_grid
    scores = (
        _weighted_mean(*lines.cosines(np.exp(log_tempo), anchor_s)) - _TEMPO_COST * log_tempo**2
    )
    best = scores.argmax(axis=1)
    track = np.arange(len(best))
    return log_tempo[track, best], anchor_s[track, best]
