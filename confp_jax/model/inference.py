"""The encoder as it is used: fingerprints of samples, mel power or local contrast."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from confp_jax.config import ModelConfig
from confp_jax.model.encoder import Encoder
from confp_jax.model.features import log_mel, mel_power


@functools.lru_cache(maxsize=8)
def encoder_graph(config: ModelConfig) -> nnx.GraphDef:
    """Returns the encoder's structure without its arrays."""
    return nnx.split(nnx.eval_shape(functools.partial(build_encoder, config)), nnx.Param, ...)[0]


@functools.partial(jax.jit, static_argnames=("config",))
def embed(
    params: nnx.State,
    statistics: nnx.State,
    values: Array,
    seen: Int[Array, "B 2"] | None = None,
    *,
    config: ModelConfig,
) -> Float[Array, "B E"]:
    """Returns the fingerprints of samples [B, n] or mel power [B, T, F], by the running statistics
    and without dropout.

    `seen`: the first frame with audio, and the first one after it without; None: all have audio.
    """
    encoder = nnx.merge(encoder_graph(config), params, statistics)
    return encoder(batch_features(values, config, seen))


@functools.partial(jax.jit, static_argnames=("config",))
def project(
    params: nnx.State,
    statistics: nnx.State,
    contrast: Float[Array, "B T F"],
    *,
    config: ModelConfig,
) -> Float[Array, "B E"]:
    """Returns what the projection gives for segments of local contrast; vectors of any length."""
    return nnx.merge(encoder_graph(config), params, statistics).projection(contrast)


def batch_features(
    values: Array, config: ModelConfig, seen: Int[Array, "B 2"] | None = None
) -> Float[Array, "B T F"]:
    """Returns log-mel features of samples [B, n] int16 or mel power [B, T, F], of the frames
    `seen`.
    """
    if values.ndim == 2:
        samples = values.astype(jnp.float32) / 32768
        values = mel_power(samples, config.mel, sample_rate_hz=config.audio.sample_rate_hz)
    return log_mel(values, config.mel, seen)


def build_encoder(config: ModelConfig, *, seed: int = 0) -> Encoder:
    """Returns a new encoder, its arrays drawn from `seed`."""
    return Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(seed))
