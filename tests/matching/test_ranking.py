"""Matching along lines against plain loops, planted sequences and a synthetic embedding whose place
and tempo are known.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planted_rows import HOP_S, SEGMENT_S, query_of, ranked, reference_of
from unit_vectors import normalised, unit_rows

from confp_jax.fingerprint.query import Query
from confp_jax.matching.ranking import rank
from confp_jax.matching.searchable import Reference, some_tracks
from confp_jax.matching.seeds import COHORT_SIZE


class SmoothEmbedding:
    """A curve on the sphere whose cosine falls off smoothly with the distance in time, to about 0.7
    over one hop.
    """

    def __init__(self, seed: int, dim: int = 128):
        rng = np.random.default_rng(seed)
        self.rates = rng.normal(scale=2.8, size=dim)
        self.phases = rng.uniform(0, 2 * np.pi, dim)

    def at(self, times_s: np.ndarray) -> np.ndarray:
        rows = np.cos(np.asarray(times_s)[:, None] * self.rates + self.phases)
        return normalised(rows)


class TestCosines:
    def test_equal_plain_loops(self):
        """Along every reported line: the cosine with the interpolated fingerprint, 0 beyond the
        track's ends.
        """
        rng = np.random.default_rng(0)
        parts = [unit_rows(rng, n, 6) for n in (40, 9, 25, 1)]
        query = unit_rows(rng, 12, 6)
        ranking = ranked(query, parts)
        assert len(ranking.tracks) == 4
        for track, offset_s, tempo, cosines, score in zip(
            ranking.tracks,
            ranking.offsets_s,
            ranking.tempos,
            ranking.cosines,
            ranking.scores,
            strict=True,
        ):
            rows = parts[track]
            expected = []
            for i, vector in enumerate(query):
                centre_s = offset_s + tempo * (i * HOP_S + SEGMENT_S / 2)
                place = (centre_s - SEGMENT_S / 2) / HOP_S
                if not -0.5 - 1e-9 <= place <= len(rows) - 0.5 + 1e-9:
                    expected.append(0.0)
                    continue
                beyond = max(-place, place - (len(rows) - 1), 0.0)
                place = min(max(place, 0), len(rows) - 1)
                low = min(int(place), max(len(rows) - 2, 0))
                high = min(low + 1, len(rows) - 1)
                between = (1 - (place - low)) * rows[low] + (place - low) * rows[high]
                expected.append(
                    float(vector @ between / np.linalg.norm(between)) * (1 - 0.05 * beyond)
                )
            np.testing.assert_allclose(cosines, expected, atol=1e-4)
            assert score == pytest.approx(np.mean(expected), abs=1e-5)

    def test_the_best_line_is_what_an_exhaustive_search_finds(self):
        """Every row as a start, tempo 1: none scores higher than the line that was found."""
        rng = np.random.default_rng(1)
        parts = [unit_rows(rng, 60) for _ in range(12)]
        for seed in range(10):
            noise = np.random.default_rng(seed)
            track = int(noise.integers(12))
            start = int(noise.integers(50))
            query = parts[track][start : start + 10] + 1.0 * unit_rows(noise, 10)
            query = normalised(query)
            best = max(
                (sum(float(query[i] @ part[row + i]) for i in range(10)) / 10, t, row)
                for t, part in enumerate(parts)
                for row in range(51)
            )
            ranking = ranked(query, parts)
            assert (ranking.tracks[0], round(ranking.offsets_s[0] / HOP_S)) == best[1:]
            assert ranking.scores[0] >= best[0] - 1e-5


class TestPlanted:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 20))
    @example(128061758, 1)  # the last row of a track
    def test_the_start_of_an_excerpt_is_found(self, seed, num_windows):
        rng = np.random.default_rng(seed)
        parts = [unit_rows(rng, int(n)) for n in rng.integers(20, 40, 15)]
        track = int(rng.integers(15))
        start = int(rng.integers(len(parts[track]) - num_windows + 1))
        ranking = ranked(parts[track][start : start + num_windows], parts)
        assert ranking.tracks[0] == track
        # A place 20 ms off costs 0.002 between two rows, and 0.05 * 20 ms / HOP_S beyond a track's
        # end.
        assert ranking.scores[0] == pytest.approx(1.0, abs=3.5e-3)
        assert ranking.offsets_s[0] == pytest.approx(start * HOP_S, abs=0.02)
        assert ranking.tempos[0] == pytest.approx(1.0, abs=0.01)

    def test_each_track_once_best_first(self):
        rng = np.random.default_rng(4)
        parts = [unit_rows(rng, 30) for _ in range(12)]
        parts[7][20:25] = parts[7][3:8]  # a chorus: two places in one track
        ranking = ranked(parts[7][3:8], parts)
        assert len(set(ranking.tracks)) == len(ranking.tracks) == 12
        assert sorted(ranking.scores, reverse=True) == list(ranking.scores)
        assert ranking.tracks[0] == 7

    def test_of_two_alike_places_the_better_one(self):
        """A repetition that gathers more votes in sum must not hide the place that fits best."""
        rng = np.random.default_rng(12)
        parts = [unit_rows(rng, 40) for _ in range(12)]
        query = parts[3][10:11]
        parts[3][29] = parts[3][30] = parts[3][31] = 0.9 * query[0] + 0.436 * unit_rows(rng, 1)[0]
        assert ranked(query, parts).offsets_s[0] == pytest.approx(10 * HOP_S, abs=0.02)

    def test_a_query_longer_than_the_track(self):
        """The track's rows count; what lies beyond its end counts 0."""
        rng = np.random.default_rng(5)
        parts = [unit_rows(rng, n) for n in (6, 40, 40)]
        ranking = ranked(np.concatenate([parts[0], unit_rows(rng, 4)]), parts)
        assert (ranking.tracks[0], ranking.offsets_s[0]) == (0, pytest.approx(0.0, abs=0.05))
        assert ranking.scores[0] == pytest.approx(0.6, abs=0.02)
        assert not ranking.cosines[0][7:].any()

    @pytest.mark.parametrize("before", [1, 3, 8])
    def test_a_query_that_begins_before_the_track(self, before):
        rng = np.random.default_rng(6)
        parts = [unit_rows(rng, 40) for _ in range(15)]
        ranking = ranked(np.concatenate([unit_rows(rng, before), parts[3][:12]]), parts)
        assert ranking.tracks[0] == 3
        assert ranking.offsets_s[0] == pytest.approx(-before * HOP_S, abs=0.1)

    def test_silent_windows_in_the_query_count_nothing(self):
        rng = np.random.default_rng(8)
        parts = [unit_rows(rng, 40) for _ in range(10)]
        query = parts[6][10:20].copy()
        query[[0, 4, 5]] = 0
        ranking = ranked(query, parts)
        assert ranking.tracks[0] == 6
        assert ranking.scores[0] == pytest.approx(1.0, abs=1e-3)
        assert ranking.offsets_s[0] == pytest.approx(10 * HOP_S, abs=0.05)

    def test_silent_rows_in_the_track_match_nothing(self):
        rng = np.random.default_rng(9)
        parts = [unit_rows(rng, 40) for _ in range(10)]
        parts[2][:] = 0
        ranking = ranked(parts[6][10:20], parts)
        assert ranking.tracks[0] == 6
        assert all(
            score <= 1e-6
            for track, score in zip(ranking.tracks, ranking.scores, strict=True)
            if track == 2
        )

    def test_one_row_one_window(self):
        row = unit_rows(np.random.default_rng(0), 1)
        ranking = ranked(row, [row])
        assert (ranking.tracks.tolist(), ranking.scores[0]) == ([0], pytest.approx(1.0))
        assert abs(ranking.offsets_s[0]) <= 0.01

    @pytest.mark.parametrize("query", [np.zeros((4, 64)), np.zeros((0, 64))])
    def test_a_silent_query_matches_nothing(self, query):
        assert len(ranked(query, [unit_rows(np.random.default_rng(0), 9)]).tracks) == 0

    def test_an_empty_database_matches_nothing(self):
        from confp_jax.database import Snapshot
        from confp_jax.index import build_index

        empty = Snapshot([], np.zeros((0, 0), np.float32), np.zeros(0, np.int32))
        reference = Reference(empty, build_index(empty.vectors), HOP_S, SEGMENT_S)
        assert len(rank(query_of(unit_rows(np.random.default_rng(0), 3)), reference).tracks) == 0


class TestPlaceAndTempo:
    @pytest.mark.parametrize("shift_s", [-0.14, -0.05, 0.0, 0.1])
    @pytest.mark.parametrize("num_windows", [1, 10])
    def test_between_two_rows(self, shift_s, num_windows):
        tracks = [SmoothEmbedding(seed) for seed in range(6)]
        parts = [track.at(np.arange(100) * HOP_S) for track in tracks]
        begin_s = 12.0 + shift_s
        ranking = ranked(tracks[3].at(begin_s + np.arange(num_windows) * HOP_S), parts)
        assert 0.5 < float(parts[3][40] @ parts[3][41]) < 0.9  # the curve is as smooth as said
        assert ranking.tracks[0] == 3
        assert ranking.offsets_s[0] == pytest.approx(begin_s, abs=0.03)

    @pytest.mark.parametrize("tempo", [0.5, 0.6, 0.7, 0.81, 0.95, 1.0, 1.06, 1.22, 1.4, 1.7, 2.0])
    def test_a_stretched_sequence(self, tempo):
        """A window centre at x in the query is at `begin + tempo * x` in the track: where it begins
        and how fast it runs.
        """
        tracks = [SmoothEmbedding(seed) for seed in range(6)]
        parts = [
            track.at(np.arange(150) * HOP_S + SEGMENT_S / 2) for track in tracks
        ]  # by the middles of windows
        centres_s = np.arange(24) * HOP_S + SEGMENT_S / 2
        ranking = ranked(tracks[4].at(13.37 + tempo * centres_s), parts)
        assert ranking.tracks[0] == 4
        assert ranking.tempos[0] == pytest.approx(
            tempo, rel=0.03 if abs(np.log(tempo)) > 0.4 else 0.015
        )  # what another tempo must earn pulls a little
        assert ranking.offsets_s[0] == pytest.approx(13.37, abs=0.1)
        assert ranking.scores[0] > 0.93

    def test_another_hop_and_shorter_windows(self):
        """Windows are compared by their middles."""
        track = SmoothEmbedding(0)
        other = SmoothEmbedding(1)
        parts = [part.at(np.arange(80) * HOP_S + SEGMENT_S / 2) for part in (track, other)]
        query = query_of(track.at(9.0 + np.arange(9) * 0.1 + 1.0), hop_s=0.1, segment_s=2.0)
        ranking = rank(query, reference_of(parts))
        assert (ranking.tracks[0], ranking.offsets_s[0]) == (0, pytest.approx(9.0, abs=0.03))

    @pytest.mark.parametrize("start_s", [0.0, 9.1, 24.7])
    def test_a_short_query_is_found_up_to_the_track_s_ends(self, start_s):
        """2 s in the windows that hold them, as `Embedder` makes them: at the track's ends only one
        of the four is there.
        """
        track = SmoothEmbedding(0)
        other = SmoothEmbedding(1)
        parts = [
            part.at(np.arange(80) * HOP_S + SEGMENT_S / 2) for part in (other, track)
        ]  # 26.7 s
        vectors = track.at(start_s + 1.0 + (np.arange(4) - 1.5) * HOP_S)
        ranking = rank(Query(vectors, HOP_S, 2.0, is_partial=True), reference_of(parts))
        assert (ranking.tracks[0], ranking.offsets_s[0]) == (1, pytest.approx(start_s, abs=0.1))
        assert ranking.scores[0] > 0.9
        np.testing.assert_allclose(ranking.cosines[0].mean(), ranking.scores[0], atol=1e-5)

    @pytest.mark.parametrize("start_s", [0.0, 9.1, 23.7])
    def test_windows_that_overhang_a_query_count_where_the_track_has_them(self, start_s):
        """3 s from the beginning, middle and end of a track: at its ends half of what overhangs is
        not there, at no cost.
        """
        track = SmoothEmbedding(0)
        other = SmoothEmbedding(1)
        parts = [
            part.at(np.arange(80) * HOP_S + SEGMENT_S / 2) for part in (other, track)
        ]  # 26.7 s
        centres_s = start_s + SEGMENT_S / 2 + np.arange(-3, 4) * HOP_S
        centres_s[3] += 0.1  # the one that is whole is a little off; the others tell the place
        vectors = track.at(centres_s)
        query = Query(
            vectors[3:4], HOP_S, SEGMENT_S, edge_windows=np.stack([vectors[:3], vectors[4:]])
        )
        ranking = rank(query, reference_of(parts))
        assert (ranking.tracks[0], ranking.offsets_s[0]) == (1, pytest.approx(start_s, abs=0.05))
        assert ranking.scores[0] > 0.95
        assert ranking.cosines.shape == (2, 1)
        assert ranking.cosines[0, 0] < ranking.scores[0]

    def test_silent_windows_do_not_lower_what_overhangs_a_track_s_beginning(self):
        rng = np.random.default_rng(10)
        parts = [unit_rows(rng, 40) for _ in range(10)]
        vectors = parts[4][:4].copy()
        vectors[1:3] = 0
        beyond = np.stack([unit_rows(rng, 3), parts[4][4:7]])
        ranking = rank(Query(vectors, HOP_S, SEGMENT_S, edge_windows=beyond), reference_of(parts))
        assert (ranking.tracks[0], ranking.offsets_s[0]) == (4, pytest.approx(0.0, abs=0.05))
        assert ranking.scores[0] == pytest.approx(1.0, abs=0.01)


class TestRivals:
    def test_a_track_passed_over_is_as_if_it_were_not_there(self):
        rng = np.random.default_rng(2)
        parts = [unit_rows(rng, 50) for _ in range(20)]
        query = query_of(parts[4][11:20] + 0.5 * unit_rows(rng, 9))
        reference = reference_of(parts)
        masked = rank(query, reference, without=4)
        removed = rank(query, some_tracks(reference, [t for t in range(20) if t != 4]))
        assert 4 not in masked.tracks
        np.testing.assert_allclose(masked.scores[:5], removed.scores[:5], atol=0.02)
        np.testing.assert_allclose(
            rank(query, reference).without(4).scores[:5], removed.scores[:5], atol=0.02
        )

    def test_there_is_a_cohort_where_the_best_track_fills_the_hits(self):
        """Ten minutes of one drone must not leave the decision without a field."""
        rng = np.random.default_rng(3)
        drone = unit_rows(rng, 1)
        ranking = ranked(
            drone, [np.repeat(drone, 2_000, axis=0), *(unit_rows(rng, 5) for _ in range(12))]
        )
        assert len(ranking.tracks) > COHORT_SIZE
        assert ranking.tracks[0] == 0
