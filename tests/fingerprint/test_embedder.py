"""Embedder against its definition: crop, mel power, encoder, one window at a time."""

import shutil

import numpy as np
import pytest
import soxr

import confp_jax
from confp_jax.audio.decode import DecodeError
from confp_jax.audio.mel import mel_power
from confp_jax.fingerprint import jax_engine
from confp_jax.fingerprint.embedder import UnknownModelError, load_encoder
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.model.errors import CheckpointError
from confp_jax.model.inference import embed as embed_power

RATE = 16_000


def one_window(embedder, crop: np.ndarray) -> np.ndarray:
    """The oracle: a window's fingerprint from its own samples alone, in a batch of its own."""
    power = mel_power(crop, embedder.config.mel, sample_rate_hz=RATE)
    return np.asarray(
        embed_power(
            embedder.engine.state.params,
            embedder.engine.state.statistics,
            power[None],
            config=embedder.config,
        )
    )[0]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize(
    "num_windows", [1, 2, 8, 9, 33, 70]
)  # every batch shape, full and with places left over
def test_every_window_is_what_it_would_be_alone(embedder, music, num_windows):
    # 37.5 frames: odd windows lie on the second phase of the STFT
    hop = 4800
    length = 48_000
    samples = music[1234 : 1234 + length + (num_windows - 1) * hop]
    found = embedder.embed(samples, sample_rate_hz=RATE)
    assert found.shape == (num_windows, 128) and found.dtype == np.float32
    chosen = sorted({0, 1, 2, 7, 8, 31, 32, 63, 64, 69} & set(range(num_windows)))
    expected = np.stack([one_window(embedder, samples[i * hop : i * hop + length]) for i in chosen])
    np.testing.assert_allclose(found[chosen], expected, atol=1e-5)
    # That would also pass if windows did not matter: neighbours must differ by far more than the
    # tolerance.
    if len(chosen) > 1:
        assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.mark.parametrize("hop_s", [0.1, 0.25, 0.5, 1.0])
def test_hop(embedder, music, hop_s):
    samples = music[: 5 * RATE + 17]
    found = embedder.embed(samples, sample_rate_hz=RATE, hop_s=hop_s)
    hop = round(hop_s * RATE)
    assert len(found) == 1 + (len(samples) - 48_000) // hop
    for i in (1, len(found) - 1):
        np.testing.assert_allclose(
            found[i], one_window(embedder, samples[i * hop : i * hop + 48_000]), atol=1e-5
        )


@pytest.mark.parametrize("hop_s", [0.0, -0.3, 1e-6, float("nan")])
def test_hop_that_is_no_distance_is_refused(embedder, music, hop_s):
    with pytest.raises(ValueError, match="hop_s"):
        embedder.embed(music[: 4 * RATE], sample_rate_hz=RATE, hop_s=hop_s)


def test_long_recordings_use_a_few_batch_shapes(embedder, music):
    for num_windows in (1, 2, 9, 33):
        embedder.fingerprint(music[: 48_000 + (num_windows - 1) * 4_800])
    compiled = embed_power._cache_size()
    for num_windows in (3, 5, 8, 10, 33, 64, 65, 66, 80):
        assert (
            len(embedder.fingerprint(music[: 48_000 + (num_windows - 1) * 4_800]).vectors)
            == num_windows
        )
    assert embed_power._cache_size() == compiled


@pytest.mark.parametrize("num_samples", [0, 1, 1_023, 15_999])
def test_below_one_second_is_refused(embedder, num_samples):
    with pytest.raises(AudioError, match=rf"{num_samples / RATE:.2f} s .*at least 1 s"):
        embedder.embed(np.full(num_samples, 0.1, np.float32), sample_rate_hz=RATE)


@pytest.mark.parametrize(
    "rate_hz", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000]
)
@pytest.mark.parametrize("seconds", [1, 3])
def test_whole_seconds_stay_whole_at_any_rate(embedder, music, rate_hz, seconds):
    """Resampling must not lose the one sample that makes a clip too short."""
    samples = np.interp(np.arange(seconds * rate_hz) / rate_hz, np.arange(len(music)) / RATE, music)
    assert len(embedder.embed(samples, sample_rate_hz=rate_hz)) == {1: 7, 3: 1}[seconds]


def test_vectors_are_unit(embedder, music):
    np.testing.assert_allclose(
        np.linalg.norm(embedder.embed(music[: 6 * RATE], sample_rate_hz=RATE), axis=1), 1, atol=1e-5
    )


def test_silent_windows_have_the_zero_vector(embedder, music):
    samples = music[: 12 * RATE].copy()
    samples[4 * RATE : 9 * RATE] = 0
    found = embedder.fingerprint(samples)
    inside = [
        i
        for i in range(len(found.vectors))
        if i * 4_800 >= 4 * RATE and i * 4_800 + 48_000 <= 9 * RATE
    ]
    assert len(inside) == 7
    silent = ~found.vectors.any(axis=1)
    assert np.flatnonzero(silent).tolist() == inside
    assert found.num_silent == len(inside)
    np.testing.assert_allclose(found.vectors[0], one_window(embedder, samples[:48_000]), atol=1e-5)


@pytest.mark.parametrize(("level_db", "silent"), [(-80, True), (-60, False)])
def test_silence_begins_at_70_db_below_full_scale(embedder, level_db, silent):
    noise = np.random.default_rng(0).normal(size=4 * RATE).astype(np.float32) * 10 ** (
        level_db / 20
    )
    assert embedder.fingerprint(noise).num_silent == (4 if silent else 0)


@pytest.mark.parametrize("gain", [0.01, 0.3, 30.0, 32_768.0, 1e12, 1e25])
def test_gain_does_not_matter(embedder, music, gain):
    samples = music[: 4 * RATE]
    louder = embedder.embed(samples * np.float32(gain), sample_rate_hz=RATE)
    assert np.isfinite(louder).all()
    assert cosines(louder, embedder.embed(samples, sample_rate_hz=RATE)).min() > 1 - 1e-4


def test_channels_are_averaged(embedder, music):
    samples = music[: 4 * RATE]
    mono = embedder.embed(samples, sample_rate_hz=RATE)
    for channels in (1, 2, 8):
        copies = np.repeat(samples[:, None], channels, axis=1)
        np.testing.assert_allclose(embedder.embed(copies, sample_rate_hz=RATE), mono, atol=1e-5)
    other = music[5 * RATE : 9 * RATE]
    mixed = embedder.embed(np.stack([samples, other], axis=1), sample_rate_hz=RATE)
    np.testing.assert_allclose(
        mixed, embedder.embed((samples + other) / 2, sample_rate_hz=RATE), atol=1e-5
    )
    assert cosines(mixed, mono).max() < 0.9999


@pytest.mark.parametrize(
    ("dtype", "scale", "middle"), [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 2**7)]
)
def test_integer_pcm(embedder, music, dtype, scale, middle):
    samples = music[: 4 * RATE] * 0.9
    pcm = np.round(samples.astype(np.float64) * scale + middle).astype(dtype)
    as_float = ((pcm.astype(np.float64) - middle) / scale).astype(np.float32)
    found = embedder.embed(pcm, sample_rate_hz=RATE)
    np.testing.assert_allclose(found, embedder.embed(as_float, sample_rate_hz=RATE), atol=1e-4)
    if dtype != "uint8":  # 8 bits are audibly noisy
        assert cosines(found, embedder.embed(samples, sample_rate_hz=RATE)).min() > 0.999


@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_other_rates_are_resampled(embedder, music, rate_hz):
    at_rate = soxr.resample(music[: 4 * RATE], RATE, rate_hz, quality="VHQ")
    found = embedder.embed(at_rate, sample_rate_hz=rate_hz)
    back = soxr.resample(at_rate, rate_hz, RATE, quality="HQ")
    np.testing.assert_allclose(found, embedder.embed(back, sample_rate_hz=RATE), atol=1e-4)
    if rate_hz > RATE:  # nothing of what the model hears was lost but the last filter's edge
        assert cosines(found, embedder.embed(music[: 4 * RATE], sample_rate_hz=RATE)).min() > 0.98


@pytest.mark.parametrize(
    ("samples", "rate_hz", "says"),
    [
        (np.zeros((2, 48_000)), RATE, r"\[n, channels\]"),
        (np.zeros((2, 3, 4)), RATE, r"\[n, channels\]"),
        (np.full(48_000, np.nan), RATE, "NaN"),
        (np.full(48_000, np.inf), RATE, "infinite"),
        (np.zeros(48_000), 100, "100 Hz"),
        (np.zeros(48_000), 0, "0 Hz"),
    ],
)
def test_unusable_samples_are_refused(embedder, samples, rate_hz, says):
    with pytest.raises(DecodeError, match=says):
        embedder.embed(samples, sample_rate_hz=rate_hz)


def test_the_input_is_left_as_it_was(embedder, music):
    samples = music[: 4 * RATE] * 3
    before = samples.copy()
    embedder.embed(samples, sample_rate_hz=RATE)
    np.testing.assert_array_equal(samples, before)


def test_a_cpu_that_is_faster_in_bfloat16_finds_the_same(music, monkeypatch):
    """The shipped encoder: its fingerprints must stay what they are in float32, and be computed
    another way.
    """
    found = {}
    for fast in (True, False):
        monkeypatch.setattr(jax_engine, "has_fast_bfloat16", lambda fast=fast: fast)
        found[fast] = load_encoder("edge", engine="jax").embed(
            music[: 9 * RATE], sample_rate_hz=RATE
        )
    assert (
        cosines(found[True], found[False]).min() > 0.9999
        and np.abs(found[True] - found[False]).max() > 1e-5
    )


class TestLoadEncoder:
    def test_the_same_weights_have_the_same_identity_wherever_they_lie(
        self, embedder, checkpoint, tmp_path, music
    ):
        shutil.copytree(checkpoint, tmp_path / "copy")
        copy = confp_jax.load_encoder(str(tmp_path / "copy"))
        assert copy.weights_hash == embedder.weights_hash
        assert copy.name == str(tmp_path / "copy")
        found = copy.embed(music[: 4 * RATE], sample_rate_hz=RATE)
        assert cosines(found, embedder.embed(music[: 4 * RATE], sample_rate_hz=RATE)).min() > 0.9999

    def test_other_weights_have_another_identity(self, embedder, tmp_path):
        import jax

        from confp_jax.model.weights import EncoderState, load_trained_encoder, save_encoder

        config, state = load_trained_encoder(embedder.folder)
        changed = jax.tree.map(lambda leaf: leaf + 1e-3, state)
        save_encoder(tmp_path / "other", config, EncoderState(*changed))
        assert load_encoder(tmp_path / "other").weights_hash != embedder.weights_hash

    def test_half_precision_weights_agree(self, embedder, tmp_path, music):
        from confp_jax.model.weights import load_trained_encoder, save_encoder

        trained = load_trained_encoder(embedder.folder)
        save_encoder(tmp_path / "half", *trained, dtype="float16")
        half = load_encoder(tmp_path / "half").embed(music[: 4 * RATE], sample_rate_hz=RATE)
        assert cosines(half, embedder.embed(music[: 4 * RATE], sample_rate_hz=RATE)).min() > 0.9999

    def test_a_name_that_is_no_model(self):
        with pytest.raises(
            UnknownModelError,
            match="'no-such-model' is neither a shipped model nor a checkpoint folder",
        ):
            load_encoder("no-such-model")

    def test_a_misspelt_name_is_corrected(self, tmp_path, checkpoint, monkeypatch):
        import confp_jax.model.shipped as module

        shutil.copytree(checkpoint, tmp_path / "edge" / "checkpoint")
        monkeypatch.setattr(module, "PRETRAINED", tmp_path)
        with pytest.raises(UnknownModelError, match="did you mean 'edge'"):
            load_encoder("egde")
        assert load_encoder("edge").name == "edge"

    def test_a_folder_without_a_checkpoint(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError, match="empty: no confp_jax encoder"):
            load_encoder(tmp_path / "empty")

    def test_a_damaged_checkpoint_is_named_in_a_few_words(self, tmp_path, checkpoint):
        shutil.copytree(checkpoint, tmp_path / "damaged")
        # Not the arrays: there Orbax leaves failed tasks behind, which surface as warnings in some
        # later test.
        (tmp_path / "damaged" / "encoder" / "_METADATA").write_text("{}")
        with pytest.raises(CheckpointError, match="damaged") as found:
            load_encoder(tmp_path / "damaged")
        assert len(str(found.value)) < 600

    def test_the_package_knows_no_other_names(self):
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = confp_jax.no_such_thing


@pytest.mark.parametrize("num_samples", [16_000, 47_999, 48_000, 100_003, 200_000])
@pytest.mark.parametrize("block", [1_000, 30_000, 500_000])
def test_a_stream_gives_what_the_whole_gives(embedder, music, num_samples, block):
    samples = music[:num_samples]
    blocks = [samples[first : first + block] for first in range(0, num_samples, block)]
    parts = list(embedder.stream(blocks, windows_at_once=8))
    expected = embedder.fingerprint(samples)
    np.testing.assert_allclose(
        np.concatenate([part.vectors for part in parts]), expected.vectors, atol=1e-5
    )
    assert {part.segment_s for part in parts} == {expected.segment_s}
    assert all(len(part.vectors) == 8 for part in parts[:-1])


def test_a_stream_holds_no_more_than_it_needs(embedder, music):
    """Fingerprints come before the stream is over."""
    given = 0

    def blocks():
        nonlocal given
        for first in range(0, len(music), 4_000):
            given += 1
            yield music[first : first + 4_000]

    next(embedder.stream(blocks(), windows_at_once=12))
    assert given * 4_000 <= 48_000 + 11 * 4_800 + 4_000


@pytest.mark.parametrize(
    ("blocks", "says"), [([], "no audio samples"), ([np.ones(900, np.float32)] * 3, "too short")]
)
def test_a_stream_of_nothing(embedder, blocks, says):
    with pytest.raises(AudioError, match=says):
        list(embedder.stream(blocks))


def test_many_clips_are_encoded_as_each_alone(embedder, music):
    """Windows of clips of several lengths share batches: each clip's fingerprints are its own."""
    rate_hz = embedder.sample_rate_hz
    clips = [
        music[round(start * rate_hz) : round(end * rate_hz)]
        for start, end in ((0, 3), (5, 11), (2, 3.5), (20, 21.6), (7, 10))
    ]
    clips.insert(2, np.zeros(4 * rate_hz, np.float32))
    together = embedder.fingerprint_many(clips)
    for clip, found in zip(clips, together, strict=True):
        alone = embedder.fingerprint(clip)
        assert (found.hop_s, found.segment_s, found.num_silent) == (
            alone.hop_s,
            alone.segment_s,
            alone.num_silent,
        )
        np.testing.assert_allclose(found.vectors, alone.vectors, atol=1e-5)
    with pytest.raises(AudioError, match="too short"):
        embedder.fingerprint_many([clips[0], music[:100]])
