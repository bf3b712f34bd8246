"""The linear part of an encoder: one matrix on a segment's local contrast."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from confp_jax.config import EncoderConfig


class Projection(nnx.Module):
    """Local contrast of one segment, less its mean, times a matrix; zero until
    `training/fit_projection.py` has fitted it.
    """

    def __init__(self, config: EncoderConfig):
        num_values = config.projection.num_frames * config.projection.mel.num_mels
        self.kernel = nnx.Param(jnp.zeros((num_values, config.embedding_dim)))
        self.bias = nnx.Param(jnp.zeros(config.embedding_dim))

    def __call__(self, contrast: Float[Array, "B T F"]) -> Float[Array, "B E"]:
        """Returns vectors of any length, in float32.

        A kernel in bfloat16 is multiplied in it and summed in float32.
        """
        centred = contrast - contrast.mean(axis=(1, 2), keepdims=True)
        kernel = self.kernel[...]
        rows = centred.reshape(len(centred), -1).astype(kernel.dtype)
        return jnp.matmul(rows, kernel, preferred_element_type=jnp.float32) + self.bias[...]
