"""Schedules and the optimizer."""

import optax

from confp_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, *, num_steps: int) -> optax.Schedule:
    """Learning rate by step: a linear warm-up, then constant (paper) or a cosine down to `final_fraction`."""
    warmup = min(config.warmup_steps, max(num_steps - 1, 0))
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        after = optax.cosine_decay_schedule(config.learning_rate, max(1, num_steps - warmup), alpha=config.final_fraction)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), after], [warmup])


def make_optimizer(config: OptimizerConfig, *, num_steps: int) -> optax.GradientTransformation:
    """Adam with L2 in the gradient, as PyTorch's Adam(weight_decay=...) does and the paper uses; or AdamW if `decoupled`."""
    schedule = make_schedule(config, num_steps=num_steps)
    # Clipping keeps no state: it may be switched on and off between two runs.
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity()
    if config.decoupled:
        return optax.chain(clip, optax.adamw(schedule, weight_decay=config.weight_decay))
    return optax.chain(clip, optax.add_decayed_weights(config.weight_decay), optax.adam(schedule))
