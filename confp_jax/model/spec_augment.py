"""SpecAugment (Park et al. 2019): masks over mels and frames, without time warping.

"Crucial" in the paper.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from confp_jax.config import SpecAugmentConfig


def spec_augment(
    log_mel: Float[Array, "B T F"],
    key: jax.Array,
    config: SpecAugmentConfig,
    *,
    strength: float = 1.0,
) -> Float[Array, "B T F"]:
    """Sets random bands of mels and of frames to 0, the mean of a standardised log-mel.

    Every example draws its own masks; a mask's width is uniform in 0..`max_mels` (`max_frames`)
    times `strength`.
    """
    batch, frames, mels = log_mel.shape
    frequency_key, time_key = jax.random.split(key)
    mels_hit = _masks(
        frequency_key, batch, config.num_frequency_masks, int(config.max_mels * strength), mels
    )
    frames_hit = _masks(
        time_key, batch, config.num_time_masks, int(config.max_frames * strength), frames
    )
    return jnp.where(frames_hit[:, :, None] | mels_hit[:, None, :], 0.0, log_mel)


def _masks(
    key: jax.Array, batch: int, num: int, max_width: int, size: int
) -> Bool[Array, "B size"]:
    """Returns the union of `num` random intervals of each row."""
    width_key, start_key = jax.random.split(key)
    width = jax.random.randint(width_key, (batch, num, 1), 0, min(max_width, size) + 1)
    start = jnp.floor(jax.random.uniform(start_key, (batch, num, 1)) * (size - width + 1)).astype(
        jnp.int32
    )
    place = jnp.arange(size)
    return jnp.any((place >= start) & (place < start + width), axis=1)
