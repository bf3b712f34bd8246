"""Queries that are heard in two ways: as they are and faster, or with fingerprints between those
of a hop.
"""

import dataclasses

import numpy as np
import pytest
from planted_rows import HOP_S, SEGMENT_S, reference_of
from unit_vectors import normalised, unit_rows

from confp_jax.fingerprint.query import Later, Query
from confp_jax.matching.query_windows import query_windows
from confp_jax.matching.ranking import rank, rank_with_and_without
from confp_jax.matching.searchable import make_reference


class TestHeardFaster:
    """A query of one window, which tells no tempo, and what it sounds like played 1.18 times as
    fast.
    """

    def rows(self, num: int = 40) -> list[np.ndarray]:
        rng = np.random.default_rng(11)
        return [unit_rows(rng, num) for _ in range(15)]

    def query(self, plain: np.ndarray, faster: np.ndarray) -> Query:
        heard = Query(faster, HOP_S, SEGMENT_S / 1.18, is_partial=True)
        return Query(plain, HOP_S, SEGMENT_S, sped_up=heard)

    def test_what_stands_out_more_is_the_answer_in_the_query_s_own_time(self):
        parts = self.rows()
        rng = np.random.default_rng(12)
        ranking = rank(self.query(unit_rows(rng, 1), parts[6][10:12]), reference_of(parts))
        assert ranking.tracks[0] == 6
        assert ranking.tempos[0] == pytest.approx(1 / 1.18)
        middle_s = (
            10.5 * HOP_S + SEGMENT_S / 2
        )  # of rows 10 and 11: there the query has its middle, however fast it is heard
        assert ranking.offsets_s[0] == pytest.approx(middle_s - SEGMENT_S / 2 / 1.18, abs=0.02)
        assert ranking.cosines.shape == (len(ranking.tracks), 1)
        assert ranking.cosines[0, 0] == ranking.scores[0] == pytest.approx(1.0, abs=0.01)

    def test_it_has_to_stand_out_by_more(self):
        """The same two windows heard both ways are equally good; with some noise on the plain ones
        the faster are better.
        """
        parts = self.rows()
        rng = np.random.default_rng(13)
        rows = parts[3][20:22]
        noise = unit_rows(rng, 2)
        for level, tempo in ((0.0, 1.0), (0.5, 1 / 1.18)):
            noisy = rows + level * noise
            query = self.query(normalised(noisy), rows)
            ranking = rank(query, reference_of(parts))
            assert (ranking.tracks[0], ranking.tempos[0]) == (3, pytest.approx(tempo))

    def test_the_track_passed_over_is_so_in_both(self):
        parts = self.rows()
        query = self.query(parts[3][20:21], parts[6][10:12])
        reference = reference_of(parts)
        for ranking in (
            rank(query, reference, without=3),
            rank_with_and_without(query, reference, 3)[1],
        ):
            assert ranking.tracks[0] == 6 and 3 not in ranking.tracks
            assert ranking.tempos[0] == pytest.approx(1 / 1.18)
        np.testing.assert_equal(
            rank_with_and_without(query, reference, 3)[0].scores, rank(query, reference).scores
        )

    def test_an_empty_reference_and_silence_have_no_answer(self):
        silent = np.zeros((1, 64), np.float32)
        assert not len(rank(self.query(silent, silent), reference_of(self.rows())).tracks)


class TestDense:
    """Queries whose fingerprints lie four to a hop: what is at a row counts."""

    PHASES = 4

    def later(self, rows: np.ndarray) -> Later:
        """What the conformer alone hears."""
        heard = Query(rows[0], HOP_S, 0.9, between=rows[2:3])
        return Later.of(lambda: heard, len(rows[0]))

    def dense(self, rng, rows: np.ndarray, start: float, num: int) -> Query:
        """A query that begins at row number `start`: what is a quarter of a hop off a row has a
        cosine of 0.6 with it.
        """
        phases = np.empty((self.PHASES, num, rows.shape[1]), np.float32)
        for phase, window in np.ndindex(self.PHASES, num):
            place = start + window + phase / self.PHASES
            cosine = (1.0, 0.6, 0.3)[round(self.PHASES * abs(place - round(place)))]
            phases[phase, window] = (
                cosine * rows[round(place)] + np.sqrt(1 - cosine**2) * unit_rows(rng, 1)[0]
            )
        phases = normalised(phases)
        return Query(phases[0], HOP_S, 0.9, between=phases[1:])

    @pytest.mark.parametrize("quarters", range(4))
    def test_what_lies_at_a_row_decides(self, quarters):
        rng = np.random.default_rng(quarters)
        parts = [unit_rows(rng, 60) for _ in range(8)]
        query = self.dense(rng, parts[5], 20 + quarters / 4, 12)
        reference = make_reference(
            [(str(i), part) for i, part in enumerate(parts)],
            hop_s=HOP_S,
            segment_s=0.9,
            query_phases=self.PHASES,
        )
        ranking = rank(query, reference)
        assert ranking.tracks[0] == 5 and ranking.scores[0] > 0.85, (
            "not the mean of all, which is 0.6"
        )
        assert ranking.offsets_s[0] == pytest.approx((20 + quarters / 4) * HOP_S, abs=0.04)
        assert ranking.tempos[0] == pytest.approx(1.0, abs=0.02)
        assert ranking.cosines.shape == (len(ranking.tracks), len(query.vectors))
        assert ranking.cosines[0].mean() == pytest.approx(ranking.scores[0], abs=0.1)

    @pytest.mark.parametrize("num_tracks", [2, 12])
    def test_what_the_conformer_alone_knows_is_found(self, num_tracks):
        """Rows whose second half is right and whose first is noise, as of music played higher."""
        rng = np.random.default_rng(0)
        parts = [unit_rows(rng, 40) for _ in range(num_tracks)]
        reference = make_reference(
            [(str(i), part) for i, part in enumerate(parts)],
            hop_s=HOP_S,
            segment_s=0.9,
            query_phases=self.PHASES,
        )
        half = parts[1].shape[1] // 2
        alone = np.repeat(parts[1][10:20][None], self.PHASES, axis=0)
        alone[:, :, :half] = 0.0
        alone /= np.linalg.norm(alone, axis=2, keepdims=True) ** 2
        noise = np.stack([unit_rows(rng, 10) for _ in range(self.PHASES)])
        query = Query(
            noise[0],
            HOP_S,
            0.9,
            between=noise[1:],
            by_conformer=self.later(alone.astype(np.float32)),
        )
        assert rank(query, reference).tracks[0] == 1
        deaf = dataclasses.replace(query, by_conformer=None)
        assert rank(deaf, reference).scores[0] < 0.5

    def test_what_is_sure_is_not_heard_in_another_way(self):
        """The conformer would say another track; where the projection is sure nobody asks it."""
        rng = np.random.default_rng(0)
        parts = [unit_rows(rng, 40) for _ in range(12)]
        named = [(str(i), part) for i, part in enumerate(parts)]
        options = {"hop_s": HOP_S, "segment_s": 0.9, "query_phases": self.PHASES}
        reference = make_reference(named, **options)
        own, other = (np.repeat(part[10:20][None], self.PHASES, axis=0) for part in parts[:2])
        query = Query(own[0], HOP_S, 0.9, between=own[1:], by_conformer=self.later(3 * other))
        assert rank(query, reference).tracks[0] == 0
        asked = Later.of(lambda: pytest.fail("the conformer was asked"), 10)
        assert rank(dataclasses.replace(query, by_conformer=asked), reference).tracks[0] == 0
        unsure = dataclasses.replace(query, vectors=0.1 * own[0], between=0.1 * own[1:])
        assert rank(unsure, reference).tracks[0] == 1

    def test_the_projection_hears_one_tempo_and_the_conformer_any(self):
        rng = np.random.default_rng(0)
        own = np.stack([unit_rows(rng, 10) for _ in range(self.PHASES)])
        both = Query(own[0], HOP_S, 0.9, between=own[1:], by_conformer=self.later(own))
        assert query_windows(both).log_tempos == (-0.02, 0.02)
        assert query_windows(both.part(0, 2)).log_tempos == (0, 0), "too short to tell it"
        for alone in (both.by_conformer(), dataclasses.replace(both, by_conformer=None)):
            least, greatest = np.exp(query_windows(alone).log_tempos)
            assert least < 0.7 and greatest > 1.4

    def test_sound_in_the_last_window_alone(self):
        """It lies between the windows that are searched, and none begins after it."""
        rng = np.random.default_rng(0)
        parts = [unit_rows(rng, 40) for _ in range(12)]
        options = {"hop_s": HOP_S, "segment_s": 0.9, "query_phases": 5}
        reference = make_reference([(str(i), part) for i, part in enumerate(parts)], **options)
        rows = np.zeros((5, 2, parts[0].shape[1]), np.float32)
        rows[0, 1] = parts[4][20]
        query = Query(rows[0], HOP_S, 0.9, between=rows[1:])
        assert query_windows(query).searched.tolist() == [5]
        assert rank(query, reference).tracks[0] == 4

    def test_what_is_alike_beside_the_line_tells_less(self):
        """A track that repeats one row resembles itself everywhere; noise resembles it nowhere."""
        rng = np.random.default_rng(0)
        parts = [unit_rows(rng, 40) for _ in range(30)]
        parts[1][:] = parts[1][0]
        named = [(str(i), part) for i, part in enumerate(parts)]
        options = {"hop_s": HOP_S, "segment_s": 0.9, "query_phases": self.PHASES}
        reference = make_reference(named, **options)
        for track in (0, 1):
            own = np.repeat(parts[track][10:20][None], self.PHASES, axis=0)
            query = Query(own[0], HOP_S, 0.9, between=own[1:], by_conformer=self.later(own))
            found = rank(query, reference)
            assert found.tracks[0] == track
            assert found.beside[0] == pytest.approx(0.9 if track else 0.02, abs=0.1)
            plain = dataclasses.replace(found, beside=found.beside[:0])
            share = found.prominence()[0] / plain.prominence()[0]
            assert share < 0.8 if track else share > 0.9

    def test_two_hearings_that_agree_are_surer(self):
        rng = np.random.default_rng(0)
        parts = [unit_rows(rng, 40) for _ in range(12)]
        named = [(str(i), part) for i, part in enumerate(parts)]
        options = {"hop_s": HOP_S, "segment_s": 0.9, "query_phases": self.PHASES}
        reference = make_reference(named, **options)
        own, other, late = (
            0.15 * np.repeat(part[None], self.PHASES, axis=0)
            for part in (parts[0][10:20], parts[1][10:20], parts[0][25:35])
        )
        heard = Query(own[0], HOP_S, 0.9, between=own[1:], by_conformer=self.later(own))
        found = rank(heard, reference)
        assert found.tracks[0] == 0 and found.agreed > 1
        alone = dataclasses.replace(found, agreed=0.0).standout(2)
        more = np.array([0.3 * found.agreed, 0.0])
        np.testing.assert_allclose(found.standout(2), alone + more)
        assert found.without(0).agreed == 0.0 and found.only(0).agreed == found.agreed
        for unlike in (other, late):
            assert (
                rank(dataclasses.replace(heard, by_conformer=self.later(unlike)), reference).agreed
                == 0.0
            )
