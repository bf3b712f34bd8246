"""A recording that is there many times, plays in a row, and what two recordings have in common."""

import dataclasses

import numpy as np
import pytest
from planted_rows import HOP_S, SEGMENT_S, reference_of
from unit_vectors import normalised, unit_rows

from confp_jax.fingerprint.query import Query
from confp_jax.matching.blocks import scan
from confp_jax.matching.common_sections import common_sections
from confp_jax.matching.copies import same_as_first
from confp_jax.matching.decision import uncalibrated
from confp_jax.matching.ranking import rank
from confp_jax.matching.seeds import COHORT_SIZE
from confp_jax.matching.shared_sections import shared_sections
from confp_jax.matching.spans import Span, accepted, covers
from confp_jax.model.forked import ForkedError


def noisy(rows: np.ndarray, seed: int, level: float) -> np.ndarray:
    return normalised(rows + level * unit_rows(seed, len(rows)))


def query_of(*vectors: np.ndarray, segment_s: float = SEGMENT_S) -> Query:
    return Query(np.concatenate(vectors).astype(np.float32), HOP_S, segment_s)


SONG = unit_rows(0, 60)
OTHERS = [unit_rows(seed, 60) for seed in range(1, 41)]


def copies(num: int) -> list[np.ndarray]:
    """The song on other albums: other codecs, each a second later than the one before."""
    return [
        np.concatenate([unit_rows(100 + i, 3 * i % 30), noisy(SONG, 200 + i, 0.3)])
        for i in range(num)
    ]


class TestCopies:
    @pytest.mark.parametrize("num", [1, 12, 70])
    def test_an_answer_is_as_sure_as_with_one_copy(self, num):
        query = query_of(noisy(SONG[20:30], 7, 1.0))
        alone = rank(query, reference_of([*OTHERS, SONG]))
        many = rank(query, reference_of([*OTHERS, SONG, *copies(num)]))
        assert alone.tracks[0] == 40 and many.tracks[0] >= 40
        assert sorted(many.copies) == list(range(40, 41 + num))
        assert len(many.cohort) >= COHORT_SIZE and (many.tracks[many.cohort] < 40).all()
        assert many.cohort_mean == pytest.approx(alone.cohort_mean, abs=0.05)
        assert many.prominence()[0] > 0.7 * alone.prominence()[0]

    def test_without_copies_nothing_changes(self):
        query = query_of(noisy(SONG[20:30], 7, 1.0))
        ranking = rank(query, reference_of([*OTHERS, SONG]))
        assert ranking.copies.tolist() == [40]
        plain = dataclasses.replace(ranking, same=np.zeros(0, bool))
        assert (plain.cohort_mean, plain.separation()) == (
            ranking.cohort_mean,
            ranking.separation(),
        )
        assert plain.leading(5).tolist() == ranking.leading(5).tolist() == [0, 1, 2, 3, 4]

    def test_tracks_that_are_all_alike_are_no_copies(self):
        """As an untrained encoder makes them: usual is what counts."""
        base = unit_rows(0, 1)
        parts = [base + 0.05 * unit_rows(seed, 30) for seed in range(1, 20)]
        parts = [normalised(part) for part in parts]
        ranking = rank(query_of(parts[3][5:15]), reference_of(parts))
        assert ranking.copies.tolist() == [3]

    def test_they_are_named_together_and_another_song_is_found_beside_them(self):
        reference = reference_of([*OTHERS, SONG, *copies(12)])
        query = query_of(SONG[:30], OTHERS[0][:30])
        spans = accepted(scan(query, reference, uncalibrated()), false_alarm_rate=1e-4)
        assert len(spans) == 2 and spans[1].track == 0 and spans[1].copies == ()
        assert sorted([spans[0].track, *spans[0].copies]) == list(range(40, 53))


def test_a_copy_at_another_tempo_is_compared_moment_by_moment():
    """Rows that change slowly, and every other one of them: the same music twice as fast."""
    keys = unit_rows(0, 16)
    places = np.arange(60) / 4
    before = places.astype(int)
    part = (places - before)[:, None]
    song = normalised((1 - part) * keys[before] + part * keys[before + 1])
    reference = reference_of([song, song[::2], *OTHERS])
    tracks = np.array([0, 1, 2])
    middles_s = reference.first_middles_s[tracks] + HOP_S * np.array([30, 15, 30])
    scores = np.ones(3, np.float32)
    for tempo, same in ((0.5, [True, True, False]), (1.0, [True, False, False])):
        tempos = np.array([1.0, tempo, 1.0])
        found = same_as_first(reference, tracks, scores, middles_s, tempos, length_s=12.0)
        assert found.tolist() == same


def test_a_forked_process_is_told_so_and_does_not_wait_for_threads(monkeypatch):
    monkeypatch.setattr("confp_jax.model.forked._first_pid", [1])
    with pytest.raises(ForkedError, match="forked from process 1"):
        rank(query_of(SONG[:10]), reference_of(OTHERS[:3]))


class TestLongerClips:
    @pytest.mark.parametrize("num", [24, 26, 30, 36, 40])
    def test_a_longer_clip_finds_what_a_part_of_it_does(self, num):
        """Eight windows of a song among those of other tracks."""
        half = (num - 8) // 2
        parts = unit_rows(500, half), SONG[20:28], unit_rows(501, num - 8 - half)
        reference = reference_of([*OTHERS, SONG])
        spans = accepted(scan(query_of(*parts), reference, uncalibrated()), false_alarm_rate=1e-4)
        found = [span.track for span in spans]
        assert found == ([40] if num > 24 else found)

    def test_plays_in_a_row_are_all_reported(self):
        reference = reference_of([*OTHERS, SONG])
        query = query_of(SONG[:30], SONG[:30], SONG[:30], unit_rows(500, 20))
        spans = accepted(scan(query, reference, uncalibrated()), false_alarm_rate=1e-4)
        assert [span.track for span in spans] == [40, 40, 40]
        begins = [span.query_s - span.track_s for span in spans]
        np.testing.assert_allclose(begins, [0.0, 9.0, 18.0], atol=0.3)

    def test_ends_may_be_blurred_between_plays_and_not_within_one(self):
        first = Span(0, 0.0, 0.0, 10.0, 1.0, 0.9, 9.0, 1e-9, 0)
        again = dataclasses.replace(first, query_s=8.5, track_s=0.0)
        assert not covers(first, again)
        assert covers(first, dataclasses.replace(first, query_s=8.5, track_s=8.5))
        assert covers(first, dataclasses.replace(first, query_s=5.0, track_s=0.0))


class TestCommonSections:
    def sections(self, a: Query, b: Query) -> list[tuple[float, float]]:
        spans = common_sections(a, b, uncalibrated())
        assert all(span.logit >= 0 for span in spans)
        turned = common_sections(b, a, uncalibrated())
        exchanged = sorted((span.track_s, span.query_s) for span in turned)
        found = sorted((span.query_s, span.track_s) for span in spans)
        assert len(exchanged) == len(found)
        np.testing.assert_allclose(exchanged, found, atol=1e-6)
        return [(span.query_s, span.track_s) for span in spans]

    def test_a_jingle_that_sounds_twice(self):
        jingle = SONG[:30]
        between = [unit_rows(seed, 50) for seed in (300, 301, 302)]
        broadcast = query_of(between[0], jingle, between[1], jingle, between[2])
        found = self.sections(query_of(jingle), broadcast)
        np.testing.assert_allclose(found, [(0, 15.0), (0, 39.0)], atol=0.7)

    def test_every_pair_of_places(self):
        jingle = SONG[:30]
        other = [unit_rows(seed, 40) for seed in range(300, 306)]
        a = query_of(jingle, other[0], jingle, segment_s=0.9)
        b = query_of(other[1], jingle, jingle, other[2], jingle, segment_s=0.9)
        found = sorted(self.sections(a, b), key=lambda pair: (round(pair[0] / 5), pair[1]))
        pairs = [(x, y) for x in (0.0, 21.0) for y in (12.0, 21.0, 42.0)]
        np.testing.assert_allclose(found, pairs, atol=0.8)

    def test_a_long_section_is_one(self):
        long = unit_rows(9, 400)
        (span,) = common_sections(query_of(long), query_of(long[50:]), uncalibrated())
        assert (span.query_s, span.track_s) == pytest.approx((15.0, 0.0), abs=0.7)
        assert span.length_s == pytest.approx(108.0, abs=1.0)

    def test_other_tracks_have_nothing_in_common(self):
        assert self.sections(query_of(*OTHERS[:3]), query_of(*OTHERS[3:6])) == []


def test_all_pairs_of_many_copies_are_found(monkeypatch):
    """However many: the nearest rows of each are then those of its copies alone."""
    monkeypatch.setattr("confp_jax.matching.shared_sections._PROBE_HITS", 4)
    song = SONG[:40]
    albums = [np.concatenate([unit_rows(100 + i, 3 * i), song]) for i in range(9)]
    found = shared_sections(reference_of([*OTHERS[:5], *albums]), uncalibrated())
    pairs = {(one.track, one.other) for one in found}
    assert pairs == {(a, b) for a in range(5, 14) for b in range(a + 1, 14)}
