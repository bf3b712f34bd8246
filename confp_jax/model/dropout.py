"""Dropout that costs what its product with the mask costs."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt32


class Dropout(nnx.Module):
    """Zeroes a random share `rate` of the values and scales the rest so that the mean stays.

    `nnx.Dropout` draws from JAX's generator, a quarter of the small model's training step on a
    CPU; a hash of each value's place is computed in the pass over memory that applies it, for
    nothing (benchmarks/train_step.py).
    """

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(
        self, x: Float[Array, "... D"], *, train: bool, key: PRNGKeyArray
    ) -> Float[Array, "... D"]:
        if not train or self.rate == 0:
            return x
        kept = 1 - self.rate
        words = hashed_words(key, x.shape, sharding=jax.typeof(x).sharding)
        return jnp.where(
            words < jnp.uint32(min(round(kept * 2**32), 2**32 - 1)), x * (1 / kept), 0.0
        )


def hashed_words(
    key: PRNGKeyArray, shape: tuple[int, ...], *, sharding: jax.sharding.Sharding | None = None
) -> UInt32[Array, "..."]:
    """Returns a word for every place: its number, twice mixed with a word of the key. The same on
    any number of devices.

    Good enough to choose what is dropped, not for cryptography; numbers repeat after 2^32 places.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    strides = [math.prod(shape[axis + 1 :]) % 2**32 for axis in range(len(shape))]
    places = [
        jax.lax.broadcasted_iota(jnp.uint32, shape, axis, out_sharding=sharding)
        for axis in range(len(shape))
    ]
    number = sum(place * jnp.uint32(stride) for place, stride in zip(places, strides, strict=True))
    return _mixed(_mixed(number ^ first) ^ second)


def _mixed(word: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns a bijection of 32 bits in which every bit depends on all others ("lowbias32":
    Wellons, Hash Prospector, 2018).
    """
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
