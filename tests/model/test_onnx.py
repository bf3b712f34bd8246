"""The ONNX graph against the encoder in JAX."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest
from onnx import load as load_onnx

from confp_jax.audio.contrast import clip_contrast
from confp_jax.audio.mel import mel_power
from confp_jax.config import (
    AudioConfig,
    EncoderConfig,
    MelConfig,
    ModelConfig,
    ProjectionConfig,
    TrainConfig,
)
from confp_jax.fingerprint.engine import EngineError, chosen_engine, load_engine
from confp_jax.fingerprint.onnx_engine import OnnxEngine
from confp_jax.model.errors import CheckpointError, DamagedArraysError
from confp_jax.model.inference import embed, project
from confp_jax.model.onnx_export import export_model, write_onnx
from confp_jax.model.parts import mixed
from confp_jax.model.shipped import shipped_folder
from confp_jax.model.weights import EncoderState, abstract_encoder, load_encoder_state, save_encoder

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARTS = ProjectionConfig(
    share=0.7, num_frames=5, mel=MelConfig(num_mels=6, fmin_hz=300.0, fmax_hz=6500.0)
)
SMALL = EncoderConfig(dim=16, num_layers=1, num_heads=2, embedding_dim=24)
OPTIONS = {
    "paper": SMALL,
    "tokens": dataclasses.replace(SMALL, frames_per_token=3, pool_segments=4, conv_kernel=3),
    "layer norm": dataclasses.replace(SMALL, conv_norm="layer", num_layers=2, pool_segments=2),
    "both parts": dataclasses.replace(SMALL, projection=PARTS, frames_per_token=2),
    "projection": dataclasses.replace(SMALL, projection=dataclasses.replace(PARTS, share=1.0)),
}


def an_encoder(options: EncoderConfig) -> tuple[ModelConfig, EncoderState]:
    """Random arrays everywhere, also where training begins with zeros and ones."""
    mel = MelConfig(num_mels=10, hop_samples=256)
    config = ModelConfig(audio=AudioConfig(segment_s=0.5), mel=mel, encoder=options)
    rng = np.random.default_rng(0)

    def drawn(leaf: jax.Array) -> np.ndarray:
        values = rng.normal(0, 1 / np.sqrt(leaf.shape[0]), leaf.shape)
        return (values if len(leaf.shape) > 1 else rng.uniform(0.5, 1, leaf.shape)).astype("f")

    return config, EncoderState(*jax.tree.map(drawn, abstract_encoder(config)))


def features(config: ModelConfig, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mel power, the frames of it that are seen (some, of the first), and local contrast."""
    rng = np.random.default_rng(num)
    frames = config.mel.num_frames(config.audio.context_samples)
    power = np.exp(rng.normal(-8, 3, (num, frames, config.mel.num_mels))).astype(np.float32)
    seen = np.tile(np.array([0, frames], np.int32), (num, 1))
    seen[:1] = frames // 4, frames - 3
    own = config.encoder.projection
    contrast = np.exp(rng.normal(0, 1, (num, own.num_frames, own.mel.num_mels)))
    return power, seen, contrast.astype(np.float32)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_encoder_gives_what_it_gives_in_jax(name, tmp_path):
    config, state = an_encoder(OPTIONS[name])
    write_onnx(tmp_path / "a.onnx", config, state)
    check_agrees(OnnxEngine(tmp_path / "a.onnx"), config, state)


@pytest.mark.parametrize(
    "name",
    [
        "edge2",
        "edge2-64",
        pytest.param("edge2-96", marks=pytest.mark.slow),
        pytest.param("edge", marks=pytest.mark.slow),
        pytest.param("small", marks=pytest.mark.slow),
    ],
)
def test_shipped_models_agree_and_carry_their_identity(name):
    """Also: the file is of the checkpoint beside it."""
    folder = shipped_folder(name)
    config, state = load_encoder_state(folder)
    engine = load_engine(folder, "onnx")
    reference = load_engine(folder, "jax")
    assert (engine.name, reference.name) == ("onnx", "jax")
    assert engine.weights_hash == reference.weights_hash
    assert engine.batch_shapes == reference.batch_shapes
    check_agrees(engine, config, state)


def check_agrees(engine, config: ModelConfig, state: EncoderState) -> None:
    power, seen, contrast = features(config, 3)
    found = {}
    if config.encoder.has_conformer:
        found["conformed"] = np.asarray(embed(*state, power, seen, config=config))
        for num in (3, 1, 0):
            given = engine.conform(power[:num], seen[:num])
            np.testing.assert_allclose(given, found["conformed"][:num], atol=1e-5)
    if config.encoder.has_projection:
        projected = np.asarray(project(*state, contrast, config=config))
        found["projected"] = projected
        if not config.encoder.has_conformer:
            projected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
        scale = np.abs(projected).max()
        for num in (3, 1, 0):
            given = engine.project(contrast[:num]) / scale
            np.testing.assert_allclose(given, projected[:num] / scale, atol=1e-5)
    if len(found) == 2:
        inputs = {"power": power, "seen": seen, "contrast": contrast}
        both = engine._session.run(["fingerprint"], inputs)[0]
        share = config.encoder.projection.share
        expected = mixed(found["projected"], found["conformed"], share=share)
        np.testing.assert_allclose(both, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["tokens", "both parts"])
def test_int8_is_close(name, tmp_path):
    options = dataclasses.replace(OPTIONS[name], dim=64, embedding_dim=64)
    config, state = an_encoder(options)
    weights_hash = write_onnx(tmp_path / "full.onnx", config, state)
    assert write_onnx(tmp_path / "int8.onnx", config, state, is_int8=True) == weights_hash
    full = OnnxEngine(tmp_path / "full.onnx")
    int8 = OnnxEngine(tmp_path / "int8.onnx")
    power, seen, _ = features(config, 32)
    close = np.median(cosines(full.conform(power, seen), int8.conform(power, seen)))
    assert 0.999 < close < 1 - 1e-7
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("full", "int8")]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_shipped_model_in_int8_is_of_the_same_weights(tmp_path):
    file = tmp_path / "small.int8.onnx"
    export_model(str(shipped_folder("small")), file, is_int8=True)
    full = load_engine(shipped_folder("small"), "onnx")
    int8 = load_engine(file)
    assert (int8.name, int8.weights_hash, int8.config) == ("int8", full.weights_hash, full.config)
    power, seen, _ = features(full.config, 4)
    assert cosines(full.conform(power, seen), int8.conform(power, seen)).min() > 0.998


def test_the_published_vector_is_what_the_shipped_model_gives():
    """docs/music/anywhere.md tells other languages what to compare with."""
    sound = published_sound()
    model = load_engine(shipped_folder("edge2"), "onnx")
    config = model.config.encoder.projection
    contrast = clip_contrast(sound, config, sample_rate_hz=16_000)
    power = mel_power(sound, model.config.mel, sample_rate_hz=16_000)[None, :368]
    projected = model.project(contrast[None, 35:65])
    conformed = model.conform(power, np.array([[0, 368]], np.int32))
    both = mixed(projected[None], conformed[None], share=config.share)[0, 0]
    found = {
        "contrast, frame 0": contrast[0],
        "contrast, frame 50": contrast[50],
        "`projected` of frames 35 to 64": projected[0],
        "mel power, frame 0": power[0, 0],
        "`conformed` of its 368 frames": conformed[0],
        "`fingerprint` of both": both,
    }
    page = (ROOT / "docs" / "music" / "anywhere.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE))
    for name, values in found.items():
        numbers = np.array(rows[name].split(",")[0].split(), np.float64)
        np.testing.assert_allclose(numbers, values[: len(numbers)], rtol=1e-3, atol=2e-5)
    signs = np.packbits(both > 0)[:8].tobytes().hex(" ")
    assert rows["its signs as bytes, first bit highest"] == signs
    assert f"whose sum is {contrast.sum():,.0f}:" in page
    assert f"length {np.linalg.norm(projected):.2f}" in page


def published_sound() -> np.ndarray:
    """Returns the sound of the page, by its formula."""
    n = np.arange(48_000)
    swept = 0.25 * np.sin(2 * np.pi * 440 * n / 16_000 * (1 + n / 96_000))
    pulsed = 0.1 * ((n // 1_600) % 2) * np.sin(2 * np.pi * 1_760 * n / 16_000)
    return (swept + pulsed).astype(np.float32)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.sum(left * right, axis=1) / lengths


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> pathlib.Path:
    """A model's folder with a checkpoint and its ONNX file."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    folder.mkdir()
    config, state = an_encoder(OPTIONS["tokens"])
    save_encoder(folder / "checkpoint", TrainConfig(**vars(config)), state)
    export_model(str(folder), folder / "mine.onnx")
    return folder


def test_matrices_are_stored_in_half_where_that_changes_nothing(tmp_path):
    config, state = an_encoder(dataclasses.replace(SMALL, dim=128))
    rounded = jax.tree.map(lambda leaf: leaf.astype("f2").astype("f4"), state)
    write_onnx(tmp_path / "full.onnx", config, state)
    write_onnx(tmp_path / "half.onnx", config, EncoderState(*rounded))
    full, half = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    kinds = {node.op_type for node in load_onnx(tmp_path / "half.onnx").graph.node}
    assert "Gemm" in kinds and not any("." in kind for kind in kinds), "operators of ONNX alone"


def test_a_damaged_file_is_refused(exported, tmp_path):
    data = bytearray((exported / "mine.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(DamagedArraysError, match=r"bad\.onnx is damaged: its checksum is another"):
        load_engine(tmp_path / "bad.onnx")
    (tmp_path / "bad.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"bad\.onnx was not made by confp, or is cut off"):
        load_engine(tmp_path / "bad.onnx")


def test_a_file_of_another_checkpoint_is_refused(exported, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "_CHECKPOINT_METADATA").write_text(
        '{"custom_metadata": {"checksums": {"encoder": "00000000"}}}'
    )
    file = tmp_path / f"{tmp_path.name}.onnx"
    file.write_bytes((exported / "mine.onnx").read_bytes())
    with pytest.raises(CheckpointError, match="was made of other weights than those in"):
        load_engine(tmp_path)


class TestWhichEngine:
    def test_the_faster_one_here(self, exported, monkeypatch):
        assert load_engine(exported).name == "onnx"
        monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
        assert chosen_engine(exported) == "jax"
        assert chosen_engine(exported / "checkpoint") == "jax"
        assert chosen_engine(exported / "mine.onnx") == "onnx", "JAX reads no ONNX"

    def test_the_one_asked_for(self, exported, monkeypatch):
        monkeypatch.setenv("CONFP_ENGINE", "jax")
        assert load_engine(exported).name == "jax"
        assert load_engine(exported, "onnx").name == "onnx"

    @pytest.mark.parametrize(
        ("missing", "place", "engine", "words"),
        [
            ("", "", "jaks", "engine 'jaks' is unknown; expected auto, onnx, int8 or jax"),
            ("", "checkpoint", "onnx", r"checkpoint\.onnx: no such file; `confp export"),
            ("", "", "int8", r"mine\.int8\.onnx: no such file; .*mine\.int8\.onnx --int8`"),
            ("onnxruntime", "", "onnx", "needs ONNX Runtime: pip install"),
            ("flax", "", "jax", r"needs JAX: pip install 'confp-jax\[jax\]'"),
            ("flax", "checkpoint", None, r"needs JAX.*; .*checkpoint\.onnx: no such file"),
        ],
    )
    def test_what_is_missing_is_named(self, exported, monkeypatch, missing, place, engine, words):
        from confp_jax.fingerprint import engine as module

        there = module._is_installed
        monkeypatch.setattr(module, "_is_installed", lambda name: name != missing and there(name))
        with pytest.raises(EngineError, match=words):
            chosen_engine(exported / place, engine)
