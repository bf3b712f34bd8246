import numpy as np
import pytest
from unit_vectors import unit_rows

from confp_jax.matching.kinship import is_confusable
from confp_jax.matching.ranking import Ranking
from confp_jax.matching.searchable import Reference, make_reference


def tracks(voice: float, query_phases: int = 8) -> Reference:
    """Six tracks of ten rows; `voice` is how much of one direction all rows have."""
    rng = np.random.default_rng(0)
    common = unit_rows(rng, 1, 256)
    parts = []
    for number in range(6):
        rows = voice * common + unit_rows(rng, 10, 256)
        parts.append((str(number), rows / np.linalg.norm(rows, axis=1, keepdims=True)))
    return make_reference(parts, hop_s=0.3, segment_s=0.9, query_phases=query_phases, exact=True)


def ranking(first: float, others: float = 0.2) -> Ranking:
    scores = np.array([first, 0.25, *[others] * 4], np.float32)
    nothing = np.zeros(6)
    return Ranking(np.arange(6), scores, nothing, nothing + 1, np.zeros((6, 1), np.float32))


@pytest.mark.parametrize(
    ("first", "others", "expected"),
    [(0.35, 0.1, True), (0.39, 0.1, False), (0.74, 0.7, True), (0.78, 0.7, False)],
)
def test_one_voice_must_stand_out_from_what_it_says_elsewhere(first, others, expected):
    """By 20 % of what the others lack, and be as alike as the same recording is."""
    assert is_confusable(ranking(first, others), 0, tracks(voice=0.4)) == expected


def test_music_is_no_kin():
    assert not is_confusable(ranking(0.35), 0, tracks(voice=0.0))


def test_of_other_models_nothing_was_measured():
    assert not is_confusable(ranking(0.35), 0, tracks(voice=0.4, query_phases=1))
