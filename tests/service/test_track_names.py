"""Bodies that name a track: small JSON objects of texts, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from confp_jax.service.problems import Problem
from confp_jax.service.track_names import _json_texts


class Sent:
    """A request whose body comes in these pieces."""

    def __init__(self, *pieces: bytes):
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def texts(*pieces: bytes) -> dict[str, str]:
    return asyncio.run(_json_texts(cast(Any, Sent(*pieces))))


def test_pieces_are_one_object():
    assert texts(b'{"title": ', b'"A"}') == {"title": "A"} and texts() == {}


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b'{"title": "', b"a" * 17_000, b'"}'], 413),
        ([b"{"], 400),
        ([b"[]"], 400),
        ([b'{"title": 7}'], 400),
        ([b"[" * 10_000], 400),
    ],
)
def test_other_bodies_are_refused(pieces, status):
    with pytest.raises(Problem) as refused:
        texts(*pieces)
    assert refused.value.status == status
