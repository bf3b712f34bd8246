"""A configuration as command-line flags."""

import json

from confp_jax.config import TrainConfig


def command_flags(config: TrainConfig) -> list[str]:
    """--config of `tiny`, with every field that differs from configs/fma.py:tiny."""
    from configs.fma import get_config

    flags = []
    groups = json.loads(config.to_json())
    tiny = get_config("tiny")
    for name, value in groups.items():
        for field, inner in value.items() if isinstance(value, dict) else [(None, value)]:
            path = f"{name}.{field}" if field else name
            if (
                field and field not in tiny[name]
            ):  # of a projection, which is fitted and not trained
                continue
            old = tiny[name][field] if field else tiny[name]
            if inner != (list(old) if isinstance(old, tuple) else old):
                flags.append(f"--config.{path}={inner}")
    return ["--config=configs/fma.py:tiny", *flags]
