"""What a telephone network makes of a recording: a narrow band, a codec or two, lost packets, and
what else is on the line.

What is drawn is a `TelephoneDraw` of numbers; `telephone` makes the sound of it. Nothing is late:
the codecs' delays are taken out, and lost packets keep their place.
"""

import dataclasses
import math
from typing import NamedTuple, get_args

import numpy as np
import scipy.signal
from jaxtyping import Float32

from confp_jax.audio.decode import from_samples
from confp_jax.audio.encode import CodecName, through_codec
from confp_jax.audio.g711 import RATE_HZ
from confp_jax.typed_config import ConfigError

_PACKET_S = 0.02
_CONCEALED_S = 0.06  # a loss longer than this ends in silence
_PITCH_S = (0.0025, 0.015)  # of a voice: what is repeated where a packet is lost
_TOUCH_TONES_HZ = ((697, 770, 852, 941), (1209, 1336, 1477, 1633))
_TOUCH_S = 0.12
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class TelephoneConfig:
    """A call over a telephone network (`data/telephone.py`); probabilities, and ranges to draw
    from.
    """

    codecs: tuple[str, ...] = ("mulaw", "alaw", "gsm", "amr", "g723", "opus")  # one is drawn
    kbps: tuple[float, float] = (4.75, 12.2)  # of AMR and Opus; the others have one bit rate
    second_codec_p: float = 0.3  # of a second one, as between two networks
    low_hz: tuple[float, float] = (200.0, 350.0)  # of the band, 300 to 3,400 Hz by the book
    high_hz: tuple[float, float] = (3_200.0, 3_600.0)  # where the band ends
    loss_p: float = 0.5  # of a line that loses packets
    loss_share: tuple[float, float] = (0.01, 0.05)  # of its packets of 20 ms
    concealed_p: float = (
        0.5  # of a receiver that repeats what it heard last, where others are still
    )
    noise_p: float = 0.7  # of noise on the line, comfort noise too
    noise_snr_db: tuple[float, float] = (10.0, 35.0)  # signal to noise
    clipping_p: float = 0.2  # of a line that clips
    clipping_db: tuple[float, float] = (3.0, 12.0)  # by which the peaks are too loud
    touch_tone_p: float = 0.1  # of keys pressed during the call (DTMF)
    sidetone_p: float = 0.1  # of an echo of the line's own sound
    sidetone_db: tuple[float, float] = (-30.0, -12.0)  # of the echo, below the sound

    def __post_init__(self) -> None:
        unknown = sorted(set(self.codecs) - set(get_args(CodecName)))
        if unknown or not self.codecs:
            raise ConfigError(
                f"telephone.codecs={self.codecs}: expected one or more of "
                f"{', '.join(get_args(CodecName))}"
            )
        for name, value in vars(self).items():
            if name.endswith("_p") and not 0 <= value <= 1:
                raise ConfigError(f"telephone.{name}={value} must lie in [0, 1]")
            if name != "codecs" and isinstance(value, tuple) and not value[0] <= value[1]:
                raise ConfigError(
                    f"telephone.{name}={value}: expected (low, high) with low <= high"
                )


class TelephoneDraw(NamedTuple):
    """What is drawn for one call."""

    seed: int  # of the noise, the losses and the keys
    codecs: tuple[CodecName, ...]
    kbps: tuple[float, ...]  # of each
    low_hz: float
    high_hz: float
    loss_share: float
    is_concealed: bool
    noise_snr_db: float  # infinite: none
    clipping_db: float  # 0: none
    num_touch_tones: int
    sidetone_db: float  # minus infinite: none
    sidetone_s: float


def draw_telephone(rng: np.random.Generator, config: TelephoneConfig) -> TelephoneDraw:
    """Draws what one call goes through."""
    num = 1 + int(rng.random() < config.second_codec_p)
    codecs = tuple(str(name) for name in rng.choice(config.codecs, size=num))
    kbps = tuple(rng.uniform(*config.kbps) for _ in codecs)
    loses, is_noisy, is_clipped, has_keys, has_echo = rng.random(5) < (
        config.loss_p,
        config.noise_p,
        config.clipping_p,
        config.touch_tone_p,
        config.sidetone_p,
    )
    return TelephoneDraw(
        seed=int(rng.integers(1 << 31)),
        codecs=codecs,  # pyrefly: ignore
        kbps=kbps,
        low_hz=rng.uniform(*config.low_hz),
        high_hz=rng.uniform(*config.high_hz),
        loss_share=rng.uniform(*config.loss_share) if loses else 0.0,
        is_concealed=bool(rng.random() < config.concealed_p),
        noise_snr_db=rng.uniform(*config.noise_snr_db) if is_noisy else math.inf,
        clipping_db=rng.uniform(*config.clipping_db) if is_clipped else 0.0,
        num_touch_tones=int(rng.integers(1, 4)) if has_keys else 0,
        sidetone_db=rng.uniform(*config.sidetone_db) if has_echo else -math.inf,
        sidetone_s=rng.uniform(0.001, 0.04),
    )


def telephone(
    samples: Float32[np.ndarray, " n"], drawn: TelephoneDraw, *, sample_rate_hz: int
) -> Float32[np.ndarray, " n"]:
    """Returns what is heard at the other end, as long as what was said, at the same rate."""
    rng = np.random.default_rng(drawn.seed)
    peak = max(float(np.abs(samples).max(initial=0.0)), 1.0)
    line = from_samples(samples / np.float32(peak), from_hz=sample_rate_hz, to_hz=RATE_HZ)
    line = _in_band(line, drawn.low_hz, drawn.high_hz)
    if math.isfinite(drawn.sidetone_db):
        line = line + _late(line, drawn.sidetone_s) * np.float32(10 ** (drawn.sidetone_db / 20))
    if math.isfinite(drawn.noise_snr_db):
        noise = _in_band(
            rng.standard_normal(len(line), dtype=np.float32), drawn.low_hz, drawn.high_hz
        )
        line = line + noise * _level(line, noise, drawn.noise_snr_db)
    if drawn.clipping_db:
        most = max(float(np.abs(line).max(initial=0.0)), _TINY) * 10 ** (-drawn.clipping_db / 20)
        line = np.clip(line, -most, most)
    for codec, kbps in zip(drawn.codecs, drawn.kbps, strict=True):
        line = through_codec(line, sample_rate_hz=RATE_HZ, codec=codec, bitrate_kbps=kbps)
    if drawn.loss_share:
        line = lose_packets(line, rng, share=drawn.loss_share, is_concealed=drawn.is_concealed)
    for _ in range(drawn.num_touch_tones):
        line = _with_touch_tone(line, rng)
    heard = from_samples(line, from_hz=RATE_HZ, to_hz=sample_rate_hz)[: len(samples)]
    return np.pad(heard, (0, len(samples) - len(heard))) * np.float32(peak)


def lose_packets(
    line: Float32[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    share: float,
    is_concealed: bool,
) -> Float32[np.ndarray, " n"]:
    """Returns a line at 8 kHz without some of its packets of 20 ms: silence in their places, or,
    as G.711's appendix I has it, the voice's last period again and again, fading within 60 ms.
    """
    size = round(_PACKET_S * RATE_HZ)
    heard = line.copy()
    lost = rng.random(math.ceil(len(line) / size)) < share
    since = 0  # samples lost in a row
    for packet in np.flatnonzero(lost):
        since = since + size if packet and lost[packet - 1] else 0
        first = int(packet) * size
        last = min(first + size, len(line))
        heard[first:last] = 0.0
        if is_concealed and first:
            fading = 1 - (since + np.arange(last - first)) / (_CONCEALED_S * RATE_HZ)
            period = _last_period(heard[:first])
            heard[first:last] = np.resize(period, last - first) * np.maximum(fading, 0)
    return heard


def _last_period(heard: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " p"]:
    """Returns the last period of a voice, by the autocorrelation of its last 30 ms."""
    shortest, longest = (round(seconds * RATE_HZ) for seconds in _PITCH_S)
    if len(heard) < 2 * longest:
        return heard[-longest:]
    last = heard[-longest:]
    before = np.lib.stride_tricks.sliding_window_view(heard[-2 * longest :], longest)
    period = longest - int(np.argmax((before @ last)[: longest - shortest + 1]))
    return heard[-period:]


def _in_band(
    samples: Float32[np.ndarray, " n"], low_hz: float, high_hz: float
) -> Float32[np.ndarray, " n"]:
    """Returns what lies between two frequencies, without delay."""
    band = scipy.signal.butter(4, (low_hz, high_hz), "bandpass", fs=RATE_HZ, output="sos")
    padding = min(3 * 2 * len(band), max(len(samples) - 1, 0))
    return scipy.signal.sosfiltfilt(band, samples, padlen=padding).astype(np.float32)


def _late(samples: Float32[np.ndarray, " n"], delay_s: float) -> Float32[np.ndarray, " n"]:
    delay = min(round(delay_s * RATE_HZ), len(samples))
    return np.concatenate([np.zeros(delay, np.float32), samples[: len(samples) - delay]])


def _with_touch_tone(
    line: Float32[np.ndarray, " n"], rng: np.random.Generator
) -> Float32[np.ndarray, " n"]:
    """A key pressed at some moment: two tones about as loud as the voice."""
    num = min(round(_TOUCH_S * RATE_HZ), len(line))
    first = int(rng.integers(len(line) - num + 1))
    times_s = np.arange(num) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * rng.choice(row) * times_s) for row in _TOUCH_TONES_HZ)
    tone = np.asarray(tone, np.float32)
    heard = line.copy()
    heard[first : first + num] += tone * _level(line, tone, 0.0)
    return heard


def _level(signal: np.ndarray, noise: np.ndarray, snr_db: float) -> np.float32:
    """Returns the factor by which noise lies `snr_db` below a signal."""
    power, noise_power = (float(np.mean(np.square(x))) + _TINY for x in (signal, noise))
    return np.float32(math.sqrt(power / noise_power) * 10 ** (-snr_db / 20))
