"""Text from outside: names, tags and paths may hold what steers a terminal or turns a line, and
JSON anything.
"""

import json
import logging
import re
from typing import Any

# Control characters, line ends, changes of direction. Letters that join or part others
# (zero-width joiners of Persian, Hindi and emoji) are no such thing.
_DIRECTIONS = r"\u2028\u2029\u202a-\u202e\u2066-\u2069"
_UNPRINTABLE = re.compile(rf"[\x00-\x1f\x7f-\x9f{_DIRECTIONS}]")
_STEERING = re.compile(rf"[\x7f-\x9f{_DIRECTIONS}\ud800-\udfff]")
_NO_LETTER = re.compile(r"[\ud800-\udfff]")
_NO_TEXT = re.compile(rf"[\x00-\x1f\x7f-\x9f{_DIRECTIONS}\ud800-\udfff\ufffe\uffff]")


def parse_json(text: str | bytes) -> Any:
    """Returns what JSON from outside holds.

    Raises:
      ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def plain(text: str) -> str:
    """Returns text on one line: what would steer a terminal, and bytes of a file's name that are
    no UTF-8, are shown as escapes.
    """
    return shown_bytes(one_line(text))


def one_line(text: str) -> str:
    """Returns text whose steering characters are shown as escapes, with a file name's bytes as
    they are.
    """
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


def shown_bytes(text: str) -> str:
    """Returns valid text: a byte that is no UTF-8 is shown as \\xe9, as `confp list` shows it."""
    return _NO_LETTER.sub(_escaped, text)


def _escaped(half: re.Match[str]) -> str:
    number = ord(half[0])
    is_byte = 0xDC80 <= number <= 0xDCFF  # as Python decodes a file's name
    return f"\\x{number - 0xDC00:02x}" if is_byte else f"\\u{number:04x}"


def is_plain(text: str) -> bool:
    """Returns whether text can be a name: it steers nothing, and is all of it letters."""
    return not _NO_TEXT.search(text)


def words(text: str) -> str:
    """Returns text without what `is_plain` refuses, words apart by one space."""
    return " ".join(_NO_TEXT.sub(" ", text).split())


def steady_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON in UTF-8 in which what `plain` would show as escapes is escaped. Bytes of a
    file's name come back as Python reads it: "\\udce9".
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class PlainFormatter(logging.Formatter):
    """Messages of a log, each on one line whatever names are in them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Returns the message; a traceback after it keeps its lines."""
        return plain(super().formatMessage(record))
