"""Sound as it really arrives: changing rates, chains, lying headers, damage, several streams."""

import fractions
import os
import pathlib
import types
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from confp_jax.audio.container import _Timeline
from confp_jax.audio.decode import DecodeError, decode, decode_blocks, from_samples
from confp_jax.audio.errors import Losses

RATE_HZ = 16_000


def tone(rate_hz: int, length_s: float = 3.0, hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(length_s * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def pitch_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE_HZ / len(samples))


def encode(
    path: pathlib.Path,
    *sounds: np.ndarray,
    codec: str,
    rate_hz: int = 48_000,
    layout: str = "mono",
    start_s: float = 0.0,
    default: int | None = None,
    picture: bool = False,
) -> bytes:
    """Writes one stream for each sound; returns the file's content."""
    with av.open(str(path), "w") as container:
        if picture:
            video = container.add_stream("mpeg4", rate=10)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        streams = [container.add_stream(codec, rate=rate_hz, layout=layout) for _ in sounds]
        for number, stream in enumerate(streams):
            stream.bit_rate = 64_000
            if default is not None:
                kind = av.stream.Disposition
                stream.disposition = kind.default if number == default else kind(0)
        if picture:
            image = np.zeros((32, 32, 3), np.uint8)
            for number in range(10):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number
                frame.time_base = fractions.Fraction(1, 10)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        for stream, sound in zip(streams, sounds, strict=True):
            channels = len(av.AudioLayout(layout).channels)
            planes = np.repeat(sound[None], channels, axis=0)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.sample_rate = rate_hz
            frame.pts = round(start_s * rate_hz)
            frame.time_base = fractions.Fraction(1, rate_hz)
            for part in av.AudioResampler(format=stream.format.name, layout=layout).resample(frame):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    return path.read_bytes()


def test_each_part_of_an_mp3_is_heard_at_its_own_rate(tmp_path):
    content = b""
    for rate_hz, hz in ((44_100, 440.0), (22_050, 1_000.0), (48_000, 440.0)):
        soundfile.write(tmp_path / "part.mp3", tone(rate_hz, hz=hz), rate_hz)
        content += (tmp_path / "part.mp3").read_bytes()
    (tmp_path / "all.mp3").write_bytes(content)
    audio = decode(tmp_path / "all.mp3", sample_rate_hz=RATE_HZ)
    assert audio.duration_s == pytest.approx(9, abs=0.4)
    heard = [pitch_hz(part[8_000:-8_000]) for part in np.array_split(audio.samples, 3)]
    assert heard == pytest.approx([440, 1_000, 440], abs=5)


@pytest.mark.parametrize("codec", ["mp2", "flac"])
def test_channels_and_format_may_change_where_the_decoder_gives_integers(tmp_path, codec):
    one = encode(tmp_path / f"one.{codec}", tone(48_000), codec=codec, layout="stereo")
    two = encode(tmp_path / f"two.{codec}", tone(48_000), codec=codec)
    (tmp_path / "both").write_bytes(one + two)
    assert decode(tmp_path / "both", sample_rate_hz=RATE_HZ).duration_s == pytest.approx(6, abs=0.2)


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_every_stream_of_a_chained_ogg_is_heard(tmp_path, kind):
    content = b""
    for rate_hz, channels in ((16_000, 1), (48_000, 2), (24_000, 1)):
        sound = np.repeat(tone(rate_hz)[:, None], channels, axis=1)
        soundfile.write(tmp_path / "part.ogg", sound, rate_hz, format="OGG", subtype=kind)
        content += (tmp_path / "part.ogg").read_bytes()
    (tmp_path / "all.ogg").write_bytes(content)
    audio = decode(tmp_path / "all.ogg", sample_rate_hz=RATE_HZ)
    assert audio.duration_s == pytest.approx(9, abs=0.1)
    assert pitch_hz(audio.samples[-32_000:-8_000]) == pytest.approx(440, abs=5)


@pytest.mark.parametrize("total", [0, 40 * 3 * RATE_HZ])
def test_a_flac_whose_header_does_not_know_its_length(tmp_path, total):
    path = tmp_path / "sound.flac"
    soundfile.write(path, tone(RATE_HZ), RATE_HZ)
    content = path.read_bytes()
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36 | total
    path.write_bytes(content[:18] + fields.to_bytes(8, "big") + content[26:])
    assert decode(path, sample_rate_hz=RATE_HZ).duration_s == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
@pytest.mark.parametrize(("name", "mark", "order"), [("x.wav", b"data", "little"),
                                                     ("x.aiff", b"SSND", "big")])  # fmt: skip
def test_a_header_that_was_never_completed(tmp_path, name, mark, order, size):
    path = tmp_path / name
    soundfile.write(path, tone(RATE_HZ), RATE_HZ, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    number = size.to_bytes(4, order)
    content[4:8] = number
    place = content.index(mark) + 4
    content[place : place + 4] = number
    if order == "big":  # COMM counts frames too
        place = content.index(b"COMM") + 10
        content[place : place + 4] = number
    path.write_bytes(content)
    assert decode(path, sample_rate_hz=RATE_HZ).duration_s == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("size", [0, 2**64 - 1])
@pytest.mark.parametrize("kind", [b"RF64", b"BW64"])
def test_a_long_wave_whose_lengths_were_never_filled_in(tmp_path, kind, size):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(RATE_HZ), RATE_HZ, format="RF64", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[:4] = kind
    content[20:44] = 3 * size.to_bytes(8, "little")
    content[content.index(b"data") + 4 :][:4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert decode(path, sample_rate_hz=RATE_HZ).duration_s == pytest.approx(3, abs=0.01)


def test_a_header_of_au_that_was_never_completed(tmp_path):
    path = tmp_path / "x.au"
    soundfile.write(path, tone(RATE_HZ), RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(4) + content[12:])
    assert decode(path, sample_rate_hz=RATE_HZ).duration_s == pytest.approx(3, abs=0.01)


def test_a_size_beyond_all_files_is_the_rest_of_this_one(tmp_path):
    path = tmp_path / "x.caf"
    soundfile.write(path, tone(RATE_HZ), RATE_HZ)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 8] = (1 << 62).to_bytes(8, "big")
    path.write_bytes(content)
    assert decode(path, sample_rate_hz=RATE_HZ).duration_s == pytest.approx(3, abs=0.01)


def test_a_wave_behind_a_tag_is_heard(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(RATE_HZ), RATE_HZ)
    path.write_bytes(b"ID3\x04\0\0\0\0\1\2" + bytes(130) + path.read_bytes())
    assert decode(path, sample_rate_hz=RATE_HZ).duration_s == pytest.approx(3, abs=0.01)


def test_an_aac_whose_rate_changes_has_no_gap(tmp_path):
    content = b""
    for rate_hz in (44_100, 48_000):
        sound = tone(rate_hz, 8)
        content += encode(tmp_path / "x.aac", sound, codec="aac", rate_hz=rate_hz)
    (tmp_path / "both.aac").write_bytes(content)
    losses = Losses()
    found = list(decode_blocks(tmp_path / "both.aac", sample_rate_hz=RATE_HZ, losses=losses))
    assert not losses.missing_s
    assert sum(map(len, found)) / RATE_HZ == pytest.approx(16, abs=0.2)


def test_of_few_packets_a_damaged_one_is_skipped(tmp_path):
    path = tmp_path / "x.tta"
    content = encode(path, tone(48_000, 5), codec="tta")
    path.write_bytes(content[: round(0.7 * len(content))])
    losses = Losses()
    found = list(decode_blocks(path, sample_rate_hz=RATE_HZ, losses=losses))
    assert sum(map(len, found)) > 3 * RATE_HZ and losses.damaged_s > 0.5


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(DecodeError, match=r"x\.wav: is a pipe .*standard input"):
        decode(tmp_path / "x.wav", sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
def test_times_are_those_that_a_player_shows(tmp_path, name):
    path = tmp_path / name
    encode(path, tone(48_000), codec="aac", start_s=5.0, picture=True)
    samples = decode(path, sample_rate_hz=RATE_HZ).samples
    assert len(samples) / RATE_HZ == pytest.approx(8, abs=0.2)
    assert np.flatnonzero(np.abs(samples) > 0.05)[0] / RATE_HZ == pytest.approx(5, abs=0.1)


def test_wrong_timestamps_make_no_years_of_silence():
    kind = types.SimpleNamespace(name="mov,mp4")
    container: Any = types.SimpleNamespace(format=kind, start_time=0, duration=10**15)
    timeline = _Timeline(container, 30_000)
    seconds = (300.0, 800.0, 5e8, 6e8)  # a bit of a length of time is wrong
    frames: list[Any] = [
        types.SimpleNamespace(sample_rate=RATE_HZ, samples=RATE_HZ, time=time) for time in seconds
    ]
    assert [timeline.gap_s(frame) for frame in frames] == [300.0, 0.0, 0.0, 0.0]


def test_of_several_streams_the_default_one_is_heard(tmp_path):
    path = tmp_path / "film.mkv"
    for default, hz in ((0, 440), (1, 1_000)):
        encode(path, tone(48_000), tone(48_000, hz=1_000), codec="flac", default=default)
        found = decode(path, sample_rate_hz=RATE_HZ).samples
        assert pitch_hz(found) == pytest.approx(hz, abs=5)


def test_an_encrypted_file_is_called_so(tmp_path):
    path = tmp_path / "shop.m4a"
    content = encode(path, tone(48_000), codec="aac")
    path.write_bytes(content.replace(b"mp4a", b"enca"))
    with pytest.raises(DecodeError, match=r"shop\.m4a: is encrypted \(DRM\)"):
        decode(path, sample_rate_hz=RATE_HZ)


def test_an_error_of_the_operating_system_is_one_of_the_file(tmp_path, capfd):
    content = bytearray(encode(tmp_path / "good.wma", tone(44_100), codec="wmav2", rate_hz=44_100))
    content[51] = 0x8F  # a size in the header: FFmpeg seeks to where nothing can be
    (tmp_path / "broken.wma").write_bytes(content)
    with pytest.raises(DecodeError, match=r"broken\.wma: cannot be decoded"):
        decode(tmp_path / "broken.wma", sample_rate_hz=RATE_HZ)
    assert "Traceback" not in capfd.readouterr().err


def test_a_disk_that_fails_is_an_error_and_no_shorter_file(tmp_path, monkeypatch):
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(44_100, 20), 44_100)
    part = "confp_jax.audio.container._Part.read"
    from confp_jax.audio.container import _Part

    read = _Part.read

    def failing(self: _Part, size: int = -1) -> bytes:
        if self.tell() < 30_000:
            return read(self, size)
        self.error = OSError(5, "Input/output error")
        return b""

    monkeypatch.setattr(part, failing)
    with pytest.raises(DecodeError, match=r"x\.mp3: cannot be read \(Input/output error\)"):
        decode(path, sample_rate_hz=RATE_HZ)


def test_what_was_lost_to_damage_is_told(tmp_path):
    path = tmp_path / "x.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE_HZ)
    soundfile.write(path, noise, RATE_HZ)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = bytes(30_000)
    path.write_bytes(content)
    losses = Losses()
    num = sum(len(b) for b in decode_blocks(path, sample_rate_hz=RATE_HZ, losses=losses))
    assert num / RATE_HZ == pytest.approx(20, abs=1.5)
    assert 0.3 < losses.lost_s < 3 and "could not be decoded" in losses.notes()[0]
    assert not Losses().notes()


@pytest.mark.parametrize("fill", ["noise", "zeros"])
def test_what_is_sound_of_a_badly_damaged_file_is_heard(tmp_path, fill):
    path = tmp_path / "x.mp3"
    content = bytearray(encode(path, tone(48_000, 20), codec="mp3"))
    rng = np.random.default_rng(0)
    for place in range(8_000, len(content), 32_000):  # half of it
        num = len(content[place : place + 16_000])
        content[place : place + num] = rng.bytes(num) if fill == "noise" else bytes(num)
    path.write_bytes(content)
    losses = Losses()
    num = len(decode(path, sample_rate_hz=RATE_HZ, losses=losses).samples)
    assert num / RATE_HZ == pytest.approx(10, abs=1.5)
    assert losses.lost_s == pytest.approx(9, abs=2.5) and " s of " in losses.notes()[0]


def test_noise_that_is_called_a_song_is_no_audio(tmp_path):
    (tmp_path / "x.mp3").write_bytes(np.random.default_rng(0).bytes(300_000))
    with pytest.raises(DecodeError, match="packets are damaged"):
        decode(tmp_path / "x.mp3", sample_rate_hz=RATE_HZ)


def test_a_tag_between_two_songs_is_no_damage(tmp_path):
    path = tmp_path / "x.mp3"
    content = encode(path, tone(48_000, 4), codec="mp3")
    path.write_bytes(content + b"ID3\4\0\0\0\0\x7f\x7f" + bytes(16_383) + content)
    losses = Losses()
    num = len(decode(path, sample_rate_hz=RATE_HZ, losses=losses).samples)
    assert num / RATE_HZ == pytest.approx(8, abs=0.3) and not losses.notes()


def test_stereo_whose_channels_cancel_is_heard(tmp_path):
    sound = tone(RATE_HZ)
    for other in (-sound, -0.9 * sound):
        stereo = np.stack([sound, other], axis=1)
        soundfile.write(tmp_path / "x.wav", stereo, RATE_HZ, subtype="FLOAT")
        found = decode(tmp_path / "x.wav", sample_rate_hz=RATE_HZ).samples
        np.testing.assert_allclose(found, (sound - other) / 2, atol=1e-6)
        np.testing.assert_allclose(
            from_samples(stereo, from_hz=RATE_HZ, to_hz=RATE_HZ), found, atol=1e-6
        )


@pytest.mark.parametrize(("signs", "at"), [((1, -1, 1, -1), 0), ((0, 0, 0, 0, 1, -1), 4)])
def test_surround_whose_channels_cancel_is_heard(signs, at):
    sound = tone(RATE_HZ)
    found = from_samples(np.outer(sound, signs), from_hz=RATE_HZ, to_hz=RATE_HZ)
    np.testing.assert_allclose(found, sound * signs[at], atol=1e-6)
