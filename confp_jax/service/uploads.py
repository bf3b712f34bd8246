"""Bodies of requests as files: counted, timed, named by the service and never by the client."""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator

import numpy as np
from jaxtyping import Int8
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from confp_jax import locks
from confp_jax.service.problems import Problem, busy
from confp_jax.service.settings import Settings

_MAX_HELD_BYTES = 1 << 30  # of all uploads at one time
_MAX_FIELDS = 8
_COPY_BYTES = 1 << 18
_FORM = "multipart/form-data"
_PREFIX = "confp_serve_"


class UploadError(OSError):
    """There is no place for uploads."""


@dataclasses.dataclass(frozen=True)
class Upload:
    """A body that lies in a file for as long as it is needed."""

    path: pathlib.Path
    fields: dict[str, str]  # of a form, beside the file
    file_name: str = ""  # as the form gives it

    def sha256(self) -> str:
        """Returns the SHA-256 of the body."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rows(self, shape: tuple[int, int]) -> Int8[np.ndarray, "R E"]:
        """Returns the body as rows of bytes.

        Raises:
          Problem: 400 it has another size.
        """
        found = self.path.stat().st_size
        if found != shape[0] * shape[1]:
            raise Problem(
                400,
                f"the body has {found:,} bytes; that many samples make {shape[0]} vectors of "
                f"{shape[1]}, a byte for each value",
                "send all windows of the recording, silent ones as zeros",
            )
        return np.fromfile(self.path, np.int8).reshape(shape)


class Uploads:
    """A private folder for bodies."""

    def __init__(self, settings: Settings):
        self._settings = settings
        try:
            _remove_abandoned()
            self._folder, self._held = _new_folder()
        except OSError as error:  # of tempfile too, where no folder at all can be written
            raise UploadError(
                f"there is no place for uploads ({error.strerror}); set TMPDIR to a folder that "
                "can be written"
            ) from error
        self._numbers = itertools.count()
        self._held_bytes = 0

    def close(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._held)

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[Upload]:
        """The request's audio: its raw body, or the file of a form.

        Raises:
          Problem: 400 no audio, 408 too slow, 413 too large, 429 too much at one time.
        """
        announced = request.headers.get("content-length", "0")
        if _size(announced) > self._settings.max_body_bytes:
            raise self._too_large()
        path = self._folder / f"{next(self._numbers)}"
        counted = _Counted(request, self)
        try:
            try:
                form = await self._store(counted.request, path)
            except TimeoutError as error:
                raise Problem(
                    408,
                    "the body did not arrive in time",
                    "send it faster, or send a shorter excerpt",
                ) from error
            yield Upload(path, form.fields, form.file_name)
        finally:
            counted.release()
            path.unlink(missing_ok=True)

    def time_left(self, began: float, so_far: int) -> float:
        """Returns how long the next bytes of a body may take: what is slow but steady is not cut
        off.
        """
        limit_s = self._settings.body_timeout_s
        until = began + limit_s + so_far / self._settings.least_body_rate
        return min(limit_s, until - time.monotonic())

    def hold(self, num_bytes: int, so_far: int) -> None:
        """Counts bytes of a body, `so_far` with these.

        Raises:
          Problem: 413, 429.
        """
        if so_far > self._settings.max_body_bytes:
            raise self._too_large()
        if self._held_bytes + num_bytes > _MAX_HELD_BYTES:
            raise busy("too many bytes are being sent to this service at once")
        self._held_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """They are gone."""
        self._held_bytes -= num_bytes

    def _too_large(self) -> Problem:
        limit = self._settings.max_body_bytes >> 20
        return Problem(
            413,
            f"the body is larger than {limit} MiB",
            "send an excerpt: 3 to 10 s are enough, compressed or not",
        )

    async def _store(self, request: Request, path: pathlib.Path) -> "_Form":
        form = _Form()
        with open(path, "wb") as file:
            async for chunk in _audio_chunks(request, form):
                file.write(chunk)
        if not path.stat().st_size:
            raise Problem(
                400,
                "the body is empty",
                "send its content as the body (curl --data-binary @clip.wav), or as a form's file",
            )
        return form


@dataclasses.dataclass
class _Form:
    """What a form says beside its file."""

    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    file_name: str = ""


class _Counted:
    """A request whose body is counted while it is read, whatever reads it."""

    def __init__(self, request: Request, uploads: Uploads):
        self._receive = request.receive
        self._uploads = uploads
        self._num_bytes = 0
        self._began = time.monotonic()
        self.request = Request(request.scope, self._counting)

    async def _counting(self) -> Message:
        async with asyncio.timeout(self._uploads.time_left(self._began, self._num_bytes)):
            message = await self._receive()
        num_bytes = len(message.get("body", b""))
        self._uploads.hold(num_bytes, self._num_bytes + num_bytes)
        self._num_bytes += num_bytes
        return message

    def release(self) -> None:
        self._uploads.release(self._num_bytes)
        self._num_bytes = 0


async def _audio_chunks(request: Request, about: _Form) -> AsyncIterator[bytes]:
    """Yields the audio's bytes; the other fields of a form and the file's name go into `about`."""
    try:
        if not request.headers.get("content-type", "").lower().startswith(_FORM):
            async for chunk in request.stream():
                yield chunk
            return
        async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            if not files:
                raise Problem(
                    400,
                    "the form holds no file",
                    "send the audio as a file of the form: curl -F audio=@clip.wav",
                )
            about.fields.update(
                {name: value for name, value in form.items() if isinstance(value, str)}
            )
            about.file_name = files[0].filename or ""
            while chunk := await files[0].read(_COPY_BYTES):
                yield chunk
    except ClientDisconnect as error:
        raise Problem(400, "the connection ended before the body did", "send it again") from error


def _size(announced: str) -> int:
    """Returns what a Content-Length says; 0 for what is no number."""
    return int(announced[:19]) if announced.isascii() and announced.isdecimal() else 0


def _new_folder() -> tuple[pathlib.Path, int]:
    """Returns a private folder, and it as a descriptor whose lock says that its service lives."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX))
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # a disk without locks: nobody else can take it either
            locks.take(opened)
        if folder.exists():
            return folder, opened
        os.close(opened)  # a service that started just now took it for abandoned


def _remove_abandoned() -> None:
    """Deletes the folders of services that were killed."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or in use
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                locks.take(opened)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(opened)
