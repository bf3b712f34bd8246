"""Sequence matching against plain loops, planted sequences and a synthetic embedding whose offset is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confp_jax.retrieval import match
from confp_jax.retrieval.database import Snapshot, StoredTrack
from confp_jax.retrieval.embed import Decision
from confp_jax.retrieval.index import ExactIndex
from confp_jax.retrieval.match import diagonal_scores, rank

HOP_S = 0.3
OPEN = Decision(margin=0.0, rival_floor=0.0)


def unit_rows(rng: np.random.Generator, num: int, dim: int = 64) -> np.ndarray:
    rows = rng.normal(size=(num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def snapshot_of(parts: list[np.ndarray]) -> Snapshot:
    first = np.cumsum([0, *map(len, parts)])
    tracks = [StoredTrack(f"t{i}", f"/t{i}", str(i), 0.0, int(first[i]), len(part)) for i, part in enumerate(parts)]
    return Snapshot(tracks, np.concatenate(parts), np.repeat(np.arange(len(parts), dtype=np.int32), [len(p) for p in parts]))


def ranked(query: np.ndarray, parts: list[np.ndarray], decision: Decision = OPEN):
    snapshot = snapshot_of(parts)
    return rank(query, snapshot, ExactIndex(snapshot.vectors), hop_s=HOP_S, decision=decision)


class TestDiagonalScores:
    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 2**32 - 1))
    def test_equals_plain_loops(self, lengths, num_windows, seed):
        rng = np.random.default_rng(seed)
        snapshot = snapshot_of([unit_rows(rng, n, 5) for n in lengths])
        query = unit_rows(rng, num_windows, 5) * rng.integers(0, 2, (num_windows, 1))  # some windows silent
        expected = []
        for start in range(len(snapshot.vectors)):
            track = snapshot.tracks[snapshot.row_tracks[start]]
            total = 0.0
            for i in range(num_windows):
                if start + i < track.first_row + track.num_rows:
                    total += sum(float(a) * float(b) for a, b in zip(query[i], snapshot.vectors[start + i], strict=True))
            expected.append(total / max(1, sum(any(window) for window in query)))
        found = diagonal_scores(query.astype(np.float32), np.arange(len(snapshot.vectors)), snapshot)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_a_track_does_not_run_on_into_the_next_one(self):
        rows = unit_rows(np.random.default_rng(0), 8)
        snapshot = snapshot_of([rows[:4], rows[4:]])
        assert diagonal_scores(rows[2:6], np.array([2]), snapshot) == pytest.approx(0.5)
        assert diagonal_scores(rows[2:6], np.array([2]), snapshot_of([rows])) == pytest.approx(1.0)


class TestPlanted:
    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 20))
    def test_the_start_of_an_excerpt_is_found(self, seed, num_windows):
        rng = np.random.default_rng(seed)
        parts = [unit_rows(rng, int(n)) for n in rng.integers(20, 40, 15)]
        track = int(rng.integers(15))
        start = int(rng.integers(len(parts[track]) - num_windows + 1))
        query = parts[track][start : start + num_windows]
        best = ranked(query, parts).matches[0]
        assert best.track == track
        assert best.score == pytest.approx(1.0, abs=1e-5)
        assert best.offset_s == pytest.approx(start * HOP_S, abs=HOP_S / 2)  # between the rows: see TestOffset

    def test_through_noise_the_sequence_counts_more_than_one_window(self):
        """A window that by chance is nearer to another track is outvoted."""
        rng = np.random.default_rng(3)
        parts = [unit_rows(rng, 60) for _ in range(20)]
        query = parts[4][11:26].copy()
        query[5] = parts[9][30]
        noisy = query + 1.2 * unit_rows(rng, 15)
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        ranking = ranked(noisy.astype(np.float32), parts)
        assert ranking.matches[0].track == 4
        assert ranking.matches[0].offset_s == pytest.approx(11 * HOP_S, abs=HOP_S / 2)
        assert ranking.matches[0].score > 1.5 * ranking.matches[1].score

    def test_each_track_once_best_first(self):
        rng = np.random.default_rng(4)
        parts = [unit_rows(rng, 30) for _ in range(12)]
        parts[7][20:25] = parts[7][3:8]  # a chorus: two places in one track
        ranking = ranked(parts[7][3:8], parts)
        tracks = [m.track for m in ranking.matches]
        assert len(set(tracks)) == len(tracks) > 5
        scores = [m.score for m in ranking.matches]
        assert scores == sorted(scores, reverse=True)
        assert tracks[0] == 7

    def test_a_query_longer_than_the_track(self):
        """The track's rows count; what lies beyond its end counts 0."""
        rng = np.random.default_rng(5)
        parts = [unit_rows(rng, n) for n in (6, 40, 40)]
        query = np.concatenate([parts[0], unit_rows(rng, 4)])
        best = ranked(query, parts).matches[0]
        assert (best.track, best.offset_s) == (0, 0.0)
        assert best.score == pytest.approx(0.6, abs=1e-5)

    @pytest.mark.parametrize("before", [1, 3, 8])
    def test_a_query_that_begins_before_the_track(self, before):
        """A recording that was switched on while something else played: the track is still found, at or before its start."""
        rng = np.random.default_rng(6)
        parts = [unit_rows(rng, 40) for _ in range(15)]
        query = np.concatenate([unit_rows(rng, before), parts[3][:12]])
        best = ranked(query, parts).matches[0]
        assert best.track == 3
        assert -before * HOP_S - HOP_S / 2 <= best.offset_s <= HOP_S / 2
        assert best.score == pytest.approx(12 / len(query), abs=0.1)

    def test_a_query_that_runs_past_the_last_track(self):
        rng = np.random.default_rng(7)
        parts = [unit_rows(rng, 20) for _ in range(5)]
        query = np.concatenate([parts[4][15:], unit_rows(rng, 5)])
        best = ranked(query, parts).matches[0]
        assert best.track == 4
        assert best.offset_s == pytest.approx(15 * HOP_S, abs=HOP_S / 2)
        assert best.score == pytest.approx(0.5, abs=1e-5)

    def test_silent_windows_in_the_query_count_nothing(self):
        rng = np.random.default_rng(8)
        parts = [unit_rows(rng, 40) for _ in range(10)]
        query = parts[6][10:20].copy()
        query[[0, 4, 5]] = 0
        best = ranked(query, parts).matches[0]
        assert best.track == 6
        assert best.score == pytest.approx(1.0, abs=1e-5)
        assert best.offset_s == pytest.approx(10 * HOP_S, abs=HOP_S / 2)

    def test_silent_rows_in_the_track_match_nothing(self):
        rng = np.random.default_rng(9)
        parts = [unit_rows(rng, 40) for _ in range(10)]
        parts[2][:] = 0
        assert ranked(parts[6][10:20], parts).matches[0].track == 6
        assert all(m.score <= 1e-6 for m in ranked(parts[6][10:20], parts).matches if m.track == 2)

    def test_many_diagonals_are_narrowed_to_the_promising(self, monkeypatch):
        monkeypatch.setattr(match, "_MAX_DIAGONALS", 8)
        rng = np.random.default_rng(10)
        parts = [unit_rows(rng, 50) for _ in range(30)]
        query = parts[21][17:37] + 0.8 * unit_rows(rng, 20)
        query = (query / np.linalg.norm(query, axis=1, keepdims=True)).astype(np.float32)
        ranking = ranked(query, parts)
        assert len(ranking.matches) <= 8
        assert ranking.matches[0].track == 21
        assert ranking.matches[0].offset_s == pytest.approx(17 * HOP_S, abs=HOP_S / 2)

    def test_one_row_one_window(self):
        row = unit_rows(np.random.default_rng(0), 1)
        assert ranked(row, [row]).matches == [match.Match(0, 0.0, pytest.approx(1.0))]

    @pytest.mark.parametrize("query", [np.zeros((4, 64), np.float32), np.zeros((0, 64), np.float32)])
    def test_a_silent_query_matches_nothing(self, query):
        ranking = ranked(query, [unit_rows(np.random.default_rng(0), 9)])
        assert (ranking.matches, ranking.margin) == ([], 0.0)

    def test_an_empty_database_matches_nothing(self):
        empty = Snapshot([], np.zeros((0, 0), np.float32), np.zeros(0, np.int32))
        query = unit_rows(np.random.default_rng(0), 3)
        assert rank(query, empty, ExactIndex(empty.vectors), hop_s=HOP_S, decision=OPEN).matches == []


class SmoothEmbedding:
    """A curve on the sphere whose cosine falls off smoothly with the distance in time, to about 0.7 over one hop."""

    def __init__(self, seed: int, dim: int = 128):
        rng = np.random.default_rng(seed)
        self.rates, self.phases = rng.normal(scale=2.8, size=dim), rng.uniform(0, 2 * np.pi, dim)

    def at(self, times_s: np.ndarray) -> np.ndarray:
        rows = np.cos(np.asarray(times_s)[:, None] * self.rates + self.phases)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class TestOffset:
    @pytest.mark.parametrize("shift_s", [-0.14, -0.1, -0.05, 0.0, 0.05, 0.1, 0.14])
    @pytest.mark.parametrize("num_windows", [1, 10])
    def test_the_parabola_finds_the_place_between_two_rows(self, shift_s, num_windows):
        tracks = [SmoothEmbedding(seed) for seed in range(6)]
        parts = [track.at(np.arange(100) * HOP_S) for track in tracks]
        begin_s = 12.0 + shift_s
        query = tracks[3].at(begin_s + np.arange(num_windows) * HOP_S)
        neighbour = float(parts[3][40] @ parts[3][41])
        assert 0.5 < neighbour < 0.9  # the curve is as smooth as said
        best = ranked(query, parts).matches[0]
        assert best.track == 3
        assert best.offset_s == pytest.approx(begin_s, abs=0.035)  # a row is up to 0.15 away; the curve is no exact parabola

    def test_the_ends_of_a_track_have_no_neighbour(self):
        track = SmoothEmbedding(0)
        rows = track.at(np.arange(20) * HOP_S)
        other = SmoothEmbedding(1).at(np.arange(20) * HOP_S)
        assert ranked(track.at(np.array([0.05])), [rows, other]).matches[0].offset_s == 0.0
        assert ranked(track.at(np.array([19 * HOP_S + 0.05])), [other, rows]).matches[0].offset_s == pytest.approx(19 * HOP_S)


class TestMargin:
    """One window, tracks of one row, so every cosine is known."""

    def tracks_at(self, cosines: list[float]) -> tuple[np.ndarray, list[np.ndarray]]:
        """A query along the first axis, and a track at each cosine to it."""
        dim = len(cosines) + 1
        rows = np.zeros((len(cosines), dim), np.float32)
        for i, c in enumerate(cosines):
            rows[i, 0], rows[i, i + 1] = c, np.sqrt(1 - c * c)
        query = np.zeros((1, dim), np.float32)
        query[0, 0] = 1
        return query, [row[None] for row in rows]

    @pytest.mark.parametrize("floor", [0.0, 0.35, 0.6])
    def test_the_best_less_the_mean_of_the_next_ten(self, floor):
        cosines = [0.3, 0.9, 0.5, 0.45, 0.4, 0.35, 0.41, 0.3, 0.2, 0.6, 0.1, 0.05, 0.0, 0.02]
        ranking = ranked(*self.tracks_at(cosines), Decision(rival_floor=floor))
        field = (0.6 + 0.5 + 0.45 + 0.41 + 0.4 + 0.35 + 0.3 + 0.3 + 0.2 + 0.1) / 10
        assert ranking.margin == pytest.approx(0.9 - max(field, floor), abs=1e-6)
        assert [m.track for m in ranking.matches][:4] == [1, 9, 2, 3]

    def test_few_rivals(self):
        assert ranked(*self.tracks_at([0.8, 0.4, 0.5]), OPEN).margin == pytest.approx(0.8 - 0.45, abs=1e-6)

    def test_without_rivals_the_floor_is_the_field(self):
        assert ranked(*self.tracks_at([0.8]), Decision(rival_floor=0.35)).margin == pytest.approx(0.45, abs=1e-6)
        assert ranked(*self.tracks_at([0.8]), OPEN).margin == pytest.approx(0.8, abs=1e-6)

    def test_a_track_is_no_rival_of_itself(self):
        """Many similar rows of the best track do not push its margin down."""
        query, (best, other) = self.tracks_at([0.8, 0.1])
        assert ranked(query, [np.repeat(best, 50, axis=0), other], OPEN).margin == pytest.approx(0.7, abs=1e-6)

    def test_there_are_enough_rivals_where_the_best_track_fills_the_hits(self):
        """200 rows of one track (a minute of one drone) must not leave the decision without a field."""
        query, parts = self.tracks_at([0.9, *[0.6] * 12])
        long_track = np.repeat(parts[0], 300, axis=0)
        ranking = ranked(query, [long_track, *parts[1:]], OPEN)
        assert ranking.margin == pytest.approx(0.3, abs=1e-6)
