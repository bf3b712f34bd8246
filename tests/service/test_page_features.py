"""The page's own mathematics, in node: it gives the model what Python gives it."""

import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from running_service import KNOWN, ROOT, excerpt

from confp_jax.audio.contrast import clip_contrast
from confp_jax.audio.mel import mel_power
from confp_jax.fingerprint.embedder import HOP_S, Embedder, load_encoder
from confp_jax.fingerprint.query import Query
from confp_jax.fingerprint.query_rows import QueryRows
from confp_jax.service.browser import BrowserFiles, model_reply

NODE = shutil.which("node")
PAGE = ROOT / "confp_jax" / "service" / "page"
RATE = 16_000
pytestmark = pytest.mark.skipif(NODE is None, reason="no node on this machine")


@pytest.fixture(scope="module")
def encoder() -> Embedder:
    return load_encoder("edge2", engine="onnx")


@pytest.fixture(scope="module")
def features(encoder, tmp_path_factory):
    """`features(clip)`: the folder of what the page computes of a clip."""
    model = model_reply(encoder, BrowserFiles(None, encoder), hop_s=HOP_S, max_audio_s=900.0)

    def computed(clip: np.ndarray) -> pathlib.Path:
        folder = tmp_path_factory.mktemp("features")
        (folder / "model.json").write_text(json.dumps(model))
        clip.astype(np.float32).tofile(folder / "clip")
        script = ROOT / "tests" / "service" / "features_of.mjs"
        command = [NODE, script, PAGE / "features.js", folder / "model.json", folder / "clip"]
        subprocess.run([*command, folder], check=True)
        return folder

    return computed


def read(file: pathlib.Path, *shape: int, kind: type = np.float32) -> np.ndarray:
    return np.fromfile(file, kind).reshape(shape)


def published_clip() -> np.ndarray:
    """The test vector of docs/music/anywhere.md."""
    n = np.arange(48_000)
    high = 0.1 * (n // 1600 % 2) * np.sin(2 * np.pi * 1760 * n / RATE)
    return 0.25 * np.sin(2 * np.pi * 440 * n / RATE * (1 + n / 96_000)) + high


def parts(query: Query):
    """Every array of vectors of a query, and where none is what has them."""
    conformed = query.by_conformer()
    yield from (query.vectors, query.between, conformed.vectors, conformed.between)
    assert query.has_edge_windows == conformed.has_edge_windows is False
    if conformed.sped_up:
        yield from (conformed.sped_up.vectors, conformed.sped_up.between)


def test_the_published_test_vector(features):
    folder = features(published_clip())
    contrast = read(folder / "contrast", -1, 128)
    assert contrast.shape == (100, 128) and contrast.sum() == pytest.approx(17_014, abs=0.5)
    np.testing.assert_allclose(contrast[0, :4], [2.01915, 1.51027, 1.39507, 1.48269], atol=1e-4)
    np.testing.assert_allclose(contrast[50, :4], [1.95180, 1.88659, 1.96112, 1.87410], atol=1e-4)
    power = read(folder / "power", -1, 80)
    assert len(power) == 368
    np.testing.assert_allclose(power[0, :3], [2.97598e-7, 3.93745e-7, 5.86338e-7], rtol=1e-3)


def test_contrast_and_mel_power_of_music(features, encoder):
    clip = excerpt(KNOWN[1], start_s=3.0, length_s=4.0, rate_hz=RATE)
    folder = features(clip)
    config = encoder.config
    expected = clip_contrast(clip, config.encoder.projection, sample_rate_hz=RATE)
    np.testing.assert_allclose(read(folder / "contrast", *expected.shape), expected, atol=1e-4)
    expected = mel_power(clip, config.mel, sample_rate_hz=RATE)
    scale = expected.max()
    np.testing.assert_allclose(
        read(folder / "power", *expected.shape) / scale, expected / scale, atol=1e-6
    )


@pytest.mark.parametrize(
    ("num_samples", "silent"),
    [
        (16_000, None),  # shorter than a window, when it is played faster
        (16_500, None),
        (20_001, None),
        (38_399, None),  # searched for at a faster tempo
        (38_400, None),  # and not any more
        (77_777, (20_000, 45_000)),
        (160_000, None),
    ],
)
def test_the_models_inputs_are_pythons(features, encoder, num_samples, silent):
    """The vectors that the same engine makes of them are those of `Embedder.query`."""
    clip = excerpt(KNOWN[0], start_s=6.0, length_s=10.0, rate_hz=RATE)[:num_samples].copy()
    if silent:
        clip[slice(*silent)] = 0.0
        clip *= 1.7 / np.abs(clip).max()  # louder than full scale
    folder = features(clip)
    wanted = QueryRows(num_samples, encoder.config, HOP_S)
    rows = np.zeros(wanted.shape, np.float32)
    assert int((folder / "num-rows").read_text()) == len(rows)
    projected = encoder.engine.project(read(folder / "contrast-values", -1, 30, 128))
    rows[read(folder / "contrast-rows", -1, kind=np.int32)] = projected
    seen = read(folder / "power-seen", -1, 2, kind=np.int32)
    conformed = encoder.engine.conform(read(folder / "power-values", -1, 368, 80), seen)
    rows[read(folder / "power-rows", -1, kind=np.int32)] = conformed
    expected = encoder.query(clip)
    for mine, theirs in zip(parts(wanted.query(rows)), parts(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    if silent:
        assert 0 < expected.num_silent < len(expected.vectors)


def test_a_vector_as_bytes(features):
    folder = features(published_clip()[:RATE])
    assert read(folder / "packed", -1, kind=np.int8).tolist() == [32, -127, 64]
