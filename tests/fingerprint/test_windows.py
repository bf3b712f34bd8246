"""Windows of a clip and the batches they are encoded in."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from confp_jax.config import MelConfig
from confp_jax.fingerprint.windows import (
    SPEEDUP,
    batch_shapes,
    batch_sizes,
    cut_windows,
    window_rms,
)


def test_window_rms(music: np.ndarray) -> None:
    starts = np.array([0, 777, 100_000])
    length = 4_321
    expected = [
        np.sqrt(np.mean(np.square(music[s : s + length], dtype=np.float64))) for s in starts
    ]
    np.testing.assert_allclose(
        window_rms(music, starts, np.full(len(starts), length)), expected, rtol=1e-6
    )


@given(st.integers(0, 2000), st.sampled_from([(1, 4, 16), (1, 8, 64), (1, 2)]))
def test_batches_hold_every_window_and_waste_little(
    num_windows: int, sizes: tuple[int, ...]
) -> None:
    found = batch_sizes(num_windows, sizes)
    held = [next(size for size in sizes if size >= num) for num in found]
    assert sum(found) == num_windows and min(found, default=1) > 0
    assert sum(held) - num_windows < sizes[1], "all but the last are full"
    for smaller, larger in itertools.pairwise(sizes):
        assert held.count(smaller) * smaller < larger + sizes[1], (
            "what a larger one holds is not shared out"
        )
    assert held == sorted(held, reverse=True)


def test_a_cpus_batches_fit_its_cache_and_an_accelerators_are_large() -> None:
    """Windows of 46 tokens (edge) and of 368 (small)."""
    assert [batch_shapes(num_tokens, on_cpu=True) for num_tokens in (46, 368)] == [
        (1, 4, 16),
        (1, 4),
    ]
    assert batch_shapes(368, on_cpu=False)[-1] == 64


@given(st.integers(16_000, 120_000), st.booleans(), st.sampled_from([1.0, SPEEDUP]))
def test_windows_lie_within_what_is_heard(num_samples: int, with_edges: bool, tempo: float) -> None:
    """And each of their mel frames within the samples, at either phase of the frames' grid."""
    mel = MelConfig()
    cut = cut_windows(
        np.ones(num_samples, np.float32),
        segment=48_000,
        hop=4_800,
        with_edges=with_edges,
        tempo=tempo,
    )
    assert np.all(cut.starts >= 0) and np.all(cut.starts + cut.lengths <= num_samples / tempo)
    assert np.all(cut.places + cut.lengths <= 48_000) and len(cut.loud) == len(cut.starts)
    frame, phase = np.divmod(cut.starts, mel.hop_samples)
    last = frame + np.array([mel.num_frames(int(length)) for length in cut.lengths]) - 1
    end = np.round(tempo * phase) + last * round(tempo * mel.hop_samples) + mel.fft_samples
    assert np.all(end <= num_samples)
