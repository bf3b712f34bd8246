"""Decoding: what goes in as a known sound comes out as that sound; what is no sound is an error
that names the file.
"""

import fractions
import pathlib
import re

import av
import numpy as np
import pytest
import scipy.signal
import soundfile

from confp_jax.audio.decode import (
    Audio,
    DecodeError,
    StreamResampler,
    decode,
    decode_blocks,
    from_samples,
)

RATE_HZ = 16_000


def make_sound(rate_hz: int, length_s: float) -> np.ndarray:
    """Chords that change, with some noise: correlates with itself at one lag only."""
    time_s = np.arange(round(length_s * rate_hz)) / rate_hz
    tones = sum(
        np.sin(2 * np.pi * hz * time_s * (1 + 0.2 * time_s)) for hz in (220, 554, 1318, 2093)
    )
    return (0.12 * tones * (1 + 0.5 * np.sin(2 * np.pi * 3.7 * time_s))).astype(np.float32)


def write_m4a(path: pathlib.Path, sound: np.ndarray, rate_hz: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        # tells the container which samples are the coder's
        frame.pts = 0
        frame.time_base = fractions.Fraction(1, rate_hz)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def best_lag(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """Samples that `b` lags behind `a`, and the normalised correlation there."""
    correlation = scipy.signal.correlate(b, a) / (np.linalg.norm(a) * np.linalg.norm(b))
    best = int(correlation.argmax())
    return int(scipy.signal.correlation_lags(len(b), len(a))[best]), float(correlation[best])


LOSSLESS = {"wav": "PCM_16", "flac": "PCM_24", "aiff": "PCM_16", "w64": "FLOAT"}
LOSSY = {"ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_lossless_round_trip(tmp_path, kind, rate_hz):
    path = tmp_path / f"sound.{kind}"
    soundfile.write(path, make_sound(rate_hz, 2), rate_hz, subtype=LOSSLESS[kind])
    audio = decode(path, sample_rate_hz=RATE_HZ)
    expected = make_sound(RATE_HZ, 2)
    assert audio.samples.dtype == np.float32 and audio.sample_rate_hz == RATE_HZ
    assert abs(len(audio.samples) - len(expected)) <= 1 and audio.duration_s == pytest.approx(
        2, abs=1e-3
    )
    inside = slice(200, 31_800)  # a resampler has nothing to look at beyond the ends
    np.testing.assert_allclose(audio.samples[inside], expected[inside], atol=2e-3)


@pytest.mark.parametrize("kind", [*LOSSY, "m4a"])
def test_lossy_round_trip(tmp_path, kind):
    path = tmp_path / f"sound.{kind}"
    rate_hz = 48_000
    if kind == "m4a":
        write_m4a(path, make_sound(rate_hz, 2), rate_hz)
    else:
        soundfile.write(
            path, make_sound(rate_hz, 2), rate_hz, format=LOSSY[kind][0], subtype=LOSSY[kind][1]
        )
    samples = decode(path, sample_rate_hz=RATE_HZ).samples
    expected = make_sound(RATE_HZ, 2)
    assert abs(len(samples) - len(expected)) <= 0.1 * RATE_HZ  # codecs pad to whole frames
    lag, correlation = best_lag(expected, samples)
    assert abs(lag) <= 16 and correlation > 0.98
    assert np.std(samples) == pytest.approx(np.std(expected), rel=0.05)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 32_000, 48_000, 96_000, 192_000])
def test_a_tone_keeps_its_pitch_level_and_length_from_any_rate(tmp_path, rate_hz):
    path = tmp_path / "tone.wav"
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate_hz) / rate_hz)
    soundfile.write(path, tone, rate_hz, subtype="FLOAT")
    samples = decode(path, sample_rate_hz=RATE_HZ).samples
    assert abs(len(samples) - RATE_HZ) <= 1
    np.testing.assert_allclose(
        samples[500:15_500],
        0.5 * np.sin(2 * np.pi * 1000 * np.arange(500, 15_500) / RATE_HZ),
        atol=2e-3,
    )


def test_what_lies_above_half_the_rate_does_not_alias(tmp_path):
    path = tmp_path / "high.wav"
    soundfile.write(
        path, 0.5 * np.sin(2 * np.pi * 11_000 * np.arange(44_100) / 44_100), 44_100, subtype="FLOAT"
    )
    assert np.abs(decode(path, sample_rate_hz=RATE_HZ).samples[500:15_500]).max() < 1e-3


@pytest.mark.parametrize("num_channels", range(1, 9))
def test_channels_are_averaged(tmp_path, num_channels):
    path = tmp_path / "many.wav"
    sounds = np.random.default_rng(0).uniform(-0.5, 0.5, (5000, num_channels)).astype(np.float32)
    soundfile.write(path, sounds, RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(
        decode(path, sample_rate_hz=RATE_HZ).samples, sounds.mean(axis=1), atol=1e-6
    )


def test_stereo_through_ffmpeg_is_averaged(tmp_path):
    """MP3 takes the other way in; one silent channel must halve the sound, not interleave it."""
    path = tmp_path / "stereo.mp3"
    sound = make_sound(44_100, 1)
    soundfile.write(path, np.stack([sound, 0 * sound], axis=1), 44_100)
    samples = decode(path, sample_rate_hz=RATE_HZ).samples
    expected = make_sound(RATE_HZ, 1)
    assert best_lag(expected, samples)[1] > 0.95
    assert np.linalg.norm(samples) == pytest.approx(np.linalg.norm(expected) / 2, rel=0.1)


def test_long_files_have_no_seams(tmp_path):
    """More than one block: streaming must equal resampling all at once."""
    path = tmp_path / "long.flac"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100 * 14)
    soundfile.write(path, sound, 44_100, subtype="PCM_24")
    blocks = list(decode_blocks(path, sample_rate_hz=RATE_HZ))
    assert len([block for block in blocks if len(block)]) > 2
    expected = from_samples(sound, from_hz=44_100, to_hz=RATE_HZ)
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-5)
    np.testing.assert_array_equal(
        decode(str(path), sample_rate_hz=RATE_HZ).samples, np.concatenate(blocks)
    )


def test_an_mp3_longer_than_a_block_is_its_frames(tmp_path):
    path = tmp_path / "long.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (44_100 * 14, 2)), 44_100)
    blocks = list(decode_blocks(path, sample_rate_hz=44_100))
    assert len(blocks) == 3
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    np.testing.assert_array_equal(
        np.concatenate(blocks), np.concatenate(frames, axis=1).mean(axis=0)
    )


def test_an_mp3_whose_channels_change_is_heard_to_its_end(tmp_path):
    """Two files in one, as cutting tools without a decoder make them."""
    parts = tmp_path / "mono.mp3", tmp_path / "stereo.mp3"
    sound = make_sound(44_100, 1)
    soundfile.write(parts[0], sound, 44_100)
    soundfile.write(parts[1], np.stack([0 * sound, sound], axis=1), 44_100)
    both = tmp_path / "both.mp3"
    both.write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    mono, stereo, found = (decode(path, sample_rate_hz=RATE_HZ).samples for path in (*parts, both))
    assert len(found) == pytest.approx(len(mono) + len(stereo), abs=0.1 * RATE_HZ)
    assert np.linalg.norm(found[-len(stereo) :]) == pytest.approx(np.linalg.norm(stereo), rel=0.1)


def write_truncated_flac(path):
    soundfile.write(
        path, np.random.default_rng(0).uniform(-0.5, 0.5, 600_000), 44_100, format="FLAC"
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_nan(path, *, value=np.nan):
    sound = make_sound(RATE_HZ, 1)
    sound[7777] = value
    soundfile.write(path, sound, RATE_HZ, subtype="FLOAT")


def write_video_without_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


UNUSABLE = {
    "missing.wav": (lambda path: None, "no such file"),
    "folder.wav": (lambda path: path.mkdir(), "no such file"),
    "empty.mp3": (lambda path: path.touch(), "0 bytes"),
    "nothing.wav": (lambda path: soundfile.write(path, np.zeros(0), RATE_HZ), "no audio samples"),
    "nan.wav": (write_nan, "NaN or infinite"),
    "infinite.wav": (lambda path: write_nan(path, value=np.inf), "NaN or infinite"),
    "text.mp3": (
        lambda path: path.write_text("These are the lyrics, not the song.\n" * 50),
        "cannot be decoded",
    ),
    "image.wav": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2000)),
        "no audio stream|cannot be decoded",
    ),
    "noise.m4a": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
        "cannot be decoded",
    ),
    "slow.wav": (
        lambda path: soundfile.write(path, np.zeros(1000), 3000),
        "sample rate 3000 Hz is outside",
    ),
    "silent.mp4": (write_video_without_sound, "no audio stream"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_an_error_that_names_the_file(tmp_path, name):
    write, message = UNUSABLE[name]
    write(tmp_path / name)
    with pytest.raises(DecodeError, match=message) as raised:
        decode(tmp_path / name, sample_rate_hz=RATE_HZ)
    assert str(raised.value).startswith(str(tmp_path / name))


def test_a_cut_mp3_plays_to_its_end(tmp_path):
    path = tmp_path / "cut.mp3"
    soundfile.write(path, make_sound(44_100, 4), 44_100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert decode(path, sample_rate_hz=RATE_HZ).duration_s == pytest.approx(2, abs=0.4)


def test_a_cut_flac_plays_to_its_end(tmp_path):
    write_truncated_flac(tmp_path / "cut.flac")
    assert decode(tmp_path / "cut.flac", sample_rate_hz=RATE_HZ).duration_s == pytest.approx(
        6.8, abs=0.3
    )


def _damaged_mp3(path, share: float):
    """Writes four seconds in which that share of every 500 bytes is random."""
    rng = np.random.default_rng(0)
    soundfile.write(path, make_sound(44_100, 4), 44_100)
    data = bytearray(path.read_bytes())
    num = round(500 * share)
    for start in range(2000, len(data) - 500, 500):
        data[start : start + num] = rng.bytes(num)
    path.write_bytes(data)
    return path


def test_of_a_damaged_mp3_the_sound_parts_are_taken(tmp_path):
    path = _damaged_mp3(tmp_path / "damaged.mp3", 0.4)
    assert 1.0 <= decode(path, sample_rate_hz=RATE_HZ).duration_s <= 4.2


def test_an_mp3_of_which_next_to_nothing_is_left_is_an_error(tmp_path):
    path = _damaged_mp3(tmp_path / "damaged.mp3", 1.0)
    with pytest.raises(DecodeError, match=re.escape(str(path))):
        decode(path, sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([-32_768, 0, 16_384], np.int16), [-1, 0, 0.5]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([-128, 0, 64], np.int8), [-1, 0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5]),
        (np.array([0, 2**15, 3 * 2**14], np.uint16), [-1, 0, 0.5]),
        (np.array([-1, 0, 0.5], np.float64), [-1, 0, 0.5]),
        (np.array([-1, 0, 0.5], np.float16), [-1, 0, 0.5]),
        (np.array([[-1.0, -0.5], [0.5, -0.5]]), [-0.75, 0]),
        (np.array([[-32_768, 0], [0, 0], [16_384, 16_384]], np.int16), [-0.5, 0, 0.5]),
        ([0.25, -0.25], [0.25, -0.25]),
        (np.zeros(0, np.float32), []),
    ],
)
def test_samples_in_memory_become_mono_floats(samples, expected):
    found = from_samples(samples, from_hz=RATE_HZ, to_hz=RATE_HZ)
    assert found.dtype == np.float32 and found.shape == (len(expected),)
    np.testing.assert_allclose(found, expected, atol=1e-3 if isinstance(samples, list) else 1e-7)


def test_samples_in_memory_are_heard_as_the_file_is(tmp_path):
    sound = np.stack([make_sound(44_100, 1), make_sound(44_100, 1)[::-1]], axis=1)
    pcm = np.round(sound * 32_767).astype(np.int16)
    soundfile.write(tmp_path / "same.wav", pcm, 44_100)
    expected = decode(tmp_path / "same.wav", sample_rate_hz=RATE_HZ).samples
    np.testing.assert_allclose(
        from_samples(pcm, from_hz=44_100, to_hz=RATE_HZ), expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (np.zeros((2, 48_000)), RATE_HZ, r"shape \(2, 48000\); pass \[n\] or \[n, channels\]"),
        (np.zeros((2, 2, 2)), RATE_HZ, "shape"),
        (np.float32(0), RATE_HZ, "shape"),
        (np.array([0.0, np.nan]), RATE_HZ, "NaN or infinite"),
        (np.zeros(100), 3_999, "sample rate 3999 Hz"),
        (np.zeros(100), 1_000_000, "sample rate 1000000 Hz"),
    ],
)
def test_samples_in_memory_that_cannot_be_used(samples, rate_hz, message):
    with pytest.raises(DecodeError, match=message):
        from_samples(samples, from_hz=rate_hz, to_hz=RATE_HZ)


def test_duration():
    assert Audio(np.zeros(24_000, np.float32), RATE_HZ).duration_s == 1.5


PLAYLISTS = [
    "#EXTM3U\n#EXT-X-TARGETDURATION:30\n#EXTINF:30,\n{}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile '{}'\n",
]


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_a_playlist_opens_no_other_file(root, tmp_path, playlist):
    """FFmpeg would play what it names: somebody's "audio file" could read ours."""
    target = (root / "examples" / "music" / "jordan-trudgett_battle2.mp3").resolve()
    assert decode(target, sample_rate_hz=16_000).duration_s > 10
    (tmp_path / "list.mp3").write_text(playlist.format(target))
    with pytest.raises(DecodeError, match="cannot be decoded"):
        decode(tmp_path / "list.mp3", sample_rate_hz=16_000)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_a_stream_is_resampled_as_a_whole_is(rate_hz):
    samples = np.random.default_rng(0).normal(size=3 * rate_hz).astype(np.float32)
    resampler = StreamResampler(from_hz=rate_hz, to_hz=16_000)
    parts = [resampler.push(part) for part in np.array_split(samples, 17)] + [
        resampler.push(samples[:0], last=True)
    ]
    np.testing.assert_allclose(
        np.concatenate(parts), from_samples(samples, from_hz=rate_hz, to_hz=16_000), atol=1e-5
    )
    with pytest.raises(DecodeError, match="NaN"):
        resampler.push(np.full(10, np.nan, np.float32))


@pytest.mark.parametrize(("part", "expected"), [(1.0, 1.0), (-0.3, 0.35), (-0.5, 0.75)])
def test_two_channels_are_subtracted_where_they_nearly_cancel(part, expected):
    """From a difference of four times the power of the sum on."""
    one = make_sound(RATE_HZ, 1.0).astype(np.float32)
    found = from_samples(np.stack([one, part * one], axis=1), from_hz=RATE_HZ, to_hz=RATE_HZ)
    np.testing.assert_allclose(found, expected * one, atol=1e-6)


@pytest.mark.parametrize(("suffix", "subtype"), [("ul", "ULAW"), ("al", "ALAW")])
def test_a_telephone_file_without_a_header_has_8_khz(tmp_path, suffix, subtype):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(4 * 8000) / 8000)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone, 8000, format="RAW", subtype=subtype)
    audio = decode(path, sample_rate_hz=16_000)
    assert audio.duration_s == pytest.approx(4.0, abs=0.01)
    assert np.abs(np.fft.rfft(audio.samples)).argmax() / audio.duration_s == pytest.approx(
        440, 0.01
    )


@pytest.mark.parametrize("suffix", ["sw", "uw", "sb", "ub"])
def test_raw_samples_of_an_unknown_rate_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(np.arange(20_000, dtype=np.int16).tobytes())
    with pytest.raises(DecodeError, match=rf"a\.{suffix}: raw samples.*convert it to wav"):
        decode(path, sample_rate_hz=16_000)
