"""Lossy codecs by FFmpeg, there and back in memory: what a recording becomes on its way through a
phone or a stream.

The codec's delay is taken out: the moment t stays at t. Encoder and decoder run on one thread
each, so that the bytes do not hang on the machine's number of cores.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal, cast

import av
import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import from_samples

CodecName = Literal["mp3", "opus", "aac"]


@dataclasses.dataclass(frozen=True)
class _Codec:
    encoder: str
    decoder: str
    sample_format: str
    rates_hz: tuple[int, ...]
    # that the decoder leaves in; mp3's and opus's are told in the stream, and FFmpeg takes them out
    delay_samples: int


_CODECS = {
    "mp3": _Codec(
        "libmp3lame", "mp3float", "fltp", (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000), 0
    ),
    "opus": _Codec("libopus", "libopus", "s16", (8_000, 12_000, 16_000, 24_000, 48_000), 0),
    "aac": _Codec(
        "aac", "aac", "fltp", (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000), 1024
    ),
}
_FLUSH_FRAMES = 6  # of silence after the end, so that the last sample comes out of every codec


def through_codec(
    samples: Float32[np.ndarray, " n"],
    *,
    sample_rate_hz: int,
    codec: CodecName,
    bitrate_kbps: float,
) -> Float32[np.ndarray, " n"]:
    """The samples as the codec leaves them at this bit rate; as many as went in, each at its
    place. Louder than 1 is cut off.

    Bit rates that a codec does not know are taken to the nearest that it does.
    """
    described = _CODECS[codec]
    rate_hz = next(
        (rate for rate in described.rates_hz if rate >= sample_rate_hz), described.rates_hz[-1]
    )
    pcm = np.clip(from_samples(samples, from_hz=sample_rate_hz, to_hz=rate_hz), -1.0, 1.0)
    encoder = cast(av.AudioCodecContext, av.CodecContext.create(described.encoder, "w"))
    encoder.sample_rate, encoder.layout, encoder.format = rate_hz, "mono", described.sample_format
    encoder.bit_rate, encoder.thread_count = round(bitrate_kbps * 1000), 1
    encoder.open()
    packets = [packet for frame in _frames(pcm, encoder) for packet in encoder.encode(frame)]
    packets += encoder.encode(None)
    decoder = cast(av.AudioCodecContext, av.CodecContext.create(described.decoder, "r"))
    decoder.sample_rate, decoder.layout, decoder.thread_count = rate_hz, "mono", 1
    decoder.extradata = encoder.extradata
    decoder.open()
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    heard = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    if heard.dtype == np.int16:
        heard = heard.astype(np.float32) / 32768
    heard = from_samples(
        heard[described.delay_samples :], from_hz=frames[0].sample_rate, to_hz=sample_rate_hz
    )
    return heard[: len(samples)]


def _frames(
    pcm: Float32[np.ndarray, " n"], encoder: av.AudioCodecContext
) -> Iterator[av.AudioFrame]:
    size = encoder.frame_size
    pcm = np.concatenate([pcm, np.zeros(-len(pcm) % size + _FLUSH_FRAMES * size, np.float32)])
    if encoder.format.name == "s16":
        pcm = np.round(pcm * 32767).astype(np.int16)
    for start in range(0, len(pcm), size):
        frame = av.AudioFrame.from_ndarray(
            pcm[None, start : start + size], format=encoder.format.name, layout="mono"
        )
        frame.sample_rate, frame.pts = encoder.sample_rate, start
        yield frame
