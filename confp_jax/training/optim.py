"""Schedules, phases and the optimizer."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from confp_jax.config import OptimizerConfig, Phase


class Stage(NamedTuple):
    """A phase in steps: it makes the steps `first_step` + 1 to `last_step`."""

    phase: Phase
    first_step: int
    last_step: int


def plan_stages(phases: Sequence[Phase], steps_per_epoch: Sequence[int]) -> tuple[Stage, ...]:
    """Returns the phases one after another; `steps_per_epoch` says how many batches of each phase's
    size an epoch has.
    """
    stages = []
    first = 0
    for phase, steps in zip(phases, steps_per_epoch, strict=True):
        stages.append(Stage(phase, first, first + phase.num_epochs * steps))
        first = stages[-1].last_step
    return tuple(stages)


def make_schedule(config: OptimizerConfig, *, stages: tuple[Stage, ...]) -> optax.Schedule:
    """Returns the learning rate by step: a linear warm-up, then each stage's constant (paper), or
    over all a cosine to `final_fraction`.

    The cosine falls from the first stage's rate.
    """
    num_steps = stages[-1].last_step
    rate = stages[0].phase.learning_rate
    warmup = min(config.warmup_steps, max(num_steps - 1, 0))
    if config.schedule == "constant":
        rates = [optax.constant_schedule(stage.phase.learning_rate) for stage in stages]
        after = optax.join_schedules(rates, [stage.last_step - warmup for stage in stages[:-1]])
    else:
        after = optax.cosine_decay_schedule(
            rate, max(1, num_steps - warmup), alpha=config.final_fraction
        )
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


# the step is compiled for an optimizer: the same settings must give the same object
@functools.cache
def make_optimizer(
    config: OptimizerConfig, stages: tuple[Stage, ...]
) -> optax.GradientTransformation:
    """Adam with L2 in the gradient, as PyTorch's Adam(weight_decay=...) does and the paper uses;
    AdamW if `decoupled`.

    LAMB (You et al., 2020) and LARS (2017) decay and scale the matrices only, biases and norms
    move as by Adam and momentum.
    """
    schedule = make_schedule(config, stages=stages)
    # Clipping keeps no state: it may be switched on and off between two runs.
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity()
    decay = config.weight_decay
    if config.kind == "lamb":
        scaled = optax.chain(
            optax.scale_by_adam(eps=1e-6),
            optax.add_decayed_weights(decay),
            optax.scale_by_trust_ratio(),
        )
        plain = optax.scale_by_adam()
        kinds = optax.partition({"matrix": scaled, "vector": plain}, _matrix_or_vector)
        return optax.chain(clip, kinds, optax.scale_by_learning_rate(schedule))
    if config.kind == "lars":
        masks = {"weight_decay_mask": _is_matrix, "trust_ratio_mask": _is_matrix}
        return optax.chain(clip, optax.lars(schedule, weight_decay=decay, **masks))
    if config.decoupled:
        return optax.chain(clip, optax.adamw(schedule, weight_decay=decay))
    return optax.chain(clip, optax.add_decayed_weights(decay), optax.adam(schedule))


def _is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _matrix_or_vector(params: Any) -> Any:
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)
