"""Learning another encoder's fingerprints: the loss against numpy, what a step gains from it, what
is refused.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
from run_checks import logged_lines

from confp_jax.config import Phase, TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.model.inference import embed
from confp_jax.model.weights import CheckpointError, EncoderState, save_encoder
from confp_jax.training.losses import teacher_loss
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.optim import make_optimizer, plan_stages
from confp_jax.training.step import build_state, train_step
from confp_jax.training.teacher import load_teacher
from confp_jax.training.train import train
from confp_jax.typed_config import ConfigError


@pytest.fixture(scope="module")
def teacher(tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder with twice the layers and another seed, as a checkpoint folder."""
    config = dataclasses.replace(tiny(encoder={"num_layers": 2}), seed=7)
    with jax.set_mesh(make_mesh()):
        state = build_state(config, _optimizer())
    folder = tmp_path_factory.mktemp("teacher") / "checkpoint"
    save_encoder(folder, config, EncoderState(state.params, state.statistics))
    return str(folder)


def _optimizer():
    return make_optimizer(TrainConfig().optimizer, plan_stages([Phase(60, 3e-3, 4)], [1]))


def _cosine_after(config: TrainConfig, num_steps: int, teacher: str) -> float:
    """Steps on one batch: the mean cosine of the fingerprints of its anchors to the teacher's,
    whether it taught or not.
    """
    mesh = make_mesh()
    optimizer = _optimizer()
    with jax.set_mesh(mesh):
        state = build_state(config, optimizer)
        batch = global_batch(next(train_batches(config)), mesh)
        taught = load_teacher(config, mesh)(batch)
        assert ("target" in taught) == bool(config.teacher)
        for _ in range(num_steps):
            state, _ = train_step(state, taught, config=config, optimizer=optimizer)
        ours = embed(state.params, state.statistics, batch["anchor"], config=config.model)
        theirs = load_teacher(dataclasses.replace(config, teacher=teacher), mesh)(batch)["target"]
    return float(np.mean(np.sum(np.asarray(ours) * np.asarray(theirs), axis=1)))


def test_the_loss_is_the_distance_to_the_pairs_target() -> None:
    rng = np.random.default_rng(0)
    rows, targets = (rng.normal(size=(n, 16)).astype(np.float32) for n in (10, 5))
    rows, targets = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, targets))
    expected = np.mean([1 - rows[i] @ targets[i // 2] for i in range(10)]) / 0.07
    assert float(teacher_loss(rows, targets, temperature=0.07)) == pytest.approx(expected, rel=1e-5)
    assert float(
        teacher_loss(np.repeat(targets, 2, axis=0), targets, temperature=0.07)
    ) == pytest.approx(0, abs=1e-5)


def test_it_learns_the_teachers_fingerprints(
    tiny: Callable[..., TrainConfig], teacher: str
) -> None:
    """Of another depth; NT-Xent alone, on the same batch, comes to others."""
    still = {"num_frequency_masks": 0, "num_time_masks": 0}
    config = tiny(encoder={"dropout": 0.0, "conv_norm": "layer"}, spec_augment=still)
    alone = _cosine_after(config, 60, teacher)
    taught = _cosine_after(dataclasses.replace(config, teacher=teacher), 60, teacher)
    assert taught > 0.9 > 0.6 > alone


def test_samples_and_their_mel_power_have_the_same_fingerprints(
    tiny: Callable[..., TrainConfig], teacher: str
) -> None:
    mesh = make_mesh()
    targets = []
    for mel_on in ("host", "device"):
        config = tiny(data={"mel_on": mel_on}, teacher=teacher)
        batch = global_batch(next(train_batches(config)), mesh)
        targets.append(np.asarray(load_teacher(config, mesh)(batch)["target"]))
    np.testing.assert_allclose(targets[1], targets[0], atol=1e-3)


def test_a_run_is_taught_and_keeps_its_teacher(
    tiny: Callable[..., TrainConfig],
    teacher: str,
    uninterrupted: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    """Another run than without; gone on with only by the same teacher, until told otherwise."""
    train(tiny(teacher=teacher), tmp_path, stop_at_step=2)
    taught, alone = (
        [line["gradient_norm"] for line in logged_lines(run)[:2]]
        for run in (tmp_path, uninterrupted)
    )
    assert np.abs(np.divide(taught, alone) - 1).min() > 0.01
    with pytest.raises(ConfigError, match="teacher .*--allow_change=teacher"):
        train(tiny(), tmp_path, stop_at_step=3)
    train(tiny(), tmp_path, stop_at_step=3, allow_change=["teacher"])


def test_a_teacher_that_does_not_fit_is_refused(
    tiny: Callable[..., TrainConfig], teacher: str, tmp_path: pathlib.Path
) -> None:
    """Before anything is written; what differs and does not matter (dropout, layers) is not
    named.
    """
    refused = (
        ({"mel": {"floor": 1e-5}}, r"than this run: set --config.mel.floor=1e-06 \(not 1e-05\)$"),
        (
            {"encoder": {"embedding_dim": 64, "dropout": 0.3}},
            r"this run: set --config.encoder.embedding_dim=128 \(not 64\)$",
        ),
    )
    for change, message in refused:
        with pytest.raises(ConfigError, match=message):
            train(tiny(teacher=teacher, **change), tmp_path / "run")
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        train(tiny(teacher=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
