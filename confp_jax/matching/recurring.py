"""Recordings that are the same message, and sections that recur: groups, in near-linear time.

Some rows of every track are searched for in all tracks at once. Two tracks that several rows agree
on, on one line, are compared row by row along their lines: two lines, where a name is spoken into
one of two calls. Groups are joined by pairs of tracks that share most of the shorter one; two
groups that have grown are joined only by a second such pair, of two other tracks: a short call may
share its opening with calls of several messages.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.matching.searchable import Reference

_PROBES_AT_ONCE = 1024
_HITS = 40
# of a hit; rows half a hop apart have 0.32
_LEAST_COSINE = 0.7
_LEAST_DENSE_COSINE = 0.25
_ALL_ROWS = 24  # of a track up to here all rows are searched for, of others every second
_NUM_OTHERS = 24  # of a track, those that most rows agree on
_NUM_LINES = 4  # of a pair
_LEAST_VOTES = 2
# Rows that are more alike than this, from the usual cosine to 1, speak for the same recording and
# others against it; a run is one where all together say enough. So few rows must be much alike, and
# of many a little is enough, as through two codecs and noise where the lines lie between two rows.
_SAME = 0.63
_DENSE_SAME = 0.17
_LEAST_EXCESS = 0.5
_LEAST_DENSE_EXCESS = 0.85
_LEAST_RUN_S = 1.5
_LEAST_SHARE = 0.65  # of the shorter track
_GROWN = 3  # tracks: two such groups need a second pair, of two other tracks
_OVERLAP = 0.5  # of two sections of one track: they are one

Report = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A stretch that two tracks share; places in seconds."""

    track_s: float
    other_s: float
    length_s: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two tracks (indices into the snapshot's) and what they share."""

    track: int
    other: int
    runs: tuple[Run, ...]
    share: float  # of the shorter one


@dataclasses.dataclass(frozen=True)
class Section:
    """A stretch of a track that recurs elsewhere."""

    track: int
    begin_s: float
    end_s: float


def recurring_tracks(
    reference: Reference,
    *,
    known: Sequence[Sequence[int]] = (),
    new: Iterable[int] | None = None,
    report: Report = lambda done, total: None,
) -> list[list[int]]:
    """Returns groups of two and more tracks that hold the same message, largest first.

    Args:
      reference: the tracks.
      known: groups found before.
      new: the tracks that were not there then; None: all.
      report: called with how many tracks were searched for, and how many there are.
    """
    groups = _Groups(reference.num_tracks, known)
    for track, others in candidates(reference, new, report):
        for other, lines in others:
            if groups.of(track) != groups.of(other):
                pair = compare_tracks(reference, track, other, lines)
                if pair.share >= _LEAST_SHARE:
                    groups.join(track, other)
    return groups.listed()


def recurring_sections(
    reference: Reference,
    *,
    shortest_s: float,
    longest_s: float,
    report: Report = lambda done, total: None,
) -> list[list[Section]]:
    """Returns groups of sections of two and more places that hold the same, most places first: an
    intro, credits, a sting, a spot.
    """
    found: list[tuple[Section, Section]] = []
    seen: set[tuple[int, int]] = set()
    for track, others in candidates(reference, None, report):
        for other, lines in others:
            if (other, track) in seen:
                continue
            seen.add((track, other))
            for run in compare_tracks(reference, track, other, lines).runs:
                if shortest_s <= run.length_s <= longest_s:
                    ends_s = (run.track_s + run.length_s, run.other_s + run.length_s)
                    own = Section(track, run.track_s, ends_s[0])
                    found.append((own, Section(other, run.other_s, ends_s[1])))
    return _joined_sections(found)


def candidates(
    reference: Reference, new: Iterable[int] | None, report: Report
) -> Iterator[tuple[int, list[tuple[int, list[int]]]]]:
    """Yields each track with others that several of its rows agree on, and their lines: by how many
    rows the other is ahead.
    """
    wanted = list(range(reference.num_tracks) if new is None else new)
    for chunk in _chunks(reference, wanted):
        rows = np.concatenate([_probes(reference, track) for track in chunk])
        hits = _hits(reference, rows)
        own = reference.snapshot.row_tracks[rows[hits[0]]].astype(np.int64)
        for track in chunk:
            mine = own == track
            probe = rows[hits[0][mine]]
            row = hits[1][mine]
            yield track, _agreed(reference, track, probe, row)
        report(wanted.index(chunk[-1]) + 1, len(wanted))


def _chunks(reference: Reference, tracks: Sequence[int]) -> Iterator[list[int]]:
    """Yields tracks so that about `_PROBES_AT_ONCE` rows are searched for together."""
    chunk: list[int] = []
    num = 0
    for track in tracks:
        chunk.append(track)
        num += len(_probes(reference, track))
        if num >= _PROBES_AT_ONCE:
            yield chunk
            chunk = []
            num = 0
    if chunk:
        yield chunk


def _probes(reference: Reference, track: int) -> Int64[np.ndarray, " P"]:
    num = int(reference.num_rows[track])
    return reference.first_rows[track] + np.arange(0, num, 1 if num <= _ALL_ROWS else 2)


def _hits(
    reference: Reference, rows: Int64[np.ndarray, " P"]
) -> tuple[Int64[np.ndarray, " H"], Int64[np.ndarray, " H"]]:
    """Returns which of the rows is near which row of another track."""
    least = _LEAST_DENSE_COSINE if reference.query_phases > 1 else _LEAST_COSINE
    row_tracks = reference.snapshot.row_tracks
    hits = reference.index.search(reference.snapshot.vectors[rows].astype(np.float32), k=_HITS)
    is_near = (hits.rows >= 0) & (hits.scores >= least)
    is_near &= row_tracks[hits.rows] != row_tracks[rows][:, None]
    probe, place = np.nonzero(is_near)
    return probe, hits.rows[probe, place]


def _agreed(
    reference: Reference, track: int, probe: np.ndarray, row: np.ndarray
) -> list[tuple[int, list[int]]]:
    others = reference.snapshot.row_tracks[row].astype(np.int64)
    ahead = (row - reference.first_rows[others]) - (probe - reference.first_rows[track])
    votes: collections.Counter[tuple[int, int]] = collections.Counter()
    # one vote a row and line; a line between two rows has votes of both
    for other, line, _ in set(zip(others.tolist(), ahead.tolist(), probe.tolist(), strict=True)):
        votes[other, line] += 1
    both = {key: num + votes.get((key[0], key[1] + 1), 0) for key, num in votes.items()}
    lines: dict[int, list[int]] = {}
    total: collections.Counter[int] = collections.Counter()
    for (other, line), num in sorted(both.items(), key=lambda item: -item[1]):
        mine = lines.setdefault(other, [])
        is_beside = line + 1 in mine or line - 1 in mine
        if num >= _LEAST_VOTES and len(mine) < _NUM_LINES and not is_beside:
            mine.append(line)
            total[other] += num
    return [(other, lines[other]) for other, _ in total.most_common(_NUM_OTHERS)]


def compare_tracks(reference: Reference, track: int, other: int, lines: Sequence[int]) -> Pair:
    """Returns what two tracks share along lines."""
    a = reference.rows_of(track)
    b = reference.rows_of(other)
    covered_a = np.zeros(len(a), bool)
    covered_b = np.zeros(len(b), bool)
    runs = []
    for line in lines:
        first = max(0, -line)
        cosines = _along(a, b, line, first)
        for begin, end in _runs(cosines, reference):
            run = _timed(reference, track, other, line, first, cosines, begin, end)
            rows_a = slice(first + begin, first + end)
            if run.length_s >= _LEAST_RUN_S and not covered_a[rows_a].mean() > _OVERLAP:
                covered_a[rows_a] = True
                covered_b[first + begin + line : first + end + line] = True
                runs.append(run)
    loud = min(int(a.any(axis=1).sum()), int(b.any(axis=1).sum()))
    shared = min(int(covered_a.sum()), int(covered_b.sum()))
    return Pair(track, other, tuple(runs), min(shared / max(loud, 1), 1.0))


def lines_of(reference: Reference, track: int, other: int) -> list[int]:
    """Returns the lines of two tracks that most of their rows agree on, nearest rows by rows."""
    own = reference.rows_of(track)
    rows = reference.rows_of(other)
    least = _LEAST_DENSE_COSINE if reference.query_phases > 1 else _LEAST_COSINE
    probe, row = np.nonzero(own @ rows.T >= least)
    first = reference.first_rows[track]
    other_first = reference.first_rows[other]
    agreed = _agreed(reference, track, first + probe, other_first + row)
    return agreed[0][1] if agreed else []


def _along(
    a: Float32[np.ndarray, "n E"], b: Float32[np.ndarray, "m E"], line: int, first: int
) -> Float32[np.ndarray, " R"]:
    """Returns the cosines along a line that may lie between two rows: of each row with the one at
    its place, or with what lies halfway to the next, which is as near as it can be then.
    """
    num = max(min(len(a) - first, len(b) - first - line), 0)
    own = a[first : first + num]
    rows = b[first + line : first + line + num]
    following = b[first + line + 1 : first + line + 1 + num]
    at = (own * rows).sum(axis=1)
    between = rows[: len(following)] + following
    norms = np.maximum(np.linalg.norm(between, axis=1), 1e-6)
    halfway = np.zeros_like(at)
    halfway[: len(following)] = (own[: len(following)] * between).sum(axis=1) / norms
    return np.maximum(at, halfway)


def _runs(cosines: Float32[np.ndarray, " R"], reference: Reference) -> list[tuple[int, int]]:
    """Returns begin and end of each run of rows that speak for the same recording, best first."""
    is_dense = reference.query_phases > 1
    usual = reference.usual_cosine
    same = _DENSE_SAME if is_dense else _SAME
    least = _LEAST_DENSE_EXCESS if is_dense else _LEAST_EXCESS
    excess = (cosines.astype(np.float64) - usual) / (1 - usual) - same
    runs = []
    while True:
        total = np.concatenate([[0.0], np.cumsum(excess)])
        gained = total - np.minimum.accumulate(total)
        end = int(np.argmax(gained))
        if gained[end] < least:
            return runs
        begin = int(np.argmin(total[: end + 1]))
        runs.append((begin, end))
        excess[begin:end] = -least  # no later run reaches over it


def _timed(
    reference: Reference,
    track: int,
    other: int,
    line: int,
    first: int,
    cosines: Float32[np.ndarray, " R"],
    begin: int,
    end: int,
) -> Run:
    """Returns a run of rows in seconds. An edge lies where a window is half as similar as those
    inside are, or at the end of a track.
    """
    half = float(np.median(cosines[begin:end]) + reference.usual_cosine) / 2
    is_first = begin == 0
    is_last = end == len(cosines)
    early = begin if is_first else _crossing(cosines, half, begin, end, step=1)
    late = end - 1 if is_last else _crossing(cosines, half, end - 1, begin, step=-1)
    hop_s = reference.hop_s
    middle_s = float(reference.first_middles_s[track])
    begin_s = (first + early) * hop_s + (0.0 if is_first else middle_s)
    end_s = (first + late) * hop_s + (2 if is_last else 1) * middle_s
    moved_s = line * hop_s + float(reference.first_middles_s[other]) - middle_s
    cosine = float(cosines[begin:end].mean())
    return Run(begin_s, max(begin_s + moved_s, 0.0), max(end_s - begin_s, 0.0), cosine)


def _crossing(cosines: np.ndarray, half: float, start: int, stop: int, *, step: int) -> float:
    """Returns where the cosines, from outside on, first exceed `half`, between two rows."""
    place = start
    while place != stop and cosines[place] < half:
        place += step
    before = place - step
    if not 0 <= before < len(cosines) or cosines[before] >= half:
        return float(place)
    rise = cosines[place] - cosines[before]
    return place - step * float((cosines[place] - half) / max(rise, 1e-6))


class _Groups:
    """Disjoint sets of tracks."""

    def __init__(self, num: int, known: Sequence[Sequence[int]]):
        self._parents = list(range(num))
        self._sizes = [1] * num
        self._pairs: dict[tuple[int, int], tuple[int, int]] = {}  # of groups: the first of tracks
        for members in known:
            for other in members[1:]:
                self.unite(self.of(members[0]), self.of(other))

    def of(self, track: int) -> int:
        """Returns the first track of a track's group."""
        while self._parents[track] != track:
            self._parents[track] = self._parents[self._parents[track]]
            track = self._parents[track]
        return track

    def join(self, track: int, other: int) -> None:
        """Joins the groups of two tracks that share most of one; large ones at the second time."""
        if self.of(track) > self.of(other):
            track, other = other, track
        one = self.of(track)
        two = self.of(other)
        first = self._pairs.setdefault((one, two), (track, other))
        is_second = track != first[0] and other != first[1]
        if min(self._sizes[one], self._sizes[two]) < _GROWN or is_second:
            self.unite(one, two)

    def unite(self, one: int, two: int) -> None:
        """Joins two groups, named by any of their tracks."""
        first, second = sorted((self.of(one), self.of(two)))
        if first != second:
            self._parents[second] = first
            self._sizes[first] += self._sizes[second]

    def listed(self) -> list[list[int]]:
        """Returns the groups of two and more, largest first."""
        members: dict[int, list[int]] = {}
        for track in range(len(self._parents)):
            members.setdefault(self.of(track), []).append(track)
        return sorted((m for m in members.values() if len(m) > 1), key=lambda m: (-len(m), m[0]))


def _joined_sections(pairs: Sequence[tuple[Section, Section]]) -> list[list[Section]]:
    """Groups of sections: those of one track that overlap are one, with their median edges."""
    sections = [section for pair in pairs for section in pair]
    groups = _Groups(len(sections), ())
    order = sorted(range(len(sections)), key=lambda i: (sections[i].track, sections[i].begin_s))
    for number, place in enumerate(order):
        for later in order[number + 1 :]:
            if not _overlap(sections[place], sections[later]):
                break
            groups.unite(groups.of(place), groups.of(later))
    for place in range(0, len(sections), 2):
        groups.unite(groups.of(place), groups.of(place + 1))
    found = []
    for members in groups.listed():
        each: dict[int, list[Section]] = {}
        for place in members:
            each.setdefault(sections[place].track, []).append(sections[place])
        group = [one for track in sorted(each) for one in _places(each[track])]
        if len(group) > 1:
            found.append(group)
    return sorted(found, key=lambda group: (-len(group), group[0].track, group[0].begin_s))


def _places(sections: Sequence[Section]) -> list[Section]:
    """Returns the distinct places of sections in one track."""
    found: list[list[Section]] = []
    for section in sorted(sections, key=lambda one: one.begin_s):
        if found and _overlap(found[-1][0], section):
            found[-1].append(section)
        else:
            found.append([section])
    return [
        Section(
            same[0].track,
            float(np.median([one.begin_s for one in same])),
            float(np.median([one.end_s for one in same])),
        )
        for same in found
    ]


def _overlap(one: Section, other: Section) -> bool:
    """Returns whether two sections of one track share more than half of the longer one."""
    shared_s = min(one.end_s, other.end_s) - max(one.begin_s, other.begin_s)
    longer_s = max(one.end_s - one.begin_s, other.end_s - other.begin_s)
    return one.track == other.track and shared_s > _OVERLAP * longer_s
