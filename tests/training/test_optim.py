"""The optimizer against numpy, the schedules against their formulas."""

from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest

from confp_jax.config import OptimizerConfig
from confp_jax.training.optim import make_optimizer, make_schedule

_NUM_STEPS = 7


def _run(config: OptimizerConfig, gradients: list[dict[str, np.ndarray]], start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    optimizer = make_optimizer(config, num_steps=len(gradients))
    params, state = jax.tree.map(np.asarray, start), optimizer.init(start)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


@pytest.fixture
def problem() -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def draw() -> dict[str, np.ndarray]:
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("kernel", (3, 4)), ("bias", (4,)))}

    return [draw() for _ in range(_NUM_STEPS)], draw()


def _adam(gradients, start, *, lr: Callable[[int], float], decay: float, decoupled: bool, clip: float = np.inf):
    """PyTorch's Adam (decay joins the gradient) or AdamW (decay shrinks the weights), in float64."""
    params = {name: value.astype(np.float64) for name, value in start.items()}
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for t, gradient in enumerate(gradients, 1):
        norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradient.values()))
        for name, value in params.items():
            g = gradient[name] * min(1.0, clip / norm)
            if not decoupled:
                g = g + decay * value
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            step = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
            params[name] = value - lr(t - 1) * (step + (decay * value if decoupled else 0))
    return params


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_adam(problem: tuple, decoupled: bool, clip_norm: float) -> None:
    gradients, start = problem
    decay = 0.3  # large: so that a forgotten one shows
    config = OptimizerConfig(learning_rate=0.01, weight_decay=decay, decoupled=decoupled, clip_norm=clip_norm)
    expected = _adam(gradients, start, lr=lambda _: 0.01, decay=decay, decoupled=decoupled, clip=clip_norm or np.inf)
    for name, value in _run(config, gradients, start).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)


def test_adam_follows_the_schedule(problem: tuple) -> None:
    gradients, start = problem
    config = OptimizerConfig(learning_rate=0.01, schedule="cosine", warmup_steps=3, weight_decay=0.0)
    expected = _adam(gradients, start, lr=lambda t: _cosine(t, config, _NUM_STEPS), decay=0.0, decoupled=False)
    for name, value in _run(config, gradients, start).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)


def _cosine(step: int, config: OptimizerConfig, num_steps: int) -> float:
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    done = (step - config.warmup_steps) / (num_steps - config.warmup_steps)
    half = (1 + np.cos(np.pi * min(done, 1.0))) / 2
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * half)


def test_schedules() -> None:
    constant = OptimizerConfig(learning_rate=2e-4)
    assert [float(make_schedule(constant, num_steps=50)(t)) for t in (0, 25, 50)] == [pytest.approx(2e-4)] * 3
    warm = OptimizerConfig(learning_rate=2e-4, warmup_steps=10)
    schedule = make_schedule(warm, num_steps=50)
    assert [float(schedule(t)) for t in (0, 5, 10, 49)] == pytest.approx([0, 1e-4, 2e-4, 2e-4])
    cosine = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=10, final_fraction=0.1)
    schedule = make_schedule(cosine, num_steps=50)
    steps = range(60)
    np.testing.assert_allclose([float(schedule(t)) for t in steps], [_cosine(t, cosine, 50) for t in steps], rtol=1e-5, atol=1e-9)
    assert float(schedule(30)) == pytest.approx(0.55e-3)  # half-way down
    assert float(schedule(50)) == pytest.approx(1e-4)


def test_a_run_shorter_than_its_warm_up() -> None:
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=100), num_steps=5)
    values = [float(schedule(t)) for t in range(5)]
    assert all(np.isfinite(values))
    assert values[-1] == pytest.approx(1.0)
