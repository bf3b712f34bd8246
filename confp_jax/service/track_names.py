"""What clients call tracks: plain text of bounded length."""

import asyncio
import pathlib

from starlette.requests import Request

from confp_jax.service.problems import Problem
from confp_jax.service.settings import LONGEST_NAME, NAME_FIELDS, Settings
from confp_jax.service.uploads import Upload
from confp_jax.texts import is_plain, parse_json, words

_MOST_JSON_BYTES = 16_384


def given_names(request: Request, upload: Upload) -> dict[str, str]:
    """Returns what the client calls a track that it sends: plain text of bounded length.

    Raises:
      Problem: 400.
    """
    return _plain_names(dict(request.query_params) | upload.fields)


def _plain_names(given: dict[str, str]) -> dict[str, str]:
    """Returns the names among `given`: plain text of bounded length.

    Raises:
      Problem: 400.
    """
    cleaned = {key: " ".join(given[key].split()) for key in NAME_FIELDS if key in given}
    for key, text in cleaned.items():
        if len(text) > LONGEST_NAME or not is_plain(text):
            raise Problem(
                400,
                f"{key} is longer than {LONGEST_NAME} characters, or not plain text",
                "shorten it",
            )
    return cleaned


def file_stem(upload: Upload) -> str:
    """Returns the name of the form's file without its suffix, as far as it is plain text."""
    stem = pathlib.PurePosixPath(upload.file_name.replace("\\", "/")).stem
    return words(stem)[:LONGEST_NAME]


async def new_names(request: Request, settings: Settings) -> dict[str, str]:
    """Returns the names for a track that is there: of the query, or of a JSON object.

    Raises:
      Problem: 400, 408, 413.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            given = dict(request.query_params) | await _json_texts(request)
    except TimeoutError as error:
        raise Problem(408, "the body did not arrive in time", "send it again") from error
    names = _plain_names(given)
    if not names:
        remedy = f"send a JSON object with some of {', '.join(NAME_FIELDS)}"
        raise Problem(400, "no new name was given", remedy)
    if names.get("name") == "":
        raise Problem(400, "a track's name cannot be empty", "send another name")
    return names


async def _json_texts(request: Request) -> dict[str, str]:
    """Returns the texts of a JSON object, {} of an empty body.

    Raises:
      Problem: 400 for another body, 413 for one that is too large.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_JSON_BYTES:
            raise Problem(413, "the body is larger than 16 KiB", "send the names alone")
    try:
        values = parse_json(body) if body else {}
    except ValueError as error:
        raise Problem(400, "the body is no JSON", 'send {"title": "..."}') from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise Problem(400, "the body is no JSON object of texts", 'send {"title": "..."}')
    return values
