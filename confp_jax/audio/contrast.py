"""Local contrast of a log-mel spectrogram: what stays recognisable through a loudspeaker, a room
and a microphone.
"""

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.mel import mel_power
from confp_jax.config import ContrastConfig, MelConfig, ProjectionConfig

_TINY = 1e-20  # keeps digital silence finite


def local_contrast(
    power: Float32[np.ndarray, "T F"], mel: MelConfig, config: ContrastConfig
) -> Float32[np.ndarray, "T F"]:
    """Returns how far each point stands out from its surroundings; peaks count most.

    The logarithm of the power, less its mean over a box around the point, is divided by its
    deviation over the box and capped; the feature is exp(sharpness * that). Loudness, slow changes
    and the colour of a loudspeaker cancel. At the edges a box is the part of it that is there, so
    the values of one frame depend on three boxes' length of frames around it and on nothing else.

    Args:
      power: mel power; `mel.floor` times its mean over the box and all mels is added before the
        logarithm.
      mel: the spectrogram's configuration.
      config: the box, and how peaks are stressed.
    """
    if not len(power):
        return np.zeros(power.shape, np.float32)
    box = (config.box_frames, config.box_mels)
    floor = mel.floor * _box_mean(power.mean(axis=1, keepdims=True), (config.box_frames, 1)) + _TINY
    logarithm = np.log(power + floor)
    deviation = logarithm - _box_mean(logarithm, box)
    variance = _box_mean(np.square(deviation), box)
    contrast = deviation / np.sqrt(variance + config.least_variance)
    return np.exp(config.sharpness * np.minimum(contrast, config.highest)).astype(np.float32)


def clip_contrast(
    samples: Float32[np.ndarray, " n"],
    config: ProjectionConfig,
    *,
    sample_rate_hz: int,
    tempo: float = 1.0,
) -> Float32[np.ndarray, "T F"]:
    """Returns the local contrast of a clip, a frame in the middle of every whole hop; beyond its
    ends there is silence.

    With `tempo` 1.1 the frames lie a tenth further apart, so that the sound appears a tenth faster.
    """
    hop = round(tempo * config.mel.hop_samples)
    size = config.mel.fft_samples
    before = (size - hop) // 2  # below 0 where frames do not touch each other
    num_frames = int(len(samples) / tempo) // config.mel.hop_samples
    after = max(0, (num_frames - 1) * hop + size - before - len(samples))
    padded = np.pad(samples, (max(before, 0), after))
    power = mel_power(
        padded,
        config.mel,
        sample_rate_hz=sample_rate_hz,
        offset_samples=max(-before, 0),
        tempo=tempo,
    )
    return local_contrast(power[:num_frames], config.mel, config.contrast)


def _box_mean(
    values: Float32[np.ndarray, "T F"], box: tuple[int, int]
) -> Float32[np.ndarray, "T F"]:
    """Returns the mean over the box around each point, of what there is of the box (by running
    sums).
    """
    mean = values
    for axis, size in enumerate(box):
        if size > 1:
            mean = _running_mean(mean, size, axis)
    return mean


def _running_mean(
    values: Float32[np.ndarray, "T F"], size: int, axis: int
) -> Float32[np.ndarray, "T F"]:
    """The mean of `size` neighbours along an axis, of those there are. (SciPy's filter does the
    same; its import takes a fifth of a second.)
    """
    length = values.shape[axis]
    sums = np.zeros((length + 1, values.shape[1 - axis]))
    np.cumsum(values if axis == 0 else values.T, axis=0, dtype=np.float64, out=sums[1:])
    first = np.maximum(np.arange(length) - size // 2, 0)
    last = np.minimum(np.arange(length) + (size + 1) // 2, length)
    mean = ((sums[last] - sums[first]) / (last - first)[:, None]).astype(np.float32)
    return mean if axis == 0 else mean.T
