"""The optimizer against numpy, the schedules against their formulas."""

from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest

from confp_jax.config import OptimizerConfig, Phase
from confp_jax.training.optim import Stage, make_optimizer, make_schedule, plan_stages

_NUM_STEPS = 7


def _schedule(config: OptimizerConfig, *, num_steps: int) -> optax.Schedule:
    return make_schedule(config, stages=_stages(config, num_steps))


def _stages(config: OptimizerConfig, num_steps: int) -> tuple[Stage, ...]:
    return plan_stages([Phase(num_steps, config.learning_rate, 4)], [1])


def _run(
    config: OptimizerConfig, gradients: list[dict[str, np.ndarray]], start: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    optimizer = make_optimizer(config, _stages(config, len(gradients)))
    params = jax.tree.map(np.asarray, start)
    state = optimizer.init(start)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


@pytest.fixture
def problem() -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def draw() -> dict[str, np.ndarray]:
        return {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in (("kernel", (3, 4)), ("bias", (4,)))
        }

    return [draw() for _ in range(_NUM_STEPS)], draw()


def _adam(
    gradients,
    start,
    *,
    lr: Callable[[int], float],
    decay: float,
    decoupled: bool,
    clip: float = np.inf,
):
    """PyTorch's Adam (decay joins the gradient) or AdamW (decay shrinks the weights), in
    float64.
    """
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
    config = OptimizerConfig(
        learning_rate=0.01, weight_decay=decay, decoupled=decoupled, clip_norm=clip_norm
    )
    expected = _adam(
        gradients,
        start,
        lr=lambda _: 0.01,
        decay=decay,
        decoupled=decoupled,
        clip=clip_norm or np.inf,
    )
    for name, value in _run(config, gradients, start).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)


def test_adam_follows_the_schedule(problem: tuple) -> None:
    gradients, start = problem
    config = OptimizerConfig(
        learning_rate=0.01, schedule="cosine", warmup_steps=3, weight_decay=0.0
    )
    expected = _adam(
        gradients, start, lr=lambda t: _cosine(t, config, _NUM_STEPS), decay=0.0, decoupled=False
    )
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
    assert [float(_schedule(constant, num_steps=50)(t)) for t in (0, 25, 50)] == [
        pytest.approx(2e-4)
    ] * 3
    warm = OptimizerConfig(learning_rate=2e-4, warmup_steps=10)
    schedule = _schedule(warm, num_steps=50)
    assert [float(schedule(t)) for t in (0, 5, 10, 49)] == pytest.approx([0, 1e-4, 2e-4, 2e-4])
    cosine = OptimizerConfig(
        learning_rate=1e-3, schedule="cosine", warmup_steps=10, final_fraction=0.1
    )
    schedule = _schedule(cosine, num_steps=50)
    steps = range(60)
    np.testing.assert_allclose(
        [float(schedule(t)) for t in steps],
        [_cosine(t, cosine, 50) for t in steps],
        rtol=1e-5,
        atol=1e-9,
    )
    assert float(schedule(30)) == pytest.approx(0.55e-3)  # half-way down
    assert float(schedule(50)) == pytest.approx(1e-4)


def test_a_run_shorter_than_its_warm_up() -> None:
    schedule = _schedule(
        OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=100), num_steps=5
    )
    values = [float(schedule(t)) for t in range(5)]
    assert all(np.isfinite(values))
    assert values[-1] == pytest.approx(1.0)


def test_phases_follow_one_another() -> None:
    """docs/research/paper.md, "large model's schedule": the batch grows, so an epoch has fewer
    steps.
    """
    phases = [Phase(2, 2e-4, 64), Phase(3, 1e-4, 128), Phase(1, 5e-5, 256)]
    stages = plan_stages(phases, [8, 4, 2])
    assert [(stage.first_step, stage.last_step) for stage in stages] == [
        (0, 16),
        (16, 28),
        (28, 30),
    ]
    schedule = make_schedule(OptimizerConfig(warmup_steps=4), stages=stages)
    assert [float(schedule(t)) for t in (0, 2, 4, 15, 16, 27, 28, 29)] == pytest.approx(
        [0, 1e-4, 2e-4, 2e-4, 1e-4, 1e-4, 5e-5, 5e-5]
    )


@pytest.mark.parametrize("kind", ["lamb", "lars"])
def test_large_batch_optimizers(problem: tuple, kind: str) -> None:
    """You et al.: the step of a matrix is as long as the matrix itself, times the rate; vectors
    move as without it.
    """
    gradients, start = problem
    config = OptimizerConfig(kind=kind, learning_rate=0.01, weight_decay=0.1)
    expected = {name: value.astype(np.float64) for name, value in start.items()}
    trace = {name: np.zeros_like(value) for name, value in expected.items()}
    square = {name: np.zeros_like(value) for name, value in expected.items()}
    for t, gradient in enumerate(gradients, 1):
        for name, value in expected.items():
            g = gradient[name].astype(np.float64)
            is_matrix = value.ndim > 1
            if kind == "lars":
                g = g + 0.1 * value if is_matrix else g
                g = g * 0.001 * np.linalg.norm(value) / np.linalg.norm(g) if is_matrix else g
                trace[name] = -0.01 * g + 0.9 * trace[name]
                expected[name] = value + trace[name]
                continue
            trace[name] = 0.9 * trace[name] + 0.1 * g
            square[name] = 0.999 * square[name] + 0.001 * g * g
            root = np.sqrt(square[name] / (1 - 0.999**t)) + (1e-6 if is_matrix else 1e-8)
            step = trace[name] / (1 - 0.9**t) / root
            if is_matrix:
                step = step + 0.1 * value
                step = step * np.linalg.norm(value) / np.linalg.norm(step)
            expected[name] = value - 0.01 * step
    for name, value in _run(config, gradients, start).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)
