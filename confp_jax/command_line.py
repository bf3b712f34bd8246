"""What the `python -m` commands share: flags in, one line of reason out when something cannot be
done."""

import functools
import importlib.util
import logging as python_logging
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from confp_jax.errors import UserError
from confp_jax.typed_config import ConfigError, suggestion


def run(
    action: Callable[[ConfigDict, flags.FlagValues], int | None],
    *,
    config_file: str,
    passing: tuple[type[Exception], ...] = (),
) -> None:
    """Parses the flags and calls `action(config, flags)`, which may return an exit status.

    A `UserError` ends with its message and status 2, like wrong usage: the same command would end
    the same way again. An error of a class in `passing`, which may be gone at the next start, ends
    with its message and status 1. Flags are defined when a command runs, not when its module is
    imported: two commands may be imported together.
    """
    holder = config_flags.DEFINE_config_file(
        "config", config_file, "FILE.py[:VARIANT], then --config.FIELD=VALUE.", lock_config=True
    )

    def main(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # Orbax logs every step at INFO
        logging.get_absl_handler().addFilter(_is_news)
        try:
            if argv[1:]:
                raise ConfigError(
                    f"unexpected argument {argv[1]!r}; settings are given as --config.FIELD=VALUE"
                )
            return action(holder.value, flags.FLAGS)
        except passing as error:
            sys.exit(f"error: {error}")
        except UserError as error:
            _refuse(str(error))

    app.run(main, flags_parser=functools.partial(_parse, config_file=config_file))


def overridden(values: flags.FlagValues) -> frozenset[str]:
    """Returns the fields that were set on the command line, by their dotted names."""
    return frozenset(cast(Any, values["config"]).override_values)


def check_config_flags(argv: Sequence[str], config_file: str) -> None:
    """Checks whether the configuration that is asked for can be loaded and has the fields that are
    set: what ml_collections raises otherwise is no line that a user can read.

    Raises:
      ConfigError: with the nearest file, variant or field there is.
    """
    fields: list[str] = []
    for number, argument in enumerate(argv):
        name, has_value, value = argument.partition("=")
        if name in ("--config", "-config"):
            config_file = value if has_value else "".join(argv[number + 1 : number + 2])
        elif match := re.fullmatch(r"--?(?:no)?config\.(.+)", name):
            fields.append(match[1])
    known = _dotted_names(load_config(config_file))
    for field in fields:
        if field not in known:
            raise ConfigError(f"--config.{field}: {config_file} has no such field"
                              f"{suggestion(field, known)}")  # fmt: skip


def load_config(config_file: str) -> ConfigDict:
    """Returns what FILE.py[:VARIANT] describes.

    Raises:
      ConfigError: no such file or variant, or the file is no configuration.
    """
    name, _, variant = config_file.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        near = [str(other) for other in sorted(path.parent.glob("[!_]*.py"))]
        here = suggestion(name, near) if near else "; run the command in the repository's folder"
        raise ConfigError(f"--config={name}: no such file{here}")
    spec = importlib.util.spec_from_file_location("config_of_this_run", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={name} is no Python file; FILE.py[:VARIANT] is expected")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(variant) if variant else module.get_config()
    except ValueError as error:  # an unknown variant
        raise ConfigError(f"--config={config_file}: {error}") from error
    except Exception as error:  # whatever a user's file may raise
        raise ConfigError(f"--config={config_file}: {type(error).__name__}: {error}") from error


def _dotted_names(config: ConfigDict, prefix: str = "") -> set[str]:
    names = set()
    for key, value in config.items():
        names.add(prefix + key)
        if isinstance(value, ConfigDict):
            names |= _dotted_names(value, f"{prefix}{key}.")
    return names


def _is_news(record: python_logging.LogRecord) -> bool:
    """Returns whether to print a log record: not the traceback that Orbax logs in each of its
    threads before it raises the exception, which is reported in one line.
    """
    return not (record.exc_info and "orbax" in record.pathname)


def _refuse(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: list[str], *, config_file: str) -> list[str]:
    """absl's parser; what ml_collections raises for an override becomes a line."""
    try:
        check_config_flags(argv[1:], config_file)
        return app.parse_flags_with_usage(argv)
    except SystemExit:  # absl has reported an unknown flag, with status 1
        sys.exit(2)
    except ConfigError as error:
        _refuse(str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason: object = error
        while isinstance(reason, Exception) and reason.args:  # ml_collections wraps one in another
            reason = reason.args[0]
        _refuse(f"a --config override is wrong: {' '.join(str(reason).split())}")
