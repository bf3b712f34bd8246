"""Windows that see only a part: of clips shorter than a segment, and a query's edge windows."""

import numpy as np
import pytest
from flax import nnx

from confp_jax.audio.mel import mel_power
from confp_jax.fingerprint.query import joined
from confp_jax.model.features import log_mel
from confp_jax.model.inference import embed as embed_power
from confp_jax.model.inference import encoder_graph

RATE = 16_000


@pytest.mark.parametrize(
    ("num_samples", "num_windows", "duration_s"),
    [
        (16_000, 7, 1.0),
        (32_000, 4, 2.0),
        (43_200, 2, 2.7),
        (47_999, 1, 47_999 / RATE),
        (52_799, 1, 3.0),
        (52_800, 2, 3.3),
    ],
)
def test_number_of_windows(embedder, music, num_samples, num_windows, duration_s):
    found = embedder.fingerprint(music[:num_samples])
    assert len(found.vectors) == num_windows
    assert found.duration_s == pytest.approx(duration_s)
    assert found.is_partial == (num_samples < 48_000)
    assert found.segment_s == pytest.approx(min(duration_s, 3.0))


def oracle(embedder, samples: np.ndarray, begin: int) -> np.ndarray:
    """The fingerprint of the window that begins at sample `begin` (before the clip, if below 0) and
    sees nothing but the clip.
    """
    mel = embedder.config.mel
    inside = samples[max(begin, 0) : begin + 48_000]
    seen = np.asarray(log_mel(mel_power(inside, mel, sample_rate_hz=RATE)[None], mel))
    first = min(round(max(-begin, 0) / 128), 368 - seen.shape[1])
    window = np.pad(seen, ((0, 0), (first, 368 - first - seen.shape[1]), (0, 0)))
    encoder = nnx.merge(
        encoder_graph(embedder.config),
        embedder.engine.state.params,
        embedder.engine.state.statistics,
    )
    return np.asarray(encoder(window))[0]


@pytest.mark.parametrize("num_samples", [16_000, 23_457, 32_000, 43_200, 47_999])
def test_a_short_clip_is_a_part_of_its_windows(embedder, music, num_samples):
    """Window j begins hop x (j - (N - 1) / 2) from where the clip is in its middle."""
    found = embedder.fingerprint(music[:num_samples]).vectors
    assert len(found) == 1 + (48_000 - num_samples) // 4_800
    for j, vector in enumerate(found):
        begin = (num_samples - 48_000) / 2 + 4_800 * (j - (len(found) - 1) / 2)
        np.testing.assert_allclose(
            vector, oracle(embedder, music[:num_samples], round(begin)), atol=1e-5
        )


@pytest.mark.parametrize(
    ("num_samples", "num_edge_windows"),
    [(16_000, 0), (33_600, 0), (40_000, 1), (47_000, 2), (48_000, 3), (55_000, 3), (80_000, 3)],
)
def test_a_query_has_edge_windows(embedder, music, num_samples, num_edge_windows):
    """As many as see at least 2.1 s of it; its other windows stay what they are."""
    samples = music[:num_samples]
    found = embedder.query(samples)
    plain = embedder.fingerprint(samples)
    np.testing.assert_allclose(found.vectors, plain.vectors, atol=1e-5)
    assert found.duration_s == found.loud_s == plain.duration_s
    assert found.edge_windows.shape == (2, num_edge_windows, 128)
    middle = (
        (num_samples - 48_000) / 2 if found.is_partial else (len(found.vectors) - 1) / 2 * 4_800
    )
    for k in range(num_edge_windows):
        away = (len(found.vectors) - 1) / 2 + 1 + k
        before, after = (
            oracle(embedder, samples, round(middle + sign * 4_800 * away)) for sign in (-1, 1)
        )
        np.testing.assert_allclose(
            found.edge_windows[0][num_edge_windows - 1 - k], before, atol=1e-5
        )
        np.testing.assert_allclose(found.edge_windows[1][k], after, atol=1e-5)


def test_silent_edge_windows_are_zero(embedder, music):
    samples = np.concatenate(
        [np.zeros(38_400, np.float32), music[:48_000]]
    )  # 2.4 s: two windows see less of the query
    found = embedder.query(samples)
    assert found.edge_windows[0].any(axis=1).tolist() == [False, False, True]
    assert found.edge_windows[1].any(axis=1).all()
    assert found.num_silent == 0


@pytest.mark.parametrize("num_samples", [20_000, 60_000])
def test_a_query_in_a_stream(embedder, music, num_samples):
    blocks = [music[first : first + 7_000] for first in range(0, num_samples, 7_000)]
    samples = np.concatenate(blocks)
    (found,) = embedder.stream(blocks)
    expected = embedder.query(samples)
    np.testing.assert_allclose(found.edge_windows, expected.edge_windows, atol=1e-5)
    parts = list(embedder.stream(blocks, windows_at_once=1))
    assert sum(len(part.vectors) for part in parts) == len(expected.vectors)
    for part in parts if len(parts) > 1 else []:
        assert part.edge_windows.shape[1] == 0


def test_parts_and_wholes(embedder, music):
    """Edge windows belong to the whole alone; joined, to its ends."""
    whole = embedder.query(music[: 48_000 + 9 * 4_800])
    assert whole.part(0, 10).edge_windows is whole.edge_windows
    assert whole.part(1, 10).edge_windows.shape[1] == whole.part(0, 9).edge_windows.shape[1] == 0
    cuts = [
        embedder.query(music[first * 4_800 : last]) for first, last in ((0, 62_400), (4, 91_200))
    ]
    both = joined(cuts)
    np.testing.assert_allclose(both.vectors, whole.vectors, atol=1e-5)
    np.testing.assert_allclose(both.edge_windows, whole.edge_windows, atol=1e-5)
    assert joined([cuts[0], cuts[1].part(0, 2)]).edge_windows.shape[1] == 0


def test_a_silent_short_clip(embedder):
    found = embedder.fingerprint(np.zeros(20_000, np.float32))
    assert len(found.vectors) == found.num_silent == 6


def test_short_clips_of_any_length_compile_nothing(embedder, music):
    for num_samples in (48_000, 50_000 + 4_800, 3 * 48_000):
        embedder.fingerprint(music[:num_samples])
    compiled = embed_power._cache_size()
    for num_samples in (*range(16_001, 48_000, 1_777), 52_800, 64_001, 80_000):
        embedder.fingerprint(music[:num_samples])
    assert embed_power._cache_size() == compiled


@pytest.mark.parametrize(
    ("num_samples", "num_faster"),
    [(47_000, 0), (48_000, 2), (56_639, 1), (56_640, 1), (71_999, 3), (72_000, 0)],
)
def test_a_query_that_tells_no_tempo_is_heard_faster_too(embedder, music, num_samples, num_faster):
    """Frames 151 samples apart instead of 128: 2.54 s of 3 s are in two windows, none of which
    is an edge window.
    """
    found = embedder.query(music[:num_samples])
    if not num_faster:
        assert found.sped_up is None
        return
    faster = found.sped_up
    assert (len(faster.vectors), faster.has_edge_windows, faster.sped_up) == (
        num_faster,
        False,
        None,
    )
    assert faster.duration_s == pytest.approx(
        min(num_samples / RATE / 1.18, 3 + 0.3 * (num_faster - 1))
    )
    assert found.part(0, len(found.vectors)).sped_up is faster and found.plain().sped_up is None
    if num_samples == 48_000:
        assert not found.tells_tempo and found.part(0, 0).sped_up is None


def test_what_is_heard_faster_are_frames_further_apart(embedder, music):
    mel = embedder.config.mel
    found = embedder.query(music[:56_640]).sped_up.vectors  # 3 s of 3.54 s
    power = np.stack(
        [mel_power(music[151 * i :][:1024], mel, sample_rate_hz=RATE)[0] for i in range(368)]
    )
    encoder = nnx.merge(
        encoder_graph(embedder.config),
        embedder.engine.state.params,
        embedder.engine.state.statistics,
    )
    np.testing.assert_allclose(
        found[0], np.asarray(encoder(log_mel(power[None], mel)))[0], atol=1e-4
    )


def test_silence_heard_faster_is_silence(embedder):
    found = embedder.query(np.zeros(48_000, np.float32))
    assert not found.vectors.any() and not found.sped_up.vectors.any()
