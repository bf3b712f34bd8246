"""Lossy codecs, there and back in memory: what a recording becomes on its way through a phone or a
stream. GSM full rate is libsndfile's, G.711 our own (`audio/g711.py`), the others FFmpeg's.

The codec's delay is taken out: the moment t stays at t. Encoder and decoder run on one thread
each, so that the bytes do not hang on the machine's number of cores.
"""

import dataclasses
import io
from collections.abc import Iterator
from typing import Literal, cast

import av
import numpy as np
import soundfile
from jaxtyping import Float32

from confp_jax.audio.decode import from_samples
from confp_jax.audio.g711 import RATE_HZ, through_g711

CodecName = Literal["mp3", "opus", "aac", "amr", "g723", "gsm", "mulaw", "alaw"]


@dataclasses.dataclass(frozen=True)
class _Codec:
    encoder: str
    decoder: str
    sample_format: str
    rates_hz: tuple[int, ...]
    # that the decoder leaves in; the stream states mp3's and opus's, and FFmpeg takes them out
    delay_samples: int
    kbps: float = 0.0  # the only bit rate that it has; 0: any


_CODECS = {
    "mp3": _Codec(
        "libmp3lame", "mp3float", "fltp", (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000), 0
    ),
    "opus": _Codec("libopus", "libopus", "s16", (8_000, 12_000, 16_000, 24_000, 48_000), 0),
    "aac": _Codec(
        "aac", "aac", "fltp", (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000), 1024
    ),
    # AMR narrowband, 4.75 to 12.2 kbit/s, and G.723.1 at 6.3: what mobile and internet telephones
    # send. Their delay is how far their predictors look ahead.
    "amr": _Codec("libopencore_amrnb", "libopencore_amrnb", "s16", (RATE_HZ,), 40),
    "g723": _Codec("g723_1", "g723_1", "s16", (RATE_HZ,), 60, kbps=6.3),
}
_FLUSH_FRAMES = 6  # of silence after the end, so that the last sample comes out of every codec


def through_codec(
    samples: Float32[np.ndarray, " n"],
    *,
    sample_rate_hz: int,
    codec: CodecName,
    bitrate_kbps: float,
) -> Float32[np.ndarray, " n"]:
    """Returns the samples as the codec leaves them at this bit rate: as many as went in, each at
    its place. Samples beyond 1 are cut off.

    Bit rates that a codec does not know are taken to the nearest that it does. Those of a telephone
    leave nothing above 4 kHz.
    """
    if codec in ("gsm", "mulaw", "alaw"):
        pcm = _pcm(samples, sample_rate_hz, RATE_HZ)
        heard = _through_gsm(pcm) if codec == "gsm" else through_g711(pcm, codec)
        heard_hz = RATE_HZ
    else:
        heard, heard_hz = _through_ffmpeg(samples, sample_rate_hz, _CODECS[codec], bitrate_kbps)
    heard = from_samples(heard, from_hz=heard_hz, to_hz=sample_rate_hz)[: len(samples)]
    return np.pad(heard, (0, len(samples) - len(heard)))


def _pcm(
    samples: Float32[np.ndarray, " n"], sample_rate_hz: int, rate_hz: int
) -> Float32[np.ndarray, " m"]:
    return np.clip(from_samples(samples, from_hz=sample_rate_hz, to_hz=rate_hz), -1.0, 1.0)


def _through_gsm(pcm: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """GSM 06.10 full rate, 13.2 kbit/s."""
    file = io.BytesIO()
    soundfile.write(file, pcm, RATE_HZ, format="WAV", subtype="GSM610")
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def _through_ffmpeg(
    samples: Float32[np.ndarray, " n"], sample_rate_hz: int, described: _Codec, kbps: float
) -> tuple[Float32[np.ndarray, " m"], int]:
    """Returns what comes out of one of FFmpeg's codecs, and its sample rate."""
    rate_hz = next(
        (rate for rate in described.rates_hz if rate >= sample_rate_hz), described.rates_hz[-1]
    )
    encoder = cast(av.AudioCodecContext, av.CodecContext.create(described.encoder, "w"))
    encoder.sample_rate = rate_hz
    encoder.layout = "mono"
    encoder.format = described.sample_format
    encoder.bit_rate = round((described.kbps or kbps) * 1000)
    encoder.thread_count = 1
    encoder.open()
    frames = _frames(_pcm(samples, sample_rate_hz, rate_hz), encoder)
    packets = [packet for frame in frames for packet in encoder.encode(frame)]
    packets += encoder.encode(None)
    decoder = cast(av.AudioCodecContext, av.CodecContext.create(described.decoder, "r"))
    decoder.sample_rate = rate_hz
    decoder.layout = "mono"
    decoder.thread_count = 1
    decoder.extradata = encoder.extradata
    decoder.open()
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    heard = np.concatenate([frame.to_ndarray().reshape(-1) for frame in decoded])
    if heard.dtype == np.int16:
        heard = heard.astype(np.float32) / 32768
    return heard[described.delay_samples :], decoded[0].sample_rate


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
        frame.sample_rate = encoder.sample_rate
        frame.pts = start
        yield frame
