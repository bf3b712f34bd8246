"""Decoding in processes of their own: whatever a file does to its decoder, the service keeps
running.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import sys

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError
from confp_jax.audio.tags import Tags

_log = logging.getLogger(__name__)
_BUFFER_BYTES = 1 << 20
_RETRY_S = 1.0
_REMEDY = "convert it to wav, flac, mp3, ogg, opus or m4a"


class DecoderGoneError(DecodeError):
    """The file ended its decoder: a crash, or a limit."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Mono samples at the model's rate, what the file says of itself if that was asked for, and
    what was unusual in it.
    """

    samples: Float32[np.ndarray, " n"]
    tags: Tags
    notes: list[str]


class DecodePool:
    """A few worker processes; one that dies or takes too long is replaced."""

    def __init__(
        self,
        *,
        sample_rate_hz: int,
        max_audio_s: float,
        timeout_s: float,
        num_workers: int | None = None,
    ):
        self._rate_hz = sample_rate_hz
        self._max_audio_s = max_audio_s
        self._timeout_s = timeout_s
        self._num_workers = num_workers or min(4, os.cpu_count() or 1)
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self._all: set[asyncio.subprocess.Process] = set()
        self._refilling: set[asyncio.Task[None]] = set()
        self._fails = False

    @property
    def is_usable(self) -> bool:
        """Returns whether there is a worker, or one on its way."""
        return bool(self._all) or not self._fails

    async def start(self) -> None:
        """Starts the workers and waits until each has shown that it answers.

        Raises:
          DecoderGoneError: one does not.
        """
        for _ in range(self._num_workers):
            await self._spawn()
        job = self._job(pathlib.Path(os.devnull), 0.0, 0.0, False)
        for worker in list(self._all):
            try:
                await self._ask(worker, job)
            except DecoderGoneError:
                raise
            except DecodeError:  # it is no audio, and the worker said so
                continue

    async def close(self) -> None:
        """Ends the workers."""
        for task in self._refilling:
            task.cancel()
        await asyncio.gather(*self._refilling, return_exceptions=True)
        for worker in list(self._all):
            await self._end(worker)

    async def decode(
        self,
        path: pathlib.Path,
        *,
        start_s: float = 0.0,
        length_s: float = 0.0,
        with_tags: bool = False,
    ) -> Decoded:
        """Returns the file's samples, or `length_s` of them from `start_s` on.

        Raises:
          DecodeError: what `decode_blocks` says of it, longer than is allowed, or it ended its
            decoder.
        """
        worker = await self._idle.get()
        try:
            async with asyncio.timeout(self._timeout_s):
                decoded = await self._ask(worker, self._job(path, start_s, length_s, with_tags))
        except DecoderGoneError:
            await self._replace(worker)
            raise
        except TimeoutError as error:
            await self._replace(worker)
            raise DecoderGoneError(
                f"was not decoded within {self._timeout_s:g} s",
                f"send a shorter excerpt, or {_REMEDY}",
            ) from error
        except DecodeError:
            self._idle.put_nowait(worker)
            raise
        except BaseException:  # the request was given up, and the worker is in the midst of it
            await asyncio.shield(self._replace(worker))
            raise
        self._idle.put_nowait(worker)
        return decoded

    def _job(self, path: pathlib.Path, start_s: float, length_s: float, with_tags: bool) -> bytes:
        limits = {
            "max_audio_s": self._max_audio_s,
            "cpu_s": self._timeout_s,
            "with_tags": with_tags,
        }
        job = {
            "path": str(path),
            "sample_rate_hz": self._rate_hz,
            "start_s": start_s,
            "length_s": length_s,
        } | limits
        return json.dumps(job).encode() + b"\n"

    async def _ask(self, worker: asyncio.subprocess.Process, job: bytes) -> Decoded:
        if worker.stdin is None or worker.stdout is None:
            raise DecoderGoneError("the decoder has no pipes")
        try:
            worker.stdin.write(job)
            await worker.stdin.drain()
            header = json.loads(await worker.stdout.readuntil(b"\n"))
            if "error" in header:
                raise DecodeError(header["error"], header["remedy"])
            payload = await worker.stdout.readexactly(header["num_bytes"])
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
            raise DecoderGoneError(
                "ended its decoder",
                f"it is damaged, or needs too much memory or time: {_REMEDY}",
            ) from error
        return Decoded(np.frombuffer(payload, "<f4"), Tags(**header["tags"]), header["notes"])

    async def _spawn(self) -> None:
        command = sys.executable, "-m", f"{__package__}.decode_worker"
        pipe = asyncio.subprocess.PIPE
        nothing = asyncio.subprocess.DEVNULL
        # A session of its own: Ctrl-C is for the service, which ends its workers when their jobs
        # are done.
        worker = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=nothing,
            start_new_session=True,
            limit=_BUFFER_BYTES,
        )
        self._all.add(worker)
        self._idle.put_nowait(worker)

    async def _replace(self, worker: asyncio.subprocess.Process) -> None:
        """Ends a worker; another one comes as soon as there can be one."""
        await self._end(worker)
        task = asyncio.create_task(self._refill())
        self._refilling.add(task)
        task.add_done_callback(self._refilling.discard)

    async def _refill(self) -> None:
        while True:
            try:
                await self._spawn()
                self._fails = False
                return
            except OSError as error:  # no memory, or no more processes, just now
                _log.error("no decoder could be started, trying again: %s", error)
                self._fails = True
            await asyncio.sleep(_RETRY_S)

    async def _end(self, worker: asyncio.subprocess.Process) -> None:
        self._all.discard(worker)
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        if worker.stdout is not None:
            with contextlib.suppress(RuntimeError):  # whoever asked it is still reading
                await (
                    worker.stdout.read()
                )  # what is left of an answer: wait() needs the pipe at its end
        await worker.wait()
