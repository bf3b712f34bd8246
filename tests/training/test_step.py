"""The step learns; seed and step decide its draws. On several devices: test_eight_devices.py."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from confp_jax.config import OptimizerConfig, Phase, TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.optim import make_optimizer, plan_stages
from confp_jax.training.step import build_state, pair_features, train_step


@pytest.fixture(scope="module")
def problem(tiny: Callable[..., TrainConfig]):
    """One configuration and one batch for the whole module, so that the step is compiled once;
    dropout and masks are on.
    """
    config = tiny(optimizer=OptimizerConfig(learning_rate=3e-3))
    mesh = make_mesh()
    optimizer = make_optimizer(config.optimizer, plan_stages([Phase(60, 3e-3, 4)], [1]))
    return config, mesh, optimizer, global_batch(next(train_batches(config)), mesh)


def test_it_can_learn_one_batch_by_heart(problem) -> None:
    config, mesh, optimizer, batch = problem
    losses = []
    top1 = []
    with jax.set_mesh(mesh):
        state = build_state(config, optimizer)
        for _ in range(120):
            state, metrics = train_step(state, batch, config=config, optimizer=optimizer)
            losses.append(float(metrics.loss))
            top1.append(float(metrics.top1))
    assert int(state.step) == 120
    assert np.log(7) * 0.5 < losses[0], "8 embeddings: chance is log 7"
    assert np.mean(losses[-10:]) < 0.3 * losses[0]  # masks and dropout go on
    assert np.mean(top1[-10:]) > 0.9


def test_seed_and_step_decide_the_draws(problem) -> None:
    """Same seed and step, same bits; SpecAugment and dropout draw new values at every step."""
    config, mesh, optimizer, batch = problem
    with jax.set_mesh(mesh):
        first, again = (build_state(config, optimizer) for _ in range(2))
        later = first._replace(step=first.step + 1)
        losses = [
            float(train_step(s, batch, config=config, optimizer=optimizer)[1].loss)
            for s in (first, again, first, later)
        ]
    assert losses[0] == losses[1] == losses[2] != losses[3]


def test_short_replicas_show_a_part_and_anchors_all(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny(
        audio={"segment_s": 3.0},
        data={"short_p": 0.4, "short_s": (1.0, 2.0)},
        spec_augment={"num_frequency_masks": 0, "num_time_masks": 0},
    )
    power = (
        np.random.default_rng(0)
        .uniform(1, 5, (2, 400, 368, config.mel.num_mels))
        .astype(np.float32)
    )
    frames = np.asarray(
        pair_features({"anchor": power[0], "replica": power[1]}, jax.random.key(0), config)
    )
    seen = (frames != 0).any(axis=2)
    assert seen[::2].all()
    assert (
        np.abs(np.diff(seen[1::2].astype(int), axis=1)).sum(axis=1) <= 2
    ).all()  # one run of frames
    num = seen[1::2].sum(axis=1)
    is_short = ~seen[1::2].all(axis=1)
    assert 0.3 < is_short.mean() < 0.5
    assert (
        118 <= num[is_short].min() < 130 and 235 < num[is_short].max() <= 243
    )  # frames in 1 and 2 s
    first = seen[1::2].argmax(axis=1)[is_short] / (368 - num[is_short])
    assert first.min() < 0.05 and first.max() > 0.95 and 0.45 < first.mean() < 0.55
