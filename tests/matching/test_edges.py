"""Windows hear several moments: at an edge as many of one recording as of another."""

import numpy as np
import pytest
from unit_vectors import normalised, unit_rows

from confp_jax.fingerprint.query import Query
from confp_jax.matching.edges import with_exact_edges
from confp_jax.matching.spans import Span

HOP_S = 0.3
PHASES = 5
NUM_HEARD = 15  # moments in a window, 0.06 s each
SEGMENT_S = 0.9


def moments(seed: int, seconds: float) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed), round(seconds / HOP_S * PHASES), 512)


def windows(heard: np.ndarray) -> np.ndarray:
    """One a moment."""
    total = np.cumsum(np.concatenate([np.zeros((1, heard.shape[1])), heard]), axis=0)
    return normalised(total[NUM_HEARD:] - total[:-NUM_HEARD]).astype(np.float32)


def query_of(heard: np.ndarray) -> Query:
    every = windows(heard)
    every = every[: len(every) // PHASES * PHASES].reshape(-1, PHASES, every.shape[1])
    between = every[:, 1:].swapaxes(0, 1).copy()
    between[:, -1] = 0.0
    return Query(every[:, 0], HOP_S, SEGMENT_S, between=between)


def span_of(query_s: float, track_s: float, length_s: float, tempo: float = 1.0) -> Span:
    return Span(0, query_s, track_s, length_s, tempo, 0.5, 9.0, 1e-9, 0)


@pytest.mark.parametrize("noise", [0.0, 1.5])
@pytest.mark.parametrize(("early_s", "late_s"), [(-1.2, 1.2), (0.0, 0.0), (1.2, -1.2)])
def test_edges_between_other_moments(noise, early_s, late_s):
    section = moments(1, 12.0)
    a = np.concatenate([moments(2, 6.06), section, moments(3, 6.0)])
    heard = normalised(section + noise * moments(4, 12.0))
    b = np.concatenate([moments(5, 4.2), heard, moments(6, 9.0)])
    found = span_of(6.06 + early_s, 4.2 + early_s, 12.0 - early_s + late_s)
    exact = with_exact_edges(found, query_of(a), windows(b)[::PHASES])
    assert exact.query_s == pytest.approx(6.06, abs=0.2)
    assert exact.track_s == pytest.approx(4.2, abs=0.2)
    assert exact.length_s == pytest.approx(12.0, abs=0.3)


def test_a_section_that_a_recording_begins_or_ends_in():
    section = moments(1, 12.0)
    a = np.concatenate([section, moments(3, 6.0)])
    b = np.concatenate([moments(5, 4.2), section])
    exact = with_exact_edges(span_of(0.9, 5.1, 10.2), query_of(a), windows(b)[::PHASES])
    assert (exact.query_s, exact.track_s) == pytest.approx((0.0, 4.2), abs=0.1)
    assert exact.length_s == pytest.approx(12.0, abs=0.3)


@pytest.mark.parametrize("found", [span_of(1.2, 1.2, 0.9), span_of(0.3, 0.3, 2.4, tempo=1.05)])
def test_few_rows_and_other_tempos_stay_as_they_are(found):
    section = moments(1, 3.0)
    assert with_exact_edges(found, query_of(section), windows(section)[::PHASES]) == found
