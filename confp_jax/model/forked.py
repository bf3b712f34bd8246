"""A process that was forked after JAX had begun: JAX's threads did not come along, and what waits
for them waits for ever.
"""

import os

_first_pid: list[int] = []


class ForkedError(RuntimeError):
    """A model that was loaded before a fork is used after it."""


def check_not_forked() -> None:
    """Checks that this process may compute; called before JAX does, and before threads of the
    ranking or of an index search do.

    Raises:
      ForkedError: they did already, in the process that this one was forked from.
    """
    if not _first_pid:
        _first_pid.append(os.getpid())
    if _first_pid[0] != os.getpid():
        raise ForkedError(
            f"process {os.getpid()} was forked from process {_first_pid[0]}, where a model was "
            "loaded; its threads did not come along, so fingerprints cannot be computed here: "
            'start workers with multiprocessing.get_context("spawn") (or "forkserver"), or load '
            "models only after the fork"
        )
