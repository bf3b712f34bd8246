"""What the `python -m` commands share: flags in, one line of reason out when something cannot be
done."""

import logging as python_logging
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from confp_jax.typed_config import ConfigError


def run(
    action: Callable[[ConfigDict, flags.FlagValues], None],
    *,
    config_file: str,
    errors: tuple[type[Exception], ...],
    passing: tuple[type[Exception], ...] = (),
) -> None:
    """Parses the flags and calls `action(config, flags)`.

    One of `errors` ends with its message and status 2, as wrong usage does: the same command would
    end the same way. What may be over at the next start is `passing`: its message and status 1,
    which is Python's own for what nobody expected. Flags are defined when a command runs, not when
    its module is imported: two commands may be imported together.
    """
    holder = config_flags.DEFINE_config_file(
        "config", config_file, "FILE.py[:VARIANT], then --config.FIELD=VALUE.", lock_config=True
    )

    def main(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax tells its whole life at INFO
        logging.get_absl_handler().addFilter(_is_news)
        try:
            if argv[1:]:
                raise ConfigError(
                    f"unexpected argument {argv[1]!r}; settings are given as --config.FIELD=VALUE"
                )
            action(holder.value, flags.FLAGS)
        except passing as error:
            sys.exit(f"error: {error}")
        except (ConfigError, *errors) as error:
            _refuse(str(error))

    app.run(main, flags_parser=_parse)


def _is_news(record: python_logging.LogRecord) -> bool:
    """Orbax logs an exception's traceback in each of its threads before it raises it: who catches
    it tells it, in one line.
    """
    return not (record.exc_info and "orbax" in record.pathname)


def _refuse(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser; what ml_collections raises for an override (unknown field, wrong type, unknown
    variant) becomes a line.
    """
    try:
        return app.parse_flags_with_usage(argv)
    except SystemExit:  # absl has told of an unknown flag, with status 1
        sys.exit(2)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason: object = error
        while isinstance(reason, Exception) and reason.args:  # ml_collections wraps one in another
            reason = reason.args[0]
        _refuse(f"a --config override is wrong: {' '.join(str(reason).split())}")
