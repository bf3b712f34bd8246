"""Window arithmetic: crops inside their clips, centres where they belong, the paper's shift."""

import itertools

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from hypothesis import assume, example, given
from hypothesis import strategies as st

from confp_jax.audio import segments
from confp_jax.audio.segments import (
    draw_pair_crops,
    draw_shift_s,
    num_windows,
    replica_start_s,
    spaced_starts_s,
    window_chunks,
)

SEGMENT_S = 3.0
SHIFT = (8.0, 2.0, 0.15)  # the paper's Beta(8, 2) x 150 ms
seeds = st.integers(0, 2**32 - 1)


def draw(seed: int, **changes):
    arguments = {
        "num_crops": 2,
        "spacing_s": (0.3, 3.75),
        "clean_s": 30.0,
        "replica_s": 30.0,
        "tempo": 1.0,
    }
    return draw_pair_crops(
        np.random.default_rng(seed), segment_s=SEGMENT_S, shift=SHIFT, **(arguments | changes)
    )


@given(
    seed=seeds,
    clean_s=st.floats(3.2, 60),
    tempo=st.floats(0.7, 1.4),
    lost_s=st.floats(-0.5, 0.5),
    num_crops=st.integers(1, 5),
)
def test_crops_lie_inside_both_clips_with_their_centres_within_the_shift(
    seed, clean_s, tempo, lost_s, num_crops
):
    replica_s = clean_s / tempo - lost_s  # a stretch does not end on the sample that theory says
    try:
        crops = draw(seed, clean_s=clean_s, replica_s=replica_s, tempo=tempo, num_crops=num_crops)
    except ValueError:
        assume(False)
    assert len(crops) == num_crops
    for crop in crops:
        assert -1e-9 <= crop.anchor_start_s <= clean_s - SEGMENT_S + 1e-9
        assert -1e-9 <= crop.replica_start_s <= replica_s - SEGMENT_S + 1e-9
        heard_s = (
            crop.replica_start_s + SEGMENT_S / 2
        ) * tempo  # the replica's centre, in the original's time
        assert abs(heard_s - (crop.anchor_start_s + SEGMENT_S / 2)) <= 0.15 + 1e-9


@pytest.mark.parametrize(("clean_s", "tempo"), [(3.5, 1.0), (5.0, 1.3), (4.0, 0.8)])
def test_short_clips_leave_room_for_the_shift_at_both_ends(clean_s, tempo):
    """Here almost every draw lies near an end, which random lengths seldom try."""
    crops = [
        crop
        for seed in range(300)
        for crop in draw(seed, clean_s=clean_s, replica_s=clean_s / tempo, tempo=tempo)
    ]
    starts_s = np.array([[crop.anchor_start_s, crop.replica_start_s] for crop in crops])
    assert starts_s.min() >= 0
    assert (starts_s.max(axis=0) <= [clean_s - SEGMENT_S, clean_s / tempo - SEGMENT_S]).all()


@given(seed=seeds, low_s=st.floats(0.1, 1), width_s=st.floats(0, 3))
def test_neighbours_lie_the_spacing_apart_where_there_is_room(seed, low_s, width_s):
    crops = draw(
        seed, num_crops=6, spacing_s=(low_s, low_s + width_s), clean_s=40.0, replica_s=40.0
    )
    for before, after in itertools.pairwise(crops):
        assert (
            low_s - 1e-9
            <= abs(after.anchor_start_s - before.anchor_start_s)
            <= low_s + width_s + 1e-9
        )


@pytest.mark.parametrize(
    ("clean_s", "replica_s", "tempo"),
    [(2.9, 30.0, 1.0), (30.0, 2.9, 1.0), (3.2, 3.2, 1.0), (6.0, 3.1, 1.3), (0.0, 0.0, 1.0)],
)
def test_clips_that_are_too_short_are_an_error(clean_s, replica_s, tempo):
    with pytest.raises(ValueError, match=r"holds no 3\.0 s pair"):
        draw(0, clean_s=clean_s, replica_s=replica_s, tempo=tempo)


def test_the_shortest_clip_has_room_for_the_shift_on_both_sides():
    crops = draw(0, clean_s=3.301, replica_s=3.301)
    assert all(0.15 <= crop.anchor_start_s <= 0.151 for crop in crops)


def test_first_crops_are_uniform_and_the_same_seed_repeats():
    starts = np.array([draw(seed, num_crops=1)[0].anchor_start_s for seed in range(2000)])
    assert scipy.stats.kstest(starts, scipy.stats.uniform(0.15, 26.7).cdf).pvalue > 1e-3
    assert draw(7) == draw(7) != draw(8)


def test_every_pair_draws_its_own_shift():
    crops = draw(0, num_crops=5)
    assert len({round(crop.replica_start_s - crop.anchor_start_s, 9) for crop in crops}) == 5


@given(
    start_s=st.floats(0, 100),
    shift_s=st.floats(-0.15, 0.15),
    tempo=st.floats(0.7, 1.3),
    segment_s=st.floats(1, 5),
)
def test_the_replicas_centre_is_the_anchors_plus_the_shift_in_stretched_time(
    start_s, shift_s, tempo, segment_s
):
    start = replica_start_s(start_s, shift_s=shift_s, tempo=tempo, segment_s=segment_s)
    assert start + segment_s / 2 == pytest.approx((start_s + segment_s / 2 + shift_s) / tempo)


def test_shift_has_the_papers_distribution_either_way():
    rng = np.random.default_rng(0)
    shifts = np.array([draw_shift_s(rng, alpha=8, beta=2, max_shift_s=0.15) for _ in range(20_000)])
    assert np.abs(shifts).max() <= 0.15
    assert np.abs(shifts).mean() == pytest.approx(0.120, abs=0.0005)
    assert (shifts > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert scipy.stats.kstest(np.abs(shifts) / 0.15, scipy.stats.beta(8, 2).cdf).pvalue > 1e-3


def test_no_shift():
    assert draw_shift_s(np.random.default_rng(0), alpha=8, beta=2, max_shift_s=0.0) == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_shift_is_where_the_sound_correlates_best(seed, monkeypatch):
    """Noise cut by a drawn pair: the lag of the best correlation is the shift that was drawn, to a
    sample.
    """
    rate_hz = 16_000
    drawn_s = []

    def record(rng, **arguments):
        drawn_s.append(draw_shift_s(rng, **arguments))
        return drawn_s[-1]

    monkeypatch.setattr(segments, "draw_shift_s", record)
    noise = np.random.default_rng(100 + seed).normal(size=10 * rate_hz)
    (crop,) = draw(seed, num_crops=1, clean_s=10.0, replica_s=10.0)
    anchor, replica = (
        noise[round(start_s * rate_hz) :][: round(SEGMENT_S * rate_hz)]
        for start_s in (crop.anchor_start_s, crop.replica_start_s)
    )
    assert len(anchor) == len(replica) == 48_000
    correlation = scipy.signal.correlate(anchor, replica)
    lag = scipy.signal.correlation_lags(len(anchor), len(replica))[correlation.argmax()]
    assert abs(drawn_s[0]) > 0.03
    assert lag == pytest.approx(drawn_s[0] * rate_hz, abs=1)


@given(duration_s=st.floats(3, 1000), num=st.integers(2, 20))
def test_spaced_starts_run_from_the_beginning_to_the_last_segment(duration_s, num):
    starts = spaced_starts_s(duration_s, segment_s=SEGMENT_S, num=num)
    assert len(starts) == num and starts[0] == 0
    assert starts[-1] + SEGMENT_S == pytest.approx(duration_s)
    np.testing.assert_allclose(np.diff(starts), (duration_s - SEGMENT_S) / (num - 1), atol=1e-9)


def test_five_starts_in_thirty_seconds():
    np.testing.assert_allclose(
        spaced_starts_s(30.0, segment_s=3.0, num=5), [0, 6.75, 13.5, 20.25, 27]
    )


def test_spaced_starts_need_one_segment():
    with pytest.raises(ValueError, match=r"2\.99 s holds no segment of 3\.0 s"):
        spaced_starts_s(2.99, segment_s=SEGMENT_S, num=5)


@given(num_samples=st.integers(0, 500), segment=st.integers(1, 60), hop=st.integers(1, 60))
def test_num_windows_counts_the_starts_that_fit(num_samples, segment, hop):
    starts = [start for start in range(0, num_samples, hop) if start + segment <= num_samples]
    assert num_windows(num_samples, segment_samples=segment, hop_samples=hop) == len(starts)


@given(
    lengths=st.lists(st.integers(0, 40), max_size=12),
    segment=st.integers(1, 30),
    hop=st.integers(1, 12),
    windows=st.integers(1, 6),
    margin=st.integers(0, 40),
)
@example(lengths=[8], segment=4, hop=2, windows=3, margin=0)  # as long as a piece
def test_the_windows_of_the_pieces_are_those_of_the_whole(lengths, segment, hop, windows, margin):
    """And so is what lies within the margin around each window."""
    whole = np.arange(sum(lengths), dtype=np.float32)
    blocks = np.split(whole, np.cumsum(lengths)[:-1]) if lengths else []
    pieces = list(
        window_chunks(
            blocks,
            segment_samples=segment,
            hop_samples=hop,
            windows_per_chunk=windows,
            margin_samples=margin,
        )
    )

    def windows_of(samples: np.ndarray, lead: int, num: int) -> list[list[float]]:
        starts = [lead + i * hop for i in range(num)]
        return [
            samples[max(0, first - margin) : first + segment + margin].tolist() for first in starts
        ]

    num = num_windows(len(whole), segment_samples=segment, hop_samples=hop)
    found = [
        window
        for piece in pieces
        for window in windows_of(piece.samples, piece.lead, piece.num_windows)
    ]
    assert found == windows_of(whole, 0, num)
    if len(whole) < segment:
        (only,) = pieces
        np.testing.assert_array_equal(only.samples, whole)
    else:
        longest = 2 * (margin + hop - 1) + (windows - 1) * hop + segment + hop - 1
        assert max(len(piece.samples) for piece in pieces) <= longest
    assert [piece.is_whole for piece in pieces] == [
        len(pieces) == 1 and len(pieces[0].samples) == len(whole)
    ] * len(pieces)
