"""A clip that grows: its fingerprints are those of all that has been heard, though little of it is
encoded again.
"""

import numpy as np
import pytest
from flax import nnx

from confp_jax.audio.decode import decode
from confp_jax.config import AudioConfig, EncoderConfig, MelConfig, ModelConfig, ProjectionConfig
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.fingerprint.jax_engine import JaxEngine
from confp_jax.library.listening import (
    ANSWER_BUDGET,
    LONGEST_S,
    PACES,
    GrowingClip,
    identify_growing,
)
from confp_jax.library.searcher import ReferenceSearcher
from confp_jax.matching.decision import Decision
from confp_jax.matching.searchable import make_reference
from confp_jax.model.encoder import Encoder
from confp_jax.model.weights import EncoderState

RATE_HZ = 16_000
MEL = MelConfig(fft_samples=512, hop_samples=480, num_mels=10, fmin_hz=300, fmax_hz=6500)


def an_embedder(context_s: float, share: float, segment_s: float = 0.9) -> Embedder:
    projection = ProjectionConfig(share=share, mel=MEL)
    encoder = EncoderConfig(
        dim=16,
        num_layers=1,
        num_heads=4,
        embedding_dim=16,
        conv_norm="layer",
        frames_per_token=4,
        projection=projection,
    )
    config = ModelConfig(
        audio=AudioConfig(RATE_HZ, segment_s, context_s),
        mel=MelConfig(hop_samples=256),
        encoder=encoder,
    )
    _, params, statistics = nnx.split(
        Encoder(encoder, num_mels=80, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    values = dict(nnx.to_flat_state(params))
    if share:
        kernel = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
        values["projection", "kernel"] = values["projection", "kernel"].replace(kernel)
    state = EncoderState(nnx.from_flat_state(list(values.items())), statistics)
    return Embedder("test", JaxEngine(config, state))


@pytest.mark.parametrize(("context_s", "share"), [(0.0, 1.0), (2.1, 0.7)])
def test_windows_of_a_growing_clip(context_s, share):
    embedder = an_embedder(context_s, share)
    encoded = []
    clip = GrowingClip(embedder)
    rng = np.random.default_rng(1)
    samples = (
        rng.standard_normal(9 * RATE_HZ) * np.repeat(rng.uniform(0, 0.3, 90), RATE_HZ // 10)
    ).astype(np.float32)
    for first in range(0, len(samples), RATE_HZ):
        clip.push(samples[first : first + RATE_HZ])
        new = clip.unfingerprinted()
        if new is not None:
            encoded.append(len(new))
            clip.settle(embedder.query(new))
        found = clip.query
        whole = embedder.query(samples[: first + RATE_HZ])
        assert found.vectors.shape == whole.vectors.shape
        np.testing.assert_allclose(found.vectors, whole.vectors, atol=5e-3)
        np.testing.assert_allclose(found.between, whole.between, atol=5e-3)
    assert max(encoded) < 5 * RATE_HZ, "what will not change is not encoded again"


@pytest.mark.parametrize("profile", ["music", "calls"])
def test_the_looks_and_the_answer_keep_the_rate_of_false_alarms(profile):
    pace = PACES[profile]
    num_looks = len(np.arange(pace.first_s, LONGEST_S + 0.001, pace.every_s))
    assert num_looks * pace.look_budget + ANSWER_BUDGET == pytest.approx(1)


@pytest.mark.parametrize(
    ("context_s", "share", "segment_s"), [(2.1, 0.7, 0.9), (0.0, 0.7, 0.9), (0.0, 0.0, 2.4)]
)
def test_a_call_is_looked_at_twice_a_second(context_s, share, segment_s):
    embedder = an_embedder(context_s, share, segment_s)
    clip = GrowingClip(embedder, pace=PACES["calls"])
    samples = np.random.default_rng(2).normal(0, 0.1, 3 * RATE_HZ).astype(np.float32)
    looked_s = []
    for block in np.array_split(samples, 30):
        clip.push(block)
        if clip.is_due:
            clip.looked()
            looked_s.append(clip.heard_s)
            clip.settle(embedder.query(clip.unfingerprinted()))
            whole = embedder.query(clip.samples)
            np.testing.assert_allclose(clip.query.vectors, whole.vectors, atol=5e-3)
    assert looked_s == pytest.approx([1.5, 2.0, 2.5, 3.0])


def halves(samples: np.ndarray) -> list[np.ndarray]:
    """Blocks of half a second, as the microphone gives them."""
    return [samples[i : i + RATE_HZ // 2] for i in range(0, len(samples), RATE_HZ // 2)]


def heard_again(searcher: ReferenceSearcher, blocks, **options) -> list[tuple[float, str, int]]:
    """Seconds heard, first track and how many are accepted, of every look."""
    looks = identify_growing(searcher, blocks, query="microphone", **options)
    return [
        (heard_s, *(found.track for found in answer.matches[:1]), answer.num_accepted)
        for heard_s, answer in looks
    ]


@pytest.fixture
def searching(embedder, files):
    """Makes a searcher of five tracks that is as sure of every match as it is told."""
    parts = [
        (file.stem, embedder.fingerprint(decode(file, sample_rate_hz=RATE_HZ).samples).vectors)
        for file in files
    ]
    reference = make_reference(parts, hop_s=0.3, segment_s=3.0)

    def make(logit: float) -> ReferenceSearcher:
        weights = np.array([logit, 0.0, 0.0, 0.0])
        tails = np.array([0.0, 1.0])
        cells = (2, 1, 1, 1)
        decision = Decision((3.0,), (1,), np.tile(weights, cells), np.tile(tails, cells))
        return ReferenceSearcher(reference, embedder, decision)

    return make


@pytest.fixture
def clip(files) -> np.ndarray:
    return decode(files[1], sample_rate_hz=RATE_HZ).samples


def test_a_sure_look_ends_it(searching, clip):
    blocks = iter(halves(clip))
    assert heard_again(searching(logit=20.0), blocks) == [(3.0, "1", 1)]
    assert len(list(blocks)) == 4, "what came after it was not waited for"


def test_an_unsure_clip_is_heard_to_its_end(searching, clip):
    looks = heard_again(searching(logit=-20.0), halves(clip), longest_s=4.5)
    assert looks == [(3.0, "1", 0), (4.0, "1", 0), (4.5, "1", 0)]


def test_silence_is_waited_for(searching, clip):
    quiet = np.zeros(3 * RATE_HZ, np.float32)
    looks = heard_again(searching(logit=20.0), halves(np.concatenate([quiet, clip])))
    assert looks[0] == (3.0, 0)
    assert looks[-1][2] == 1


def test_nothing_but_silence(searching):
    with pytest.raises(AudioError, match="silent"):
        heard_again(searching(logit=20.0), halves(np.zeros(4 * RATE_HZ, np.float32)))


def test_a_clip_that_ends_at_once(searching, clip):
    looks = heard_again(searching(logit=20.0), halves(clip[: 2 * RATE_HZ]))
    assert [(heard_s, num) for heard_s, _, num in looks] == [(2.0, 1)]
    with pytest.raises(AudioError):
        heard_again(searching(logit=20.0), [])
