"""One step of one system in a process of its own: `python -m confp_jax.evaluation.systems.worker
JOB.json`.

The answers go out as JSON lines, each at once: what was answered before a crash is known.
"""

import dataclasses
import json
import pathlib
import sys

from confp_jax.evaluation.systems.protocol import QueryError, SystemFailedError
from confp_jax.evaluation.systems.registry import SystemSpec, make_system

FAILED = 3  # exit status of a failure that is explained on standard error


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
