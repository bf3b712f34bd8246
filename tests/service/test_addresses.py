"""Origins and paths as browsers and proxies write them."""

import pytest

from confp_jax.service.addresses import plain_origin, plain_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://Music.example/", "https://music.example"),
        ("https://music.example:443", "https://music.example"),
        ("http://music.example:80", "http://music.example"),
        ("http://music.example:8080", "http://music.example:8080"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("*", "*"),
    ],
)
def test_an_origin(text, expected):
    assert plain_origin(text) == expected


@pytest.mark.parametrize(
    "text", ["music.example", "https://a.example/b", "https://a.example?b", "https://a.example:b"]
)
def test_no_origin(text):
    with pytest.raises(ValueError):
        plain_origin(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("/music/", "/music"), ("a/b", "/a/b"), ("/", ""), ("", "")]
)
def test_a_path(text, expected):
    assert plain_path(text) == expected


@pytest.mark.parametrize("text", ["/a/../b", "/a b", "/" + "a" * 201])
def test_no_path(text):
    with pytest.raises(ValueError, match="is no path of a site"):
        plain_path(text)
