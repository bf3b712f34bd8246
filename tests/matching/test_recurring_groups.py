import numpy as np
import pytest
from unit_vectors import unit_rows

from confp_jax.matching.recurring import recurring_sections, recurring_tracks
from confp_jax.matching.searchable import Reference, make_reference

HOP_S = 0.3
SEGMENT_S = 0.9


def rows(seed: int, num: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed), num, 256)


def noisy(vectors: np.ndarray, seed: int) -> np.ndarray:
    heard = vectors + 1.2 * rows(1_000 + seed, len(vectors))
    return heard / np.linalg.norm(heard, axis=1, keepdims=True)


def reference(parts: list[np.ndarray]) -> Reference:
    named = [(str(number), part.astype(np.float32)) for number, part in enumerate(parts)]
    return make_reference(named, hop_s=HOP_S, segment_s=SEGMENT_S, query_phases=8, exact=True)


@pytest.fixture(scope="module")
def calls() -> Reference:
    """Two messages in five calls each, with other openings, a name spoken in, or cut short, and
    four single calls, as long and with the same opening.
    """
    parts = []
    for message in (1, 2):
        first, second = np.split(rows(message, 40), [12])
        for number in range(5):
            opening = rows(10 * message + number, 2 * number)
            name = rows(50 * message + number, number)
            ending = second if number < 4 else second[:16]
            seed = 20 * message + number
            call = [opening, noisy(first, seed), name, noisy(ending, 10 + seed)]
            parts.append(np.concatenate(call))
    opening = rows(77, 8)
    parts += [np.concatenate([opening, rows(200 + number, 30)]) for number in range(4)]
    return reference(parts)


def test_calls_of_one_message_are_one_group(calls):
    assert recurring_tracks(calls) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_new_calls_join_the_groups_that_are_known(calls):
    searched = []
    groups = recurring_tracks(
        calls,
        known=[[0, 1, 2], [5, 6, 7]],
        new=[3, 4, 8, 9],
        report=lambda done, total: searched.append(total),
    )
    assert groups == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert set(searched) == {4}


def test_an_opening_that_all_share_joins_nothing(calls):
    assert not any(track >= 10 for group in recurring_tracks(calls) for track in group)


def test_a_short_call_joins_no_two_messages():
    """It shares most of itself, its opening, with calls of both."""
    opening = rows(1, 8)
    messages = [rows(2, 20), rows(3, 20)]
    parts = [
        np.concatenate([noisy(opening, 10 * m + n), noisy(messages[m], 10 * m + n)])
        for m in range(2)
        for n in range(5)
    ]
    groups = recurring_tracks(reference([*parts, np.concatenate([opening, rows(4, 2)])]))
    assert sorted(track for group in groups for track in group) == list(range(11))
    assert [{track // 5 for track in group} - {2} for group in groups] == [{0}, {1}]


@pytest.mark.parametrize(("num", "found"), [(40, [[0, 1]]), (4, [])])
def test_many_rows_that_are_a_little_alike_are_one_message(num, found):
    message = rows(1, num)
    heard = message + 3.2 * rows(2, num)
    heard /= np.linalg.norm(heard, axis=1, keepdims=True)
    assert (heard * message).sum(axis=1).mean() == pytest.approx(0.30, abs=0.03)
    assert recurring_tracks(reference([message, heard, rows(3, 40)])) == found


def test_an_intro_is_found_in_each_episode_with_its_edges():
    intro = rows(1, 40)
    seconds = (0.0, 6.0, 15.0)
    parts = []
    for number, begin_s in enumerate(seconds):
        before = rows(10 + number, round(begin_s / HOP_S))
        parts.append(np.concatenate([before, noisy(intro, number), rows(20 + number, 100)]))
    (group,) = recurring_sections(reference(parts), shortest_s=5, longest_s=30)
    assert [section.track for section in group] == [0, 1, 2]
    lasts_s = 39 * HOP_S + SEGMENT_S
    for section, begin_s in zip(group, seconds, strict=True):
        assert section.begin_s == pytest.approx(begin_s, abs=SEGMENT_S / 2 + 0.1)
        assert section.end_s == pytest.approx(begin_s + lasts_s, abs=SEGMENT_S / 2 + 0.1)
    assert recurring_sections(reference(parts), shortest_s=20, longest_s=30) == []
