"""The systems by name: how each is made."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from confp_jax.evaluation.systems.external import CommandConfig, External
from confp_jax.evaluation.systems.protocol import System

OURS = "ours"


@dataclasses.dataclass(frozen=True)
class SystemSpec:
    """Which system: one of SYSTEMS (`ours` at a checkpoint), or a command."""

    name: str
    kind: str
    checkpoint: str = ""
    command: CommandConfig = CommandConfig()
    index_limit_s: float = 3600.0
    query_limit_s: float = 20.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SystemSpec":
        """Returns what `dataclasses.asdict` made."""
        return cls(**(dict(values) | {"command": CommandConfig(**values["command"])}))


def _ours(spec: SystemSpec, folder: pathlib.Path) -> System:
    from confp_jax.evaluation.systems.ours import Ours

    return Ours(folder, spec.checkpoint)


def _audfprint(_: SystemSpec, folder: pathlib.Path) -> System:
    from confp_jax.evaluation.systems.audfprint import Audfprint

    return Audfprint(folder)


def _chromaprint(_: SystemSpec, folder: pathlib.Path) -> System:
    from confp_jax.evaluation.systems.chromaprint import Chromaprint

    return Chromaprint(folder)


def _command(spec: SystemSpec, folder: pathlib.Path) -> System:
    return External(folder, spec.command, spec.index_limit_s, spec.query_limit_s)


# Each imports its own file when it is made: another's memory would be counted as its.
SYSTEMS: dict[str, Callable[[SystemSpec, pathlib.Path], System]] = {
    OURS: _ours,
    "audfprint": _audfprint,
    "chromaprint": _chromaprint,
}


def make_system(spec: SystemSpec, folder: pathlib.Path) -> System:
    """Returns the system with its index in `folder`."""
    return SYSTEMS.get(spec.kind, _command)(spec, folder)


def system_version(spec: SystemSpec) -> str:
    """Returns what changes whenever the answers of a system may change."""
    return make_system(spec, pathlib.Path()).version()
