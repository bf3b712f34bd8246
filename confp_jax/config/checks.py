"""A check that the groups of settings share."""

from typing import Any

from confp_jax.typed_config import ConfigError


def check_positive(config: Any, group: str, *names: str) -> None:
    """Checks that the fields `names` of a group are above 0.

    Raises:
      ConfigError: one of them is not.
    """
    for name in names:
        if getattr(config, name) <= 0:
            raise ConfigError(
                f"{group}{'.' if group else ''}{name}={getattr(config, name)} must be positive"
            )
