"""The encoder: log-mel frames in, unit vectors out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from confp_jax.config import EncoderConfig
from confp_jax.model.conformer import ConformerBlock, Linear
from confp_jax.model.projection import Projection


class Encoder(nnx.Module):
    """Linear, conformer blocks, mean over time, Linear to the embedding, L2 (paper, Table 1).

    With `frames_per_token` > 1 that many frames are stacked before the first Linear (left-over
    frames at the end are not seen); with `pool_segments` > 1 the means of overlapping parts of the
    window are concatenated before the last one.

    An encoder with a `projection` has a linear part beside the conformer, or in its place; `mixed`
    adds what both give.
    """

    def __init__(self, config: EncoderConfig, *, num_mels: int, rngs: nnx.Rngs):
        if config.has_projection:
            self.projection = Projection(config)
        if not config.has_conformer:
            return
        self.frames_per_token = config.frames_per_token
        self.pool_segments = config.pool_segments
        self.input = Linear(num_mels * config.frames_per_token, config.dim, rngs=rngs)
        self.layers = nnx.List(
            [ConformerBlock(config, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.output = Linear(config.dim * config.pool_segments, config.embedding_dim, rngs=rngs)

    def __call__(
        self,
        frames: Float[Array, "B T F"],
        *,
        train: bool = False,
        key: jax.Array | None = None,
        rematerialise: bool = False,
        freeze_statistics: bool = False,
    ) -> Float[Array, "B E"]:
        """The conformer's unit vectors in float32. `train` uses the batch's statistics and needs a
        `key` for dropout.

        Layers compute in the type of `frames` and the weights. `rematerialise` keeps only each
        block's input for the backward pass and computes the rest again: a third more work for a
        fraction of the memory. With `freeze_statistics` BatchNorm takes the running statistics
        while training as well.
        """
        if train and key is None:
            raise ValueError("training needs a key for dropout")
        keys = jax.random.split(jax.random.key(0) if key is None else key, len(self.layers))
        batch, num_frames, num_mels = frames.shape
        tokens = num_frames // self.frames_per_token
        x = frames[:, : tokens * self.frames_per_token]
        # Split, then merge: one reshape for both loses the batch's sharding.
        x = x.reshape(batch, tokens, self.frames_per_token, num_mels).reshape(batch, tokens, -1)
        x = self.input(x)

        def run_block(
            block: ConformerBlock, x: Float[Array, "B T D"], key: jax.Array
        ) -> Float[Array, "B T D"]:
            return block(x, train=train, key=key, is_frozen=freeze_statistics)

        run_block = nnx.remat(run_block) if rematerialise else run_block
        for layer, layer_key in zip(self.layers, keys, strict=True):
            x = run_block(layer, x, layer_key)
        pooled = jnp.einsum(
            "pt,btd->bpd", pooling_weights(tokens, self.pool_segments), x.astype(jnp.float32)
        )
        return unit(self.output(pooled.reshape(batch, -1)).astype(jnp.float32))


@functools.lru_cache(maxsize=32)
def pooling_weights(num_tokens: int, num_segments: int) -> Float32[np.ndarray, "P T"]:
    """Row p takes the mean over the p-th of `num_segments` parts that overlap by half and cover the
    window; 1 is the mean.
    """
    length = max(1, round(2 * num_tokens / (num_segments + 1)))
    starts = np.round(np.linspace(0, num_tokens - length, num_segments)).astype(int)
    weights = np.zeros((num_segments, num_tokens), np.float32)
    for row, start in zip(weights, starts, strict=True):
        row[start : start + length] = 1 / length
    return weights


def unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """L2 normalisation; a zero vector stays zero and its gradient finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


def moved_phases(
    conformed: Float[np.ndarray, "N E"], num_phases: int
) -> Float32[np.ndarray, "P N E"]:
    """Returns what the conformer gives for N segments, and for those 1 / P, 2 / P, ... of a hop
    later, as unit vectors.

    It changes slowly: what lies between two segments is as good as an encoding of its own.
    """
    parts = (np.arange(num_phases) / num_phases)[:, None, None]
    following = np.concatenate([conformed[1:], conformed[-1:]])
    return _unit_rows((1 - parts) * conformed + parts * following).astype(np.float32)


def mixed(
    projected: Float[np.ndarray, "P N E"], conformed: Float[np.ndarray, "P N E"], *, share: float
) -> Float32[np.ndarray, "P N E"]:
    """Returns the fingerprints of an encoder with both parts: the unit vectors of both, added, of
    unit length.

    Args:
      projected: what the projection gives, of any length; zero where there is no segment, and so
        is the result.
      conformed: what the conformer gives.
      share: of the squared length that is the projection's, both parts being orthogonal.
    """
    total = np.sqrt(share) * _unit_rows(projected) + np.sqrt(1 - share) * _unit_rows(conformed)
    return (_unit_rows(total) * np.any(projected, axis=-1, keepdims=True)).astype(np.float32)


def _unit_rows(rows: Float[np.ndarray, "B E"]) -> Float[np.ndarray, "B E"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def forward_flops(config: EncoderConfig, *, num_frames: int, num_mels: int) -> float:
    """Floating-point operations of one segment's forward pass: the matrix products, two for each
    multiplication.
    """
    tokens, dim = num_frames // config.frames_per_token, config.dim
    block = 22 * tokens * dim**2 + 4 * tokens**2 * dim + 2 * tokens * config.conv_kernel * dim
    ends = tokens * num_mels * config.frames_per_token * dim + config.pool_segments * dim * (
        tokens + config.embedding_dim
    )
    return float(config.num_layers * block + 2 * ends)


def num_parameters(encoder: Encoder) -> int:
    """Trainable parameters: 1,510,272 / 8,802,432 / 26,214,272 for the paper's three."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(encoder, nnx.Param)))
