"""One conformer block in torchaudio's layout with FFN width = dim: 11 d^2 + 29 d parameters.

docs/research/paper.md, "conformer block", says why.
"""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from confp_jax.config import EncoderConfig
from confp_jax.model.dropout import Dropout

_EPSILON = 1e-5  # PyTorch's, of LayerNorm and BatchNorm


class Linear(nnx.Linear):
    """`nnx.Linear` on rows [N, D]: XLA folds the transpose of a matrix into a CPU's product, and
    copies one of [B, T, D].

    The gradient of the weights is such a product; the copies cost a tenth of a training step
    (benchmarks/train_step.py). With a kernel narrower than the inputs (`with_narrow_kernels`) they
    are multiplied in its type and summed in theirs.
    """

    def __call__(
        self, inputs: Float[Array, "... D"], out_sharding: Any = None
    ) -> Float[Array, "... E"]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        kernel = self.kernel[...]
        if kernel.dtype.itemsize < rows.dtype.itemsize:
            products = jnp.matmul(
                rows.astype(kernel.dtype), kernel, preferred_element_type=rows.dtype
            )
            found = products + cast(nnx.Param, self.bias)[...]
        else:
            found = super().__call__(rows, out_sharding)
        return found.reshape(*inputs.shape[:-1], -1)


def with_narrow_kernels(params: nnx.State) -> nnx.State:
    """Returns an encoder's weights with the kernels of every `Linear` in bfloat16, for inference;
    all others stay as they are.
    """
    flat = nnx.to_flat_state(params)
    narrow = [
        (path, leaf.replace(leaf[...].astype(jnp.bfloat16)) if path[-1] == "kernel" else leaf)
        for path, leaf in flat
    ]
    return nnx.from_flat_state(narrow)


class FeedForward(nnx.Module):
    """LayerNorm, Linear d->d, SiLU, dropout, Linear d->d, dropout; the block adds half of it."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(config.dim, epsilon=_EPSILON, rngs=rngs)
        self.inner = Linear(config.dim, config.dim, rngs=rngs)
        self.outer = Linear(config.dim, config.dim, rngs=rngs)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self, x: Float[Array, "B T D"], *, train: bool, key: jax.Array
    ) -> Float[Array, "B T D"]:
        first, second = jax.random.split(key)
        x = self.dropout(nnx.silu(self.inner(self.norm(x))), train=train, key=first)
        return self.dropout(self.outer(x), train=train, key=second)


class SelfAttention(nnx.Module):
    """LayerNorm and standard multi-head attention with biases, no positional term; Q, K and V are
    one product.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.norm = nnx.LayerNorm(config.dim, epsilon=_EPSILON, rngs=rngs)
        self.qkv = Linear(config.dim, 3 * config.dim, rngs=rngs)
        self.outer = Linear(config.dim, config.dim, rngs=rngs)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self, x: Float[Array, "B T D"], *, train: bool, key: jax.Array
    ) -> Float[Array, "B T D"]:
        batch, frames, dim = x.shape
        first, second = jax.random.split(key)
        qkv = self.qkv(self.norm(x)).reshape(
            batch, frames, 3, self.num_heads, dim // self.num_heads
        )
        query = qkv[:, :, 0]
        keys = qkv[:, :, 1]
        values = qkv[:, :, 2]
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * (1 / math.sqrt(dim // self.num_heads)), keys)
        # In float32 whatever the layers compute in: bfloat16 has 8 bits to sum 368 weights with.
        softmax = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(scores.dtype)
        weights = self.dropout(softmax, train=train, key=first)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(batch, frames, dim)
        return self.dropout(self.outer(mixed), train=train, key=second)


class Convolution(nnx.Module):
    """LayerNorm, pointwise d->2d, GLU, depthwise, BatchNorm (or LayerNorm), SiLU, pointwise d->d,
    dropout.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(config.dim, epsilon=_EPSILON, rngs=rngs)
        self.inner = Linear(config.dim, 2 * config.dim, rngs=rngs)
        bound = 1 / math.sqrt(config.conv_kernel)
        initial = jax.random.uniform(
            rngs.params(), (config.conv_kernel, config.dim), minval=-bound, maxval=bound
        )
        self.depthwise_kernel = nnx.Param(initial)
        self.depthwise_bias = nnx.Param(jnp.zeros(config.dim))
        self.has_layer_norm = config.conv_norm == "layer"
        if self.has_layer_norm:
            self.layer_norm = nnx.LayerNorm(config.dim, epsilon=_EPSILON, rngs=rngs)
        else:
            # PyTorch's momentum 0.1; the variance in one pass is accurate for values of order 1.
            self.batch_norm = nnx.BatchNorm(config.dim, momentum=0.9, epsilon=_EPSILON, rngs=rngs)
        self.outer = Linear(config.dim, config.dim, rngs=rngs)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self, x: Float[Array, "B T D"], *, train: bool, key: jax.Array, is_frozen: bool
    ) -> Float[Array, "B T D"]:
        value, gate = jnp.split(self.inner(self.norm(x)), 2, axis=-1)
        x = (
            depthwise(value * nnx.sigmoid(gate), self.depthwise_kernel[...])
            + self.depthwise_bias[...]
        )
        x = (
            self.layer_norm(x)
            if self.has_layer_norm
            else self.batch_norm(x, use_running_average=is_frozen or not train)
        )
        return self.dropout(self.outer(nnx.silu(x)), train=train, key=key)


class ConformerBlock(nnx.Module):
    """x + FFN/2, + attention, + convolution, + FFN/2, LayerNorm.

    `is_frozen`: BatchNorm takes its running statistics also when training, and leaves them as they
    are.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.feed_forward_1 = FeedForward(config, rngs=rngs)
        self.attention = SelfAttention(config, rngs=rngs)
        self.convolution = Convolution(config, rngs=rngs)
        self.feed_forward_2 = FeedForward(config, rngs=rngs)
        self.norm = nnx.LayerNorm(config.dim, epsilon=_EPSILON, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], *, train: bool, key: jax.Array, is_frozen: bool = False
    ) -> Float[Array, "B T D"]:
        keys = jax.random.split(key, 4)
        x = x + 0.5 * self.feed_forward_1(x, train=train, key=keys[0])
        x = x + self.attention(x, train=train, key=keys[1])
        x = x + self.convolution(x, train=train, key=keys[2], is_frozen=is_frozen)
        x = x + 0.5 * self.feed_forward_2(x, train=train, key=keys[3])
        return self.norm(x)


def depthwise(x: Float[Array, "B T D"], kernel: Float[Array, "K D"]) -> Float[Array, "B T D"]:
    """Depthwise convolution over time with zero padding, as K shifted products: XLA's grouped
    convolution crawls on a CPU.
    """
    width = kernel.shape[0]
    frames = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (width // 2, width // 2), (0, 0)))
    return (
        sum(padded[:, i : i + frames] * kernel[i] for i in range(1, width))
        + padded[:, :frames] * kernel[0]
    )
