"""A clip that grows: its fingerprints are those of all that has been heard, though little of it is
encoded again.
"""

import asyncio
import types

import numpy as np
import pytest
from flax import nnx

from confp_jax.config import AudioConfig, EncoderConfig, MelConfig, ModelConfig, ProjectionConfig
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.model.encoder import Encoder
from confp_jax.model.weights import EncoderState
from confp_jax.service.listen import _Clip

RATE_HZ = 16_000
MEL = MelConfig(fft_samples=512, hop_samples=480, num_mels=10, fmin_hz=300, fmax_hz=6500)


def an_embedder(context_s: float, share: float) -> Embedder:
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
        audio=AudioConfig(RATE_HZ, 0.9, context_s), mel=MelConfig(hop_samples=256), encoder=encoder
    )
    _, params, statistics = nnx.split(
        Encoder(encoder, num_mels=80, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    values = dict(nnx.to_flat_state(params))
    kernel = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    values["projection", "kernel"] = values["projection", "kernel"].replace(kernel)
    return Embedder(
        "test", config, EncoderState(nnx.from_flat_state(list(values.items())), statistics)
    )


@pytest.mark.parametrize(("context_s", "share"), [(0.0, 1.0), (2.1, 0.7)])
def test_windows_of_a_growing_clip(context_s, share):
    embedder, encoded = an_embedder(context_s, share), []

    async def fingerprint(samples):
        encoded.append(len(samples))
        return embedder.fingerprint(samples, is_query=True)

    searcher = types.SimpleNamespace(
        embedder=embedder, reference=types.SimpleNamespace(hop_s=0.3, segment_s=0.9)
    )
    view = types.SimpleNamespace(searcher=searcher)
    clip = _Clip(
        types.SimpleNamespace(sample_rate_hz=RATE_HZ, view=view, fingerprint=fingerprint), None
    )
    rng = np.random.default_rng(1)
    samples = (
        rng.standard_normal(9 * RATE_HZ) * np.repeat(rng.uniform(0, 0.3, 90), RATE_HZ // 10)
    ).astype(np.float32)
    for first in range(0, len(samples), RATE_HZ):
        clip.push(samples[first : first + RATE_HZ])
        found = asyncio.run(clip._windows())
        whole = embedder.fingerprint(samples[: first + RATE_HZ], is_query=True)
        assert found.vectors.shape == whole.vectors.shape
        np.testing.assert_allclose(found.vectors, whole.vectors, atol=5e-3)
        np.testing.assert_allclose(found.between, whole.between, atol=5e-3)
    assert max(encoded) < 5 * RATE_HZ, "what will not change is not encoded again"
