"""stations.yaml: which stations are heard, and what is written about them; a mistake is named with
its line and its field.
"""

import dataclasses
import datetime
import difflib
import pathlib
from collections.abc import Callable
from typing import Any

import yaml

from confp_jax.audio.stream import is_url
from confp_jax.database import DatabaseError


@dataclasses.dataclass(frozen=True)
class StationConfig:
    """One station."""

    name: str
    source: str = ""  # an address or a file
    device: str = ""  # or an input device: its name, its number, or "default"
    begins_s: float = 0.0  # when a file begins, in seconds since 1970; 0: when it is first heard
    silence_db: float = -60.0
    alarms_per_hour: float = 0.1

    @property
    def is_file(self) -> bool:
        """Returns whether it is a recording, which has an end."""
        return bool(self.source) and not is_url(self.source)


@dataclasses.dataclass(frozen=True)
class RadioConfig:
    """What stations.yaml says."""

    database: pathlib.Path
    log: pathlib.Path
    stations: tuple[StationConfig, ...]
    model: str = ""
    agreeing: int = 2
    service: str = ""  # the reports' name of the service
    category: str = ""  # its transmission category at SoundExchange
    webhook: str = ""
    webhook_secret_file: pathlib.Path | None = None
    mqtt: str = ""


def read_stations(path: pathlib.Path) -> RadioConfig:
    """Reads and checks a file of stations; paths in it are relative to its folder.

    Raises:
      DatabaseError: it cannot be read, or something in it is wrong, with line and field.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise DatabaseError(f"{path}: cannot be read ({reason})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown place"
        raise DatabaseError(f"{path}, {where}: is no YAML ({error.problem})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DatabaseError(f"{path}: is no YAML ({error})") from error
    return _File(path).radio(root)


_Readers = dict[str, Callable[[yaml.Node, str], Any]]


class _File:
    def __init__(self, path: pathlib.Path):
        self._path = path

    def radio(self, root: yaml.Node | None) -> RadioConfig:
        """Reads the whole file."""
        if root is None:
            raise DatabaseError(f"{self._path}: is empty; it needs `database` and `stations`")
        fields = self._fields(root, "", {"stations": self._stations} | self._texts_of_radio())
        for name in ("database", "stations"):
            if name not in fields:
                raise self._wrong(root, name, "is missing")
        values = {name: value for name, (_, value) in fields.items()}
        folder = self._path.parent
        for name in ("database", "webhook_secret_file"):
            if name in values:
                values[name] = folder / values[name]
        return RadioConfig(**values | {"log": folder / values.get("log", "airplay")})

    def _texts_of_radio(self) -> _Readers:
        names = ("database", "log", "model", "service", "category", "webhook", "mqtt")
        readers: _Readers = {"agreeing": self._agreeing}
        return readers | dict.fromkeys((*names, "webhook_secret_file"), self._text)

    def _stations(self, node: yaml.Node, field: str) -> tuple[StationConfig, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self._wrong(node, field, "expected a list of stations")
        stations: list[StationConfig] = []
        for number, item in enumerate(node.value, 1):
            station = self._station(item, f"{field}[{number}]")
            if station.name in {other.name for other in stations}:
                raise self._wrong(
                    item, f"{field}[{number}].name", f"{station.name!r} is there twice"
                )
            stations.append(station)
        return tuple(stations)

    def _station(self, node: yaml.Node, field: str) -> StationConfig:
        readers: _Readers = {"name": self._text, "source": self._source, "device": self._text}
        readers |= {"begins": self._moment, "silence_db": self._level}
        readers |= {"alarms_per_hour": self._positive}
        fields = self._fields(node, f"{field}.", readers)
        if "name" not in fields:
            raise self._wrong(node, f"{field}.name", "is missing")
        if ("source" in fields) == ("device" in fields):
            raise self._wrong(node, f"{field}.source", "give a `source` or a `device`")
        values = {name: value for name, (_, value) in fields.items()}
        begins = values.pop("begins", None)
        station = StationConfig(**values)
        if begins is None:
            return station
        if not station.is_file:
            raise self._wrong(
                fields["begins"][0], f"{field}.begins", "only a file begins at a time"
            )
        return dataclasses.replace(station, begins_s=begins.timestamp())

    def _fields(
        self, node: yaml.Node, prefix: str, readers: _Readers
    ) -> dict[str, tuple[yaml.Node, Any]]:
        """Reads a mapping's fields, each by its reader."""
        if not isinstance(node, yaml.MappingNode):
            raise self._wrong(node, prefix.rstrip(".") or "the file", "expected fields with values")
        found: dict[str, tuple[yaml.Node, Any]] = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in readers:
                near = difflib.get_close_matches(name, readers, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(readers)}"
                raise self._wrong(key, prefix + name, f"is no field; {hint}")
            if name in found:
                raise self._wrong(key, prefix + name, "is there twice")
            found[name] = (value, readers[name](value, prefix + name))
        return found

    def _scalar(self, node: yaml.Node, field: str, expected: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            raise self._wrong(node, field, f"expected {expected}")
        return node.value

    def _text(self, node: yaml.Node, field: str) -> str:
        return self._scalar(node, field, "a text")

    def _source(self, node: yaml.Node, field: str) -> str:
        source = self._scalar(node, field, "an address or a file")
        if "://" in source:
            if not is_url(source):
                raise self._wrong(node, field, f"{source!r} is no address of a stream")
            return source
        return str(self._path.parent / source)

    def _number(self, node: yaml.Node, field: str, expected: str) -> float:
        text = self._scalar(node, field, expected)
        try:
            return float(text)
        except ValueError:
            raise self._wrong(node, field, f"expected {expected}, found {text!r}") from None

    def _agreeing(self, node: yaml.Node, field: str) -> int:
        value = self._number(node, field, "a whole number from 1 to 20")
        if value not in range(1, 21):
            raise self._wrong(node, field, f"expected a whole number from 1 to 20, found {value:g}")
        return int(value)

    def _level(self, node: yaml.Node, field: str) -> float:
        value = self._number(node, field, "decibels below 0, as -60")
        if not -120 <= value < 0:
            raise self._wrong(node, field, f"expected decibels from -120 to 0, found {value:g}")
        return value

    def _positive(self, node: yaml.Node, field: str) -> float:
        value = self._number(node, field, "a number above 0")
        if not 0 < value < float("inf"):
            raise self._wrong(node, field, f"expected a number above 0, found {value:g}")
        return value

    def _moment(self, node: yaml.Node, field: str) -> datetime.datetime:
        text = self._scalar(node, field, "a date and time")
        try:
            return datetime.datetime.fromisoformat(text)
        except ValueError:
            remedy = f"{text!r} is no date and time; write it as 2026-11-30T06:00:00+01:00"
            raise self._wrong(node, field, remedy) from None

    def _wrong(self, node: yaml.Node, field: str, reason: str) -> DatabaseError:
        return DatabaseError(f"{self._path}, line {node.start_mark.line + 1}: {field}: {reason}")
