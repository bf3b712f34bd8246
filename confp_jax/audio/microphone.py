"""The machine's microphone: the only place that imports sounddevice."""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError

MICROPHONE = "microphone"  # what names it among files and addresses
_BLOCK_S = 0.5


def microphone_blocks(
    *, sample_rate_hz: int, device: str | None = None
) -> Iterator[Float32[np.ndarray, " n"]]:
    """Yields what an input device hears, as mono blocks of half a second, without end.

    Args:
      sample_rate_hz: the rate of the blocks.
      device: a part of the device's name, or its number; None is the default one.

    Raises:
      DecodeError: the package or its PortAudio library is missing, or there is no microphone.
    """
    try:
        import sounddevice
    except (
        ImportError,
        OSError,
    ) as error:  # OSError: the package is there, the PortAudio library is not
        remedy = (
            "install confp_jax's extra `listen` (and PortAudio, on Debian: apt install "
            "libportaudio2)"
        )
        raise DecodeError(f"the microphone cannot be used ({error})", remedy) from error
    heard: queue.Queue[np.ndarray] = queue.Queue()

    def keep(samples: np.ndarray, *_: Any) -> None:
        heard.put(samples[:, 0].copy())

    block = round(_BLOCK_S * sample_rate_hz)
    wanted = int(device) if device and device.isdecimal() else device
    try:
        with sounddevice.InputStream(
            samplerate=sample_rate_hz, channels=1, blocksize=block, callback=keep, device=wanted
        ):
            while True:
                yield heard.get()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise DecodeError(
            f"the microphone cannot be used ({error})", "connect one, or identify a file instead"
        ) from error
