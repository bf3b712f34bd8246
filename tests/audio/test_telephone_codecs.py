import av
import numpy as np
import pytest

from confp_jax.audio.encode import through_codec
from confp_jax.audio.g711 import decode_g711, encode_g711

RATE = 8_000


def voice(seconds: float = 2.0) -> np.ndarray:
    """A tone with harmonics whose loudness and pitch change as a voice's do."""
    t = np.arange(int(RATE * seconds)) / RATE
    phase = 2 * np.pi * (140 * t + 12 * np.sin(2 * np.pi * 1.3 * t))
    sound = sum(np.sin(k * phase) / k for k in range(2, 20))
    return (0.15 * sound * (1 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)


class TestG711:
    @pytest.mark.parametrize("law", ["mulaw", "alaw"])
    def test_every_byte_is_ffmpegs(self, law):
        decoder = av.CodecContext.create(f"pcm_{law}", "r")
        decoder.sample_rate = RATE
        decoder.layout = "mono"
        decoder.open()
        expected = decoder.decode(av.Packet(bytes(range(256))))[0].to_ndarray().reshape(-1)
        np.testing.assert_array_equal(decode_g711(bytes(range(256)), law) * 32768, expected)

    @pytest.mark.parametrize("law", ["mulaw", "alaw"])
    def test_a_level_keeps_its_value(self, law):
        levels = decode_g711(bytes(range(256)), law)
        again = decode_g711(encode_g711(levels, law).tobytes(), law)
        np.testing.assert_array_equal(again, levels)

    def test_louder_than_full_scale_is_clipped(self):
        loudest = decode_g711(
            encode_g711(np.array([9.0, -9.0], np.float32), "alaw").tobytes(), "alaw"
        )
        np.testing.assert_array_equal(loudest * 32768, [32256, -32256])


@pytest.mark.parametrize("codec", ["mulaw", "alaw", "gsm", "amr", "g723"])
def test_what_a_telephone_codec_leaves_lies_in_its_place(codec):
    sound = voice()
    heard = through_codec(sound, sample_rate_hz=RATE, codec=codec, bitrate_kbps=7.95)
    assert len(heard) == len(sound) and heard.dtype == np.float32
    correlation = np.fft.irfft(np.fft.rfft(heard) * np.conj(np.fft.rfft(sound)))
    lag = int(correlation.argmax())
    assert min(lag, len(sound) - lag) <= 2
    assert np.corrcoef(heard, sound)[0, 1] > 0.5
    assert not np.array_equal(heard, sound)
