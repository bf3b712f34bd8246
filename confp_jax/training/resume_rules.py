"""Which settings a run may be resumed with that it was not begun with."""

from collections.abc import Collection

from confp_jax.config import TrainConfig
from confp_jax.typed_config import ConfigError, flat_fields, suggestion

# A run may continue with others of these: they change neither the model nor what a step does.
_FREE_FIELDS = (
    *("log_every_steps", "validation", "checkpoint", "init_from"),
    *("data.dir", "data.num_workers", "rematerialise"),
)
# What decides the shapes of the saved arrays, and what they mean.
_FIXED_FIELDS = (
    *(
        "audio",
        "mel",
        "optimizer.kind",
        "optimizer.decoupled",
        "encoder.dim",
        "encoder.num_layers",
        "encoder.num_heads",
    ),
    *(
        "encoder.conv_kernel",
        "encoder.embedding_dim",
        "encoder.frames_per_token",
        "encoder.pool_segments",
        "encoder.conv_norm",
    ),
)


def free_fields(saved: TrainConfig) -> tuple[str, ...]:
    """Returns what may always change. The length only at a constant learning rate: a cosine of
    another length has other rates.
    """
    return (*_FREE_FIELDS, "num_epochs") if saved.optimizer.schedule == "constant" else _FREE_FIELDS


def refuse_changes(
    saved: TrainConfig, now: TrainConfig, *, allowed: Collection[str], run: str
) -> None:
    """Compares what a run was begun with and what it is asked to continue with.

    Raises:
      ConfigError: another model or optimizer, or a change that is neither free nor in `allowed`;
        the message lists them.
    """
    old = flat_fields(saved)
    new = flat_fields(now)
    unknown = sorted(set(allowed) - set(new))
    if unknown:
        raise ConfigError(
            f"--allow_change={unknown[0]} is no field of the "
            f"configuration{suggestion(unknown[0], new)}"
        )
    free = free_fields(saved)
    changed = [name for name in new if old.get(name) != new[name] and not _is_among(name, free)]
    fixed = [name for name in changed if _is_among(name, _FIXED_FIELDS)]
    refused = [name for name in changed if name not in allowed]
    differences = ", ".join(
        f"{name} {old.get(name)!r} -> {new[name]!r}" for name in fixed or refused
    )
    if fixed:
        raise ConfigError(
            f"{run} holds another model or optimizer: {differences}; use another --workdir, or the "
            "old settings"
        )
    if refused:
        raise ConfigError(
            f"{run} was begun with other settings: {differences}; use the old ones, another "
            f"--workdir, or say --allow_change={','.join(refused)}"
        )


def _is_among(name: str, fields: Collection[str]) -> bool:
    return any(name == field or name.startswith(field + ".") for field in fields)
