"""What a query holds beside the windows that a database would store."""

import dataclasses

import numpy as np
import pytest
from unit_vectors import unit_rows

from confp_jax.fingerprint.query import Later, Query, densified, joined

HOP_S, SEGMENT_S = 0.3, 0.9


@pytest.fixture
def query() -> Query:
    return Query(unit_rows(np.random.default_rng(3), 6), HOP_S, SEGMENT_S)


def test_between_stored_fingerprints_lies_what_is_like_both(query):
    assert densified(query, 1) is query
    dense = densified(query, 4)
    assert dense.between.shape == (3, *query.vectors.shape)
    np.testing.assert_allclose(np.linalg.norm(dense.between[:, :-1], axis=-1), 1.0, rtol=1e-5)
    before = np.sum(dense.between[:, 0] * query.vectors[0], axis=-1)
    after = np.sum(dense.between[:, 0] * query.vectors[1], axis=-1)
    assert before[0] > before[1] > before[2] and after[0] < after[1] < after[2]
    assert before[1] == pytest.approx(after[1], abs=1e-5)
    assert not dense.between[:, -1].any(), "nothing follows the last one"


def test_silence_is_no_part_of_its_loud_length(query):
    vectors = query.vectors.copy()
    vectors[2] = 0.0
    silent_once = Query(vectors, HOP_S, SEGMENT_S)
    assert query.loud_s == query.duration_s == pytest.approx(5 * HOP_S + SEGMENT_S)
    assert silent_once.loud_s == pytest.approx(query.loud_s - HOP_S)
    partial = Query(vectors, HOP_S, 0.7, is_partial=True)
    assert partial.loud_s == partial.duration_s == 0.7, "it is whole in each of its windows"


@pytest.mark.parametrize(("num", "tells"), [(5, False), (6, True)])
def test_the_tempo_is_told_by_windows_far_enough_apart(query, num, tells):
    assert query.part(0, num).tells_tempo == tells
    assert not Query(query.vectors, HOP_S, 0.7, is_partial=True).tells_tempo


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def both(query, asked) -> Query:
    """A query whose conformer gives twice its vectors, and counts how often it is asked."""

    def hear() -> Query:
        asked.append(1)
        return Query(2 * query.vectors, HOP_S, SEGMENT_S, edge_windows=np.ones((2, 1, 64), "f"))

    return dataclasses.replace(query, by_conformer=Later.of(hear, len(query.vectors)))


def test_what_the_conformer_hears_is_computed_when_it_is_asked_for_and_once(query, both, asked):
    part = both.part(1, 3).plain()
    whole = joined([both.part(0, 1), both.part(1, len(query.vectors))])
    assert not asked
    np.testing.assert_array_equal(part.by_conformer().vectors, 2 * query.vectors[1:3])
    np.testing.assert_array_equal(whole.by_conformer().vectors, 2 * query.vectors)
    assert both.by_conformer().has_edge_windows and len(asked) == 1
    for shorter in (part, whole, both.plain()):
        assert not shorter.by_conformer().has_edge_windows


def test_a_stream_holds_only_the_pieces_that_are_still_searched(query, both):
    """Blocks that overlap, as `joined_blocks` makes them: no piece stays for ever."""
    others = [dataclasses.replace(both, vectors=both.vectors + number) for number in range(1, 5)]
    held = both
    for part in others:
        held = joined([held, part]).part(6, 12)
        np.testing.assert_array_equal(held.by_conformer().vectors, 2 * query.vectors)
    cut = joined([both, held]).part(4, 9)
    rows = np.concatenate([query.vectors[4:], query.vectors[:3]])
    np.testing.assert_array_equal(cut.by_conformer().vectors, 2 * rows)
    assert len(held.by_conformer.pieces) == 1 and len(cut.by_conformer.pieces) == 2


def test_a_query_that_could_not_be_heard_says_so():
    later = Later.of(lambda: 1 / 0, 3)  # pyrefly: ignore[bad-argument-type]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            later()
