"""Errors as the client sees them: problem+json (RFC 9457) with a remedy."""

import http
from collections.abc import Mapping

from starlette.responses import JSONResponse


class Problem(Exception):  # noqa: N818 - RFC 9457's name for it
    """A request that cannot be served: what is wrong, and what the client can do."""

    def __init__(
        self, status: int, detail: str, remedy: str, *, headers: Mapping[str, str] | None = None
    ):
        super().__init__(detail)
        self.status, self.detail, self.remedy, self.headers = (
            status,
            detail,
            remedy,
            dict(headers or {}),
        )

    def body(self) -> dict[str, object]:
        """The members of the problem document."""
        title = http.HTTPStatus(self.status).phrase
        return {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "remedy": self.remedy,
        }

    def response(self) -> JSONResponse:
        """The answer that tells of it."""
        return JSONResponse(
            self.body(), self.status, self.headers, media_type="application/problem+json"
        )


_NOT_READY = {
    "preparing": ("the model is being compiled", "ask again in a few seconds"),
    "failed": (
        "the service could not be prepared",
        "its log says why: tell its operator to restart it when that is mended",
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
        "ask again; if it fails again, its log says why: tell its operator",
    )


def busy(what: str) -> Problem:
    """429: more is asked for than can be served."""
    return Problem(
        429,
        what,
        "ask again in a second, and less often if it goes on",
        headers={"Retry-After": "1"},
    )
