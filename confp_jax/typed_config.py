"""Dataclasses from nested mappings, every field checked: what a command line or a stored
configuration is turned into.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Protocol, TypeVar

from confp_jax.errors import UserError

T = TypeVar("T")


class Fields(Protocol):
    """Named values: a dict or a ConfigDict."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """Returns pairs of name and value."""
        ...


class ConfigError(UserError):
    """A configuration that cannot be used; the message says which field and what to write
    instead.
    """


def flat_fields(config: Any, *, path: str = "") -> dict[str, Any]:
    """Returns every field of nested dataclasses by its dotted name."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flat_fields(value, path=f"{path}{field.name}.")
        else:
            flat[path + field.name] = value
    return flat


def default_values(cls: Any, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the defaults of a dataclass as nested dicts: what a file of settings starts from.

    Args:
      cls: a dataclass whose fields all have defaults.
      without: dotted names of fields or groups that are left out.
    """
    values = dataclasses.asdict(cls())
    for name in without:
        *groups, last = name.split(".")
        group = values
        for part in groups:
            group = group[part]
        del group[last]
    return values


def from_mapping(cls: type[T], values: Fields, *, path: str = "") -> T:
    """Builds the dataclass `cls` from nested mappings (a ConfigDict is one), every field checked.

    Raises:
      ConfigError: an unknown field (the nearest known one is named) or a value of the wrong type.
    """
    if not hasattr(values, "items"):
        raise ConfigError(
            f"{path or cls.__name__} must be a group of fields, found {values!r}"[:200]
        )
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"unknown field {path + key!r}{suggestion(key, fields)}")
        arguments[key] = _checked(hints[key], value, path=path + key)
    return cls(**arguments)


def suggestion(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for a mistyped word, or the list of what there is."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _checked(kind: Any, value: Any, *, path: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        if not hasattr(value, "items"):
            raise ConfigError(f"{path} must be a group of fields, found {value!r}")
        return from_mapping(typing.cast(type, kind), value, path=path + ".")
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(
                f"{path}={value!r} must be one of {', '.join(map(repr, typing.get_args(kind)))}"
            )
        return value
    if origin is tuple:
        inner = typing.get_args(kind)
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{path} must be a list of values, found {value!r}")
        items = tuple(value)
        inner = (inner[0],) * len(items) if len(inner) == 2 and inner[1] is Ellipsis else inner
        if len(items) != len(inner):
            raise ConfigError(f"{path} needs {len(inner)} values, found {len(items)}")
        return tuple(
            _checked(k, v, path=f"{path}[{i}]")
            for i, (k, v) in enumerate(zip(inner, items, strict=True))
        )
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _checked(typing.get_args(kind)[0], value, path=path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{path} must be {kind.__name__}, found {value!r}")
    return value
