"""A function that runs in a forked process, which may be killed."""

import os
import traceback
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> int:
    """Forks a process that calls `work`; returns its number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - shown, and then given by the exit status
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def exit_status(child: int) -> int:
    """Waits for a process to end; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
