"""Errors as the client sees them: problem+json (RFC 9457) with a remedy."""

import http
import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from confp_jax.audio.decode import DecodeError
from confp_jax.database import DatabaseError, OtherModelError
from confp_jax.files import is_disk_full
from confp_jax.fingerprint.fingerprints import AudioError

_log = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - RFC 9457's name for it
    """A request that cannot be served: what is wrong, and what the client can do."""

    def __init__(
        self, status: int, detail: str, remedy: str, *, headers: Mapping[str, str] | None = None
    ):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.remedy = remedy
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """Returns the members of the problem document."""
        title = http.HTTPStatus(self.status).phrase
        return {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "remedy": self.remedy,
        }

    def response(self) -> JSONResponse:
        """Returns the response that reports it."""
        return JSONResponse(
            self.body(), self.status, self.headers, media_type="application/problem+json"
        )


_NOT_READY = {
    "preparing": ("the model is being compiled", "ask again in a few seconds"),
    "failed": (
        "the service could not be prepared",
        "its log says why: ask its operator to restart it when the cause is fixed",
    ),
    "without decoders": ("no decoder can be started just now", "ask again in a few seconds"),
    "reindexed": ("the database was reindexed with another model", "restart the service"),
}


def not_ready(state: str) -> Problem:
    """503: nothing can be answered, for now or until it is restarted."""
    detail, remedy = _NOT_READY[state]
    return Problem(
        503,
        detail,
        remedy,
        headers={"Retry-After": "2"} if state in ("preparing", "without decoders") else None,
    )


def failed() -> Problem:
    """500: a fault of the service."""
    return Problem(
        500,
        "the service failed",
        "try again; if it fails again, ask its operator to read its log",
    )


def busy(what: str) -> Problem:
    """429: more is asked for than can be served."""
    return Problem(
        429,
        what,
        "ask again in a second, and less often if this repeats",
        headers={"Retry-After": "1"},
    )


def disk_full(error: OSError) -> Problem:
    """503: the service has no space for what was sent; one line in the log."""
    _log.error(
        "the temporary files' disk is full (%s); free space there, or set TMPDIR to another folder",
        error.strerror,
    )
    return Problem(
        503,
        "the service has no space for the recording just now",
        "send it again in a while; the service's operator must free space",
        headers={"Retry-After": "30"},
    )


def problem_of(error: Exception) -> Problem:
    """Returns the answer to a client about an error; what is not the client's is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(
            error.status_code,
            error.detail,
            "see /docs for what this service understands",
            headers=error.headers,
        )
    if isinstance(error, OtherModelError):
        return not_ready("reindexed")
    if isinstance(error, DatabaseError):
        _log.error("the database refused: %s", error)
        detail = "the database cannot be used just now"
        return Problem(
            503, detail, "try again later; the service's log says why", headers={"Retry-After": "5"}
        )
    if isinstance(error, TimeoutError):
        return Problem(
            503,
            "the answer took too long",
            "send a shorter excerpt, or ask again later",
            headers={"Retry-After": "1"},
        )
    if isinstance(error, OSError) and is_disk_full(error):
        return disk_full(error)
    if not isinstance(error, (DecodeError, AudioError)):
        _log.error("a connection failed", exc_info=error)
        return failed()
    return Problem(
        422,
        error.detail if error.detail[:1].isdigit() else f"the audio {error.detail}",
        error.remedy or "send a longer or better recording: 3 s and more",
    )
