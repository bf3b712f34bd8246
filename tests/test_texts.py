"""Text from outside: what steers a terminal is shown, letters that people write are kept."""

import json
import logging

import pytest

from confp_jax.texts import PlainFormatter, is_plain, parse_json, plain, steady_json, words

LETTERS = "می\u200cخواهم 👩\u200d🎤 क्\u200dष é"
STEERING = "\x1b[31mred\n\x9b\u202etxt"


def test_letters_are_kept_and_what_steers_is_shown():
    assert plain(STEERING) == "\\x1b[31mred\\n\\x9b\\u202etxt"
    assert plain(LETTERS) == words(LETTERS) == LETTERS and is_plain(LETTERS)
    assert words(STEERING) == "[31mred txt"


@pytest.mark.parametrize("text", ["\0", "\x9b", "\u202e", "\u2028", "\ud800", "a\nb"])
def test_what_is_no_name(text):
    assert not is_plain(text)


def test_json_says_the_same_without_steering():
    text = steady_json({"title": STEERING + LETTERS})
    assert json.loads(text) == {"title": STEERING + LETTERS} and LETTERS in text
    assert not {"\x1b", "\x9b", "\u202e", "\n"} & set(text)


def test_a_message_of_a_log_is_one_line():
    record = logging.makeLogRecord({"msg": "%s is damaged", "args": (STEERING,)})
    assert PlainFormatter().format(record) == plain(STEERING) + " is damaged"


def test_bytes_that_are_no_utf_8():
    text = "caf\udce9 \ud800"
    assert plain(text) == "caf\\xe9 \\ud800"
    assert steady_json(text) == '"caf\\udce9 \\ud800"' and json.loads(steady_json(text)) == text


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, b"\xff"])
def test_json_from_outside_is_json_or_a_value_error(text):
    assert parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError):
        parse_json(text)
