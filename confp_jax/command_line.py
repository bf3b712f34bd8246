"""What the `python -m` commands share: flags in, one line of reason out when something cannot be done."""

import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from confp_jax.config import ConfigError


def run(action: Callable[[ConfigDict, flags.FlagValues], None], *, config_file: str, errors: tuple[type[Exception], ...]) -> None:
    """Parses the flags and calls `action(config, flags)`.

    One of `errors` ends with its message and status 1, wrong usage with status 2. Flags are defined when a command runs, not
    when its module is imported: two commands may be imported together.
    """
    holder = config_flags.DEFINE_config_file(
        "config", config_file, "FILE.py[:VARIANT], then --config.FIELD=VALUE.", lock_config=True
    )

    def main(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax tells its whole life at INFO
        try:
            if argv[1:]:
                raise ConfigError(f"unexpected argument {argv[1]!r}; settings are given as --config.FIELD=VALUE")
            action(holder.value, flags.FLAGS)
        except (ConfigError, *errors) as error:
            sys.exit(f"error: {error}")

    app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser; what ml_collections raises for an override (unknown field, wrong type, unknown variant) becomes a line."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason: object = error
        while isinstance(reason, Exception) and reason.args:  # ml_collections wraps one in another
            reason = reason.args[0]
        print(f"error: a --config override is wrong: {' '.join(str(reason).split())}", file=sys.stderr)
        sys.exit(2)
