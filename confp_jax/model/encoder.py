"""The encoder: log-mel frames in, unit vectors out."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from confp_jax.config import EncoderConfig
from confp_jax.model.conformer import ConformerBlock, Linear
from confp_jax.model.parts import pooling_weights
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
        """Returns the conformer's unit vectors in float32. `train` uses the batch's statistics and
        needs a `key` for dropout.

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


def unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """L2 normalisation; a zero vector stays zero and its gradient finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


def forward_flops(config: EncoderConfig, *, num_frames: int, num_mels: int) -> float:
    """Floating-point operations of one segment's forward pass: the matrix products, two for each
    multiplication.
    """
    tokens = num_frames // config.frames_per_token
    dim = config.dim
    block = 22 * tokens * dim**2 + 4 * tokens**2 * dim + 2 * tokens * config.conv_kernel * dim
    ends = tokens * num_mels * config.frames_per_token * dim + config.pool_segments * dim * (
        tokens + config.embedding_dim
    )
    return float(config.num_layers * block + 2 * ends)


def num_parameters(encoder: Encoder) -> int:
    """Trainable parameters: 1,510,272 / 8,802,432 / 26,214,272 for the paper's three."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(encoder, nnx.Param)))
