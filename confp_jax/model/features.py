"""Stabilized log-mel (paper, section 3) in JAX.

The filterbank is `audio.mel`'s, so host and device agree.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from confp_jax.audio.mel import hann_window, mel_filterbank
from confp_jax.config import MelConfig

_TINY = 1e-20  # keeps digital silence finite


def mel_power(
    samples: Float[Array, "B n"],
    config: MelConfig,
    *,
    sample_rate_hz: int,
    filters: Float[Array, "B bins F"] | None = None,
) -> Float[Array, "B T F"]:
    """Returns mel power of the frames that lie wholly inside the samples; equal to
    `audio.mel.mel_power`.

    With `filters` each example has a filterbank of its own (`mel_filterbank` of some pitch).

    Frames are cut as shifted reshapes, not by a gather: TPUs gather slowly.
    """
    num_frames = config.num_frames(samples.shape[-1])
    hops_per_frame = config.fft_samples // config.hop_samples
    used = (num_frames + hops_per_frame - 1) * config.hop_samples
    hops = samples[:, :used].reshape(samples.shape[0], -1, config.hop_samples)
    frames = jnp.concatenate([hops[:, i : i + num_frames] for i in range(hops_per_frame)], axis=-1)
    spectrum = jnp.fft.rfft(frames * hann_window(config.fft_samples))
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # In float32 everywhere: TPUs would round the power to bfloat16, GPUs to TF32, and the host's
    # features would not be theirs.
    filterbank = mel_filterbank(config, sample_rate_hz) if filters is None else filters
    return jnp.matmul(power, filterbank, precision=jax.lax.Precision.HIGHEST)


def log_mel(
    power: Float[Array, "B T F"], config: MelConfig, seen: Int[Array, "B 2"] | None = None
) -> Float[Array, "B T F"]:
    """log(power + floor), then each example to mean 0 and variance 1.

    `seen` is where each example's first frame lies that is looked at, and where the first one
    behind them does; all others are 0, the mean. So a part of a window is encoded, each of its
    frames where it is in the whole.

    The power is first divided by the example's mean: the floor then lies as deep below a quiet
    recording as below a loud one, so that gain does not matter at all.
    """
    is_seen = None
    if seen is not None:
        place = jnp.arange(power.shape[1])
        is_seen = ((place >= seen[:, :1]) & (place < seen[:, 1:]))[:, :, None]
    mean = functools.partial(jnp.mean, axis=(1, 2), keepdims=True, where=is_seen)
    logarithm = jnp.log(power / jnp.maximum(mean(power), _TINY) + config.floor)
    centred = logarithm - mean(logarithm)
    standard = centred * jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-5)
    return standard if is_seen is None else jnp.where(is_seen, standard, 0.0)
