"""Errors that a user can cause: one line, whose parts can be asked for."""

import pickle

import pytest

from confp_jax.audio.errors import DecodeError
from confp_jax.errors import UserError


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("is empty", "copy it again", "a.wav"), "a.wav: is empty; copy it again"),
        (("is empty", "", "a.wav"), "a.wav: is empty"),
        (("is empty", "copy it again"), "is empty; copy it again"),
        (("is empty",), "is empty"),
    ],
)
def test_the_message_is_one_line_of_its_parts(parts, text):
    error = DecodeError(*parts)
    assert str(error) == text and isinstance(error, UserError)
    again = pickle.loads(pickle.dumps(error))  # as from a worker process
    assert (str(again), again.detail, again.remedy) == (text, error.detail, error.remedy)
