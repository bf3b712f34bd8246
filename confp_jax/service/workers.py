"""Several processes that serve one database behind one port: each accepts connections of the same
socket.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

_log = logging.getLogger(__name__)
_LOOK_S = 0.5
_SHUTDOWN_S = 40.0
_RESTART_S = 2.0  # between the starts of one worker
Serve = Callable[[socket.socket, Callable[[], None]], None]


class WorkerError(RuntimeError):
    """A worker ended before it was ready; what it wrote says why."""


def serve_with_workers(
    serve: Serve, bound: socket.socket, num_workers: int, *, started: Callable[[], None]
) -> None:
    """Runs `serve(bound, started)` in `num_workers` processes until SIGTERM or Ctrl-C; a process
    that ends is started again.

    The first process creates a missing database and the search index; the others start when it
    accepts requests.

    Raises:
      WorkerError: the first one did not start.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    stop = threading.Event()

    def start() -> BaseProcess:
        process = context.Process(target=_work, args=(serve, bound, ready, os.getpid()))
        process.start()
        return process

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    workers = [start()]
    try:
        while not ready.wait(_LOOK_S) and not stop.is_set():
            if not workers[0].is_alive():
                raise WorkerError("the first worker ended before it accepted requests")
        if not stop.is_set():
            workers += [start() for _ in range(num_workers - 1)]
            started()
        _watch(workers, start, stop)
    finally:
        _end(workers)
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(
    workers: list[BaseProcess], start: Callable[[], BaseProcess], stop: threading.Event
) -> None:
    begun = [time.monotonic()] * len(workers)
    while not stop.wait(_LOOK_S):
        for place, worker in enumerate(workers):
            if not worker.is_alive() and time.monotonic() - begun[place] > _RESTART_S:
                _log.error("worker %s ended (%s); another begins", worker.pid, worker.exitcode)
                workers[place], begun[place] = start(), time.monotonic()


def _end(workers: list[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    until = time.monotonic() + _SHUTDOWN_S
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
        if worker.is_alive():
            worker.kill()


def _work(serve: Serve, bound: socket.socket, ready: Event, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        serve(bound, ready.set)
    except ValueError as error:  # what a user can mend
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _end_with(parent: int) -> None:
    """Stops serving when the process that started it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
