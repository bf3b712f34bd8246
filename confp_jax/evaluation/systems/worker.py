"""One step of one system in a process of its own: `python -m confp_jax.evaluation.systems.worker
JOB.json`.

The answers go out as JSON lines, each at once: what was answered before a crash is known.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from confp_jax.evaluation.systems.external import CommandConfig, External
from confp_jax.evaluation.systems.protocol import QueryError, System, SystemFailedError

OURS, AUDFPRINT, CHROMAPRINT = "ours", "audfprint", "chromaprint"
BUILT_IN = (OURS, AUDFPRINT, CHROMAPRINT)
FAILED = 3  # exit status of a failure that is told in words


@dataclasses.dataclass(frozen=True)
class SystemSpec:
    """Which system: one of BUILT_IN (`ours` at a checkpoint), or a command."""

    name: str
    kind: str
    checkpoint: str = ""
    command: CommandConfig = CommandConfig()
    index_limit_s: float = 3600.0
    query_limit_s: float = 20.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SystemSpec":
        """What `dataclasses.asdict` made."""
        return cls(**(dict(values) | {"command": CommandConfig(**values["command"])}))


def make_system(spec: SystemSpec, folder: pathlib.Path) -> System:
    """The system with its index in `folder`. Only this one is imported: another's memory would be
    counted as its.
    """
    if spec.kind == OURS:
        from confp_jax.evaluation.systems.ours import Ours

        return Ours(folder, spec.checkpoint)
    if spec.kind == AUDFPRINT:
        from confp_jax.evaluation.systems.audfprint import Audfprint

        return Audfprint(folder)
    if spec.kind == CHROMAPRINT:
        from confp_jax.evaluation.systems.chromaprint import Chromaprint

        return Chromaprint(folder)
    return External(folder, spec.command, spec.index_limit_s, spec.query_limit_s)


def main(job_file: str) -> int:
    """Does the job; a failure is one line on standard error."""
    job = json.loads(pathlib.Path(job_file).read_text())
    files = [pathlib.Path(file) for file in job["files"]]
    try:
        system = make_system(SystemSpec.from_json(job["system"]), pathlib.Path(job["folder"]))
        if job["step"] == "index":
            system.index(files)
            return 0
        with open(job["answers"], "w") as out:
            for file, answer in zip(files, system.query(files), strict=True):
                out.write(json.dumps({"query": file.stem} | dataclasses.asdict(answer)) + "\n")
                out.flush()
    except (SystemFailedError, QueryError) as error:
        print(error, file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
