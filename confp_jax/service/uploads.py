"""Bodies of requests as files: counted, timed, named by the service and never by the client."""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import pathlib
import tempfile
from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from confp_jax.service.problems import Problem, busy
from confp_jax.service.settings import Settings

_MAX_HELD_BYTES = 1 << 30  # of all uploads at one time
_MAX_FIELDS = 8
_COPY_BYTES = 1 << 18
_FORM = "multipart/form-data"


@dataclasses.dataclass(frozen=True)
class Upload:
    """A body that lies in a file for as long as it is needed."""

    path: pathlib.Path
    fields: dict[str, str]  # of a form, beside the file

    def sha256(self) -> str:
        """Of the body."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Uploads:
    """A private folder for bodies."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="confp_serve_")
        self._numbers = itertools.count()
        self._held_bytes = 0

    def close(self) -> None:
        """Deletes the folder."""
        self._folder.cleanup()

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[Upload]:
        """The request's audio: its raw body, or the file of a form.

        Raises:
          Problem: 400 no audio, 408 too slow, 413 too large, 429 too much at one time.
        """
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._settings.max_body_bytes:
            raise self._too_large()
        path = pathlib.Path(self._folder.name) / f"{next(self._numbers)}"
        counted = _Counted(request, self)
        try:
            try:
                async with asyncio.timeout(self._settings.body_timeout_s):
                    fields = await self._store(counted.request, path)
            except TimeoutError as error:
                raise Problem(
                    408,
                    "the body did not arrive in time",
                    "send it faster, or send a shorter excerpt",
                ) from error
            yield Upload(path, fields)
        finally:
            counted.release()
            path.unlink(missing_ok=True)

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

    async def _store(self, request: Request, path: pathlib.Path) -> dict[str, str]:
        fields: dict[str, str] = {}
        with open(path, "wb") as file:
            async for chunk in _audio_chunks(request, fields):
                file.write(chunk)
        if not path.stat().st_size:
            raise Problem(
                400,
                "the body is empty",
                "send audio as the body (curl --data-binary @clip.wav), or as a form's file",
            )
        return fields


class _Counted:
    """A request whose body is counted while it is read, whatever reads it."""

    def __init__(self, request: Request, uploads: Uploads):
        self._receive, self._uploads, self._num_bytes = request.receive, uploads, 0
        self.request = Request(request.scope, self._counting)

    async def _counting(self) -> Message:
        message = await self._receive()
        num_bytes = len(message.get("body", b""))
        self._uploads.hold(num_bytes, self._num_bytes + num_bytes)
        self._num_bytes += num_bytes
        return message

    def release(self) -> None:
        self._uploads.release(self._num_bytes)
        self._num_bytes = 0


async def _audio_chunks(request: Request, fields: dict[str, str]) -> AsyncIterator[bytes]:
    """The audio's bytes; the other fields of a form go into `fields`."""
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
            fields.update({name: value for name, value in form.items() if isinstance(value, str)})
            while chunk := await files[0].read(_COPY_BYTES):
                yield chunk
    except ClientDisconnect as error:
        raise Problem(400, "the connection ended before the body did", "send it again") from error
