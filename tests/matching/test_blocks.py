"""Long recordings: planted medleys whose truth is known, blocks, ends, and several tracks at
once.
"""

import dataclasses

import numpy as np
import pytest
from unit_vectors import normalised, unit_rows

from confp_jax.fingerprint.query import Query
from confp_jax.matching.blocks import Scan, joined_blocks, scan
from confp_jax.matching.decision import uncalibrated
from confp_jax.matching.searchable import Reference, make_reference
from confp_jax.matching.spans import Block, Span, SpanTracker, accepted, matched_run

HOP_S = 0.3
SEGMENT_S = 3.0
RATE = 1e-4


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    return [unit_rows(rng, 200) for _ in range(15)]


@pytest.fixture(scope="module")
def reference(parts):
    return make_reference(
        [(f"t{i}", part) for i, part in enumerate(parts)],
        hop_s=HOP_S,
        segment_s=SEGMENT_S,
        exact=True,
    )


def query_of(*vectors: np.ndarray) -> Query:
    return Query(np.concatenate(vectors).astype(np.float32), HOP_S, SEGMENT_S)


def found(query, reference) -> list[Span]:
    return accepted(scan(query, reference, uncalibrated()), false_alarm_rate=RATE)


class TestBlocks:
    @pytest.mark.parametrize("num", [1, 23, 24, 36, 37, 48, 49, 61, 500])
    @pytest.mark.parametrize("at_once", [1, 12, 64, 1000])
    def test_every_window_is_in_a_block_and_none_is_short(self, num, at_once):
        vectors = np.arange(1, num + 1, dtype=np.float32)[:, None]
        pieces = [query_of(vectors[i : i + at_once]) for i in range(0, num, at_once)]
        blocks = list(joined_blocks(pieces))
        assert [b.is_last for b in blocks] == [False] * (len(blocks) - 1) + [True]
        for block in blocks:
            inside = vectors[block.first_window : block.first_window + len(block.query.vectors)]
            np.testing.assert_array_equal(block.query.vectors, inside)
        assert [b.first_window for b in blocks] == [12 * i for i in range(len(blocks))]
        lengths = [len(b.query.vectors) for b in blocks]
        assert lengths[:-1] == [24] * (len(blocks) - 1)
        assert blocks[-1].first_window + lengths[-1] == num
        assert lengths[-1] > 24 or len(blocks) == 1

    def test_nothing(self):
        assert list(joined_blocks([])) == []


class TestMedley:
    def test_each_piece_is_a_span_of_its_own(self, parts, reference):
        rng = np.random.default_rng(1)
        unknown = unit_rows(rng, 40)
        query = query_of(
            parts[3][10:70],
            unknown,
            parts[8][100:140],
            parts[3][150:190],
            parts[5][:12],
            parts[1][20:60],
        )
        spans = found(query, reference)
        assert [s.track for s in spans] == [3, 8, 3, 5, 1]
        begins = np.array([0, 100, 140, 180, 192])
        starts = np.array([10, 100, 150, 0, 20])
        lengths = np.array([60, 40, 40, 12, 40])
        # Random rows share nothing with their neighbours: a span is its windows, less or more than
        # the edge that is taken off.
        np.testing.assert_allclose([s.query_s for s in spans], begins * HOP_S, atol=1.0)
        np.testing.assert_allclose(
            [s.track_s - s.query_s for s in spans], (starts - begins) * HOP_S, atol=0.2
        )
        np.testing.assert_allclose(
            [s.length_s for s in spans], lengths * HOP_S + SEGMENT_S, atol=2.5
        )
        assert all(s.confidence > 0.99 and s.score > 0.9 for s in spans)

    def test_a_whole_track_is_one_span_from_end_to_end(self, parts, reference):
        (span,) = found(query_of(parts[6]), reference)
        assert (span.track, span.query_s, span.track_s) == (6, 0.0, pytest.approx(0.0, abs=0.02))
        assert span.length_s == pytest.approx(199 * HOP_S + SEGMENT_S, abs=0.02)
        assert span.tempo == pytest.approx(1.0, abs=0.002)

    def test_a_faster_recording_keeps_its_line_over_many_blocks(self, reference):
        """Rows interpolated at another tempo: one span, its tempo and its beginning."""
        base = np.cumsum(np.random.default_rng(5).normal(size=(400, 64)), axis=0)
        smooth = base - np.array([base[max(0, i - 6) : i + 6].mean(axis=0) for i in range(400)])
        rows = normalised(smooth)
        reference = make_reference(
            [("long", rows), *((f"t{i}", reference.rows_of(i)) for i in range(12))],
            hop_s=HOP_S,
            segment_s=SEGMENT_S,
            exact=True,
        )
        places = 30 + 1.1 * np.arange(150)
        low = places.astype(int)
        part = (places - low)[:, None]
        query = (1 - part) * rows[low] + part * rows[low + 1]
        (span,) = found(query_of(normalised(query)), reference)
        assert (span.track, span.query_s) == (0, 0.0)
        assert span.tempo == pytest.approx(1.1, abs=0.005)
        # Middles run at 1.1: the middle of the first window, 1.5 s, is row 30's middle.
        assert span.track_s == pytest.approx(30 * HOP_S + SEGMENT_S / 2 * (1 - 1.1), abs=0.15)

    def test_unknown_music_and_silence_give_nothing(self, reference):
        rng = np.random.default_rng(2)
        assert found(query_of(unit_rows(rng, 300)), reference) == []
        assert found(query_of(np.zeros((300, 64))), reference) == []
        assert scan(query_of(np.zeros((300, 64))), reference, uncalibrated()) == []

    def test_the_same_recording_twice_is_told_once(self, parts):
        named = [(f"t{i}", part) for i, part in enumerate([*parts, parts[3]])]
        twice = make_reference(named, hop_s=HOP_S, segment_s=SEGMENT_S, exact=True)
        (span,) = found(query_of(parts[3][20:120]), twice)
        assert span.track in (3, 15) and span.confidence > 0.99

    def test_memory_does_not_grow_with_the_recording(self, parts, reference):
        """What is over is given out, and nothing stays."""
        scanning = Scan(reference, uncalibrated())
        num = 0
        pieces = (query_of(parts[i % 15][:90]) for i in range(12))
        for block in joined_blocks(pieces):
            num += len(scanning.push(block))
            assert len(scanning.current) < 20
        assert num >= 12 and scanning.current == []

    def test_each_search_of_a_monitor_has_its_own_rate(self, parts, reference):
        """Otherwise a clip of 12 s would find less than one of 16 s."""
        unknown = unit_rows(np.random.default_rng(6), 22)
        query = query_of(unknown[:11], parts[3][20:28], unknown[11:])
        rates = []
        for is_endless in (False, True):
            scanning = Scan(reference, uncalibrated(), is_endless=is_endless)
            spans = [span for block in joined_blocks([query]) for span in scanning.push(block)]
            shorts = [span for span in spans if span.number < 0 and span.track == 3]
            rates.append(min(span.alarm_rate for span in shorts))
        assert rates[0] == pytest.approx(4 * rates[1]) and scanning.num_trials == 5


def surest_span(block: Block, reference: Reference) -> Span:
    """Of all candidates of a recording that is no longer than a block."""
    spans = SpanTracker(reference, uncalibrated(), keep_all=True).push(block)
    return max(spans, key=lambda span: span.logit)


class TestSpans:
    def test_the_track_begins_within_the_query(self, parts, reference):
        query = query_of(unit_rows(np.random.default_rng(3), 10), parts[2][:20])
        best = surest_span(Block(query), reference)
        assert (best.track, best.query_s, best.track_s) == (
            2,
            pytest.approx(10 * HOP_S, abs=0.7),
            pytest.approx(0.0, abs=0.7),
        )
        assert best.query_s - best.track_s == pytest.approx(10 * HOP_S, abs=0.1)

    def test_evidence_of_blocks_adds_up(self, parts, reference):
        """Each block alone is too weak for the rate, all together are not."""
        rng = np.random.default_rng(4)
        noisy = parts[9] + 2.05 * unit_rows(rng, 200)
        query = query_of(normalised(noisy))
        tracker = SpanTracker(reference, uncalibrated(), new_part=0.5)
        for block in joined_blocks([query]):
            spans = tracker.push(block)
        longest = max(spans, key=lambda span: span.length_s)
        blocks = [
            surest_span(dataclasses.replace(b, is_last=True), reference)
            for b in joined_blocks([query])
        ]
        assert longest.track == 9 and all(span.track == 9 for span in blocks)
        assert longest.alarm_rate < 1e-3 * min(span.alarm_rate for span in blocks)

    @pytest.mark.parametrize(
        ("cosines", "expected"),
        [
            ([0.9] * 6, (0, 5)),
            ([0.1, 0.2, 0.9, 0.9, 0.8, 0.1], (2, 4)),
            ([0.9, 0.9, 0.2, 0.9, 0.9, 0.9, 0.1, 0.1], (0, 5)),  # one bad window does not end it
            ([0.9], (0, 0)),
        ],
    )
    def test_matched_run(self, cosines, expected):
        assert matched_run(np.array(cosines, np.float32), 0.3) == expected

    def test_a_cohort_that_is_nearly_as_similar_ends_no_match_early(self):
        """A match ends where its cosine drops by 0.15, not where its windows differ by less."""
        cosines = [0.5] * 4 + [0.8] * 6 + [0.7] * 2 + [0.8] * 6 + [0.5] * 4
        assert matched_run(np.array(cosines, np.float32), 0.78) == (4, 17)

    def test_of_two_at_one_place_the_surer_one(self):
        base = Span(0, 10.0, 0.0, 20.0, 1.0, 0.9, 9.0, 1e-9, 0)
        weaker = dataclasses.replace(
            base, track=1, query_s=15.0, length_s=12.0, logit=6.0, alarm_rate=1e-6
        )
        after = dataclasses.replace(base, track=2, query_s=28.0, alarm_rate=1e-7)
        before = dataclasses.replace(base, track=3, query_s=0.0, length_s=9.0, alarm_rate=0.5)
        assert [
            s.track for s in accepted([weaker, after, before, base], false_alarm_rate=1e-3)
        ] == [0, 2]
