"""The closed form against its definition, and the encoder that it becomes."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg

from confp_jax.config import (
    AudioConfig,
    EncoderConfig,
    MelConfig,
    ModelConfig,
    ProjectionConfig,
    TrainConfig,
)
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.jax_engine import JaxEngine
from confp_jax.fingerprint.query import joined
from confp_jax.model.weights import EncoderState, hash_weights
from confp_jax.training import export
from confp_jax.training.export import new_model, write_model
from confp_jax.training.fine_tune import refuse_projection
from confp_jax.training.fit_projection import Covariances, Directions, main, with_conformer
from confp_jax.typed_config import ConfigError

RATE_HZ = 16_000
SMALL = ProjectionConfig(
    mel=MelConfig(fft_samples=512, hop_samples=480, num_mels=10, fmin_hz=300, fmax_hz=6500)
)


@pytest.fixture(scope="module")
def directions() -> Directions:
    rng = np.random.default_rng(0)
    return Directions(
        rng.normal(size=(300, 16)).astype(np.float32), np.zeros(300, np.float32), np.ones(16)
    )


def parts(directions: Directions, share: float) -> tuple[ModelConfig, EncoderState]:
    import dataclasses

    from flax import nnx

    from confp_jax.model.encoder import Encoder

    config = ModelConfig(
        audio=AudioConfig(RATE_HZ, 1.5),
        mel=MelConfig(num_mels=12, hop_samples=256),
        encoder=EncoderConfig(
            dim=16,
            num_layers=1,
            num_heads=4,
            embedding_dim=8,
            conv_norm="layer",
            frames_per_token=4,
        ),
    )
    _, params, statistics = nnx.split(
        Encoder(config.encoder, num_mels=12, rngs=nnx.Rngs(1)), nnx.Param, ...
    )
    projection = dataclasses.replace(SMALL, share=share)
    beside = (config, EncoderState(params, statistics)) if share < 1 else None
    config, state = with_conformer(directions, projection, beside, segment_s=0.9, seed=3)
    return config.model, state


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    rng = np.random.default_rng(2)
    tones = sum(
        np.sin(2 * np.pi * hz * np.arange(6 * RATE_HZ) / RATE_HZ) for hz in (440, 1330, 2500)
    )
    swell = np.repeat(rng.uniform(0, 1, 60), RATE_HZ // 10)
    return (0.1 * tones * swell + 0.02 * rng.standard_normal(6 * RATE_HZ)).astype(np.float32)


def test_directions_are_the_generalised_eigenvectors():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(4_000, 12)) * np.linspace(3, 1, 12) + 5.0
    replayed = clean + rng.normal(size=clean.shape) * np.linspace(0.3, 2, 12)
    sums = Covariances(12)
    for first in range(0, 4_000, 1_000):
        sums.add(
            clean[first : first + 1_000].astype(np.float32),
            replayed[first : first + 1_000].astype(np.float32),
        )
    found = sums.directions(4)
    noise = (clean - replayed).T @ (clean - replayed) / 8_000
    noise += 1e-2 * np.trace(noise) / 12 * np.eye(12)
    values, vectors = scipy.linalg.eigh(np.cov(clean.T, bias=True), noise)
    np.testing.assert_allclose(found.ratios, values[::-1][:4], rtol=1e-3)
    expected = vectors[:, ::-1][:, :4] * (1 - 1 / values[::-1][:4]) ** 0.1
    np.testing.assert_allclose(np.abs(found.kernel), np.abs(expected), atol=2e-3)
    np.testing.assert_allclose(found.mean, clean.mean(axis=0), rtol=1e-5)
    with pytest.raises(ValueError, match="13 directions of 12 values"):
        sums.directions(13)


def test_both_parts_add_up_by_their_share(directions, music):
    """The product of two fingerprints is the weighted sum of the parts' own cosines."""
    alone = [
        Embedder("part", JaxEngine(*parts(directions, share))).embed(music, sample_rate_hz=RATE_HZ)
        for share in (1.0, 1e-9, 0.7)
    ]
    projection, conformer, both = (rows @ rows.T for rows in alone)
    np.testing.assert_allclose(both, 0.7 * projection + 0.3 * conformer, atol=2e-2)
    np.testing.assert_allclose(np.diag(both), 1.0, atol=1e-5)


def test_a_query_is_the_projection_alone(directions, music):
    """Not what is stored, which is mixed with the conformer's: that searches by itself."""
    config, state = parts(directions, 0.7)
    both = Embedder("both", JaxEngine(config, state))
    projection = dataclasses.replace(config.encoder.projection, share=1 - 1e-9)
    alone = dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, projection=projection)
    )
    stored = Embedder("alone", JaxEngine(alone, state)).fingerprint(music).vectors
    np.testing.assert_allclose(both.query(music).vectors, stored, atol=1e-3)
    assert not np.allclose(both.fingerprint(music).vectors, stored, atol=1e-2)


def test_a_query_is_dense(directions, music):
    """What lies between two fingerprints is that of the audio from there on."""
    embedder = Embedder("part", JaxEngine(*parts(directions, 1.0)))
    query = embedder.query(music)
    hop = round(0.3 * RATE_HZ)
    assert query.between.shape == (4, *query.vectors.shape)
    for phase in (1, 2, 3, 4):
        shifted = embedder.query(music[phase * hop // 5 :]).vectors
        cosines = np.sum(query.between[phase - 1, 3:10] * shifted[3:10], axis=1)
        assert cosines.min() > 0.9, "a frame may be half a hop off"
    assert not query.between[3, -1].any(), "the audio has ended"


def test_the_conformer_alone_gives_its_own_cosines(directions, music):
    embedder = Embedder("both", JaxEngine(*parts(directions, 0.7)))
    alone = Embedder("conformer", JaxEngine(*parts(directions, 1e-9))).embed(
        music, sample_rate_hz=RATE_HZ
    )
    stored = embedder.fingerprint(music).vectors
    query = embedder.query(music)
    heard = query.by_conformer()
    assert heard.between.shape == (1, *heard.vectors.shape)
    assert query.plain().by_conformer().sped_up is None
    np.testing.assert_allclose(embedder.stored_rows(query), stored, atol=1e-5)
    np.testing.assert_allclose(heard.vectors @ stored.T, alone @ alone.T, atol=2e-2)


def test_it_warms_up(directions):
    """A segment is shorter than the shortest query."""
    Embedder("both", JaxEngine(*parts(directions, 0.7))).warm_up()


@pytest.mark.parametrize("share", [0.7, 1.0])
@pytest.mark.parametrize("windows", [1, 3, 8])
def test_a_stream_gives_what_the_whole_gives(directions, music, share, windows):
    embedder = Embedder("part", JaxEngine(*parts(directions, share)))
    blocks = [music[first : first + 7_001] for first in range(0, len(music), 7_001)]
    found = list(embedder.stream(blocks, windows_at_once=windows))
    whole = embedder.query(music)
    np.testing.assert_allclose(
        np.concatenate([part.vectors for part in found]), whole.vectors, atol=2e-3
    )
    between = np.concatenate([part.between for part in found], axis=1)
    np.testing.assert_allclose(between, whole.between, atol=2e-3)
    if share < 1.0:
        heard = joined(found).by_conformer().vectors
        np.testing.assert_allclose(heard, whole.by_conformer().vectors, atol=2e-2)


def test_what_a_query_is_like_does_not_rename_a_model(directions):
    import dataclasses

    config, state = parts(directions, 0.7)
    projection = dataclasses.replace(config.encoder.projection, query_phases=2)
    other = dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, projection=projection)
    )
    assert hash_weights(other, state) == hash_weights(config, state)
    projection = dataclasses.replace(projection, share=0.6)
    other = dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, projection=projection)
    )
    assert hash_weights(other, state) != hash_weights(config, state)


def test_a_projection_is_not_trained(directions):
    with pytest.raises(ConfigError, match="init_from=x has a projection"):
        refuse_projection("init_from", "x", parts(directions, 0.7)[0])


def test_what_is_missing_is_named(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_a_folder_has_one_writer_and_one_model(tmp_path, capsys, directions):
    config, state = parts(directions, 0.7)
    out = tmp_path / "out"
    command = [str(tmp_path / "nothing"), str(out)]
    with new_model(out):
        assert main(command) == export.main(command) == 1
        assert capsys.readouterr().err.count("is being written by process") == 2
        (out / "checkpoint.part.orbax-checkpoint-tmp" / "left").mkdir(parents=True)
        (out / "checkpoint.part").mkdir()  # of a process that was killed
        written = write_model(out, TrainConfig(**vars(config), name="new"), state)
        assert "weights hash" in written
    assert [path.name for path in out.iterdir()] == ["checkpoint"]
    assert main(command) == 1 and "checkpoint exists" in capsys.readouterr().err


def test_a_model_that_is_not_whole_has_no_name(tmp_path, monkeypatch, directions):
    def killed(target, *_):
        target.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write", killed)
    config, state = parts(directions, 0.7)
    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "out", TrainConfig(**vars(config)), state)
    assert not (tmp_path / "out" / "checkpoint").exists()
