"""Limits on what one client can hold: slow bodies, long work, connections, microphones; and sites
that may ask.
"""

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import soundfile
from limited_service import SETTINGS
from running_service import KNOWN, MUSIC, ROOT, Server, launch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from confp_jax.audio.decode import decode

SITE = SETTINGS.origins[0]


@pytest.fixture(scope="module")
def limited(database, tmp_path_factory) -> Iterator[Server]:
    command = [sys.executable, str(ROOT / "tests/service/limited_service.py"), str(database)]
    server = launch(command, tmp_path_factory.mktemp("limited") / "serve.log")
    yield server
    server.stop()


def raw(server: Server) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)))
    opened.settimeout(20)
    return opened


def received(opened: socket.socket) -> bytes:
    """All that is sent until the server hangs up."""
    out = b""
    with contextlib.suppress(ConnectionResetError):
        while part := opened.recv(65_536):
            out += part
    return out


def test_a_body_that_never_ends(limited):
    """Half of what was announced: an answer after a second, and the connection is free again."""
    with raw(limited) as slow:
        began = time.monotonic()
        slow.sendall(
            b"POST /v1/identify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
            b"1000\r\nConnection: close\r\n\r\n" + bytes(500)
        )
        head, _, body = received(slow).partition(b"\r\n\r\n")
        assert 0.9 < time.monotonic() - began < 15
    assert head.startswith(b"HTTP/1.1 408") and b"application/problem+json" in head
    assert json.loads(body)["remedy"] == "send it faster, or send a shorter excerpt"


def test_a_body_may_come_for_longer_than_its_answer_takes(limited):
    with raw(limited) as slow:
        slow.sendall(
            b"POST /v1/identify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
            b"200\r\nConnection: close\r\n\r\n"
        )
        for _ in range(2):
            time.sleep(SETTINGS.request_timeout_s)
            slow.sendall(b"not a sound" * 9 + b"!")
        assert received(slow).startswith(b"HTTP/1.1 422")


def test_work_that_takes_too_long(limited, tmp_path):
    samples = decode(MUSIC / f"{KNOWN[0]}.mp3", sample_rate_hz=16_000).samples
    soundfile.write(tmp_path / "long.flac", np.resize(samples, 800 * 16_000), 16_000)
    with limited.client() as client:
        reply = client.post("/v1/identify", content=(tmp_path / "long.flac").read_bytes())
        assert reply.status_code == 503 and reply.headers["retry-after"] == "1"
        assert reply.json()["detail"] == "the answer took too long" and reply.json()["remedy"]
        until = time.monotonic() + 60
        while (
            "confp_requests_inside 0.0" not in client.get("/metrics").text
        ):  # its place is free again
            assert time.monotonic() < until
            time.sleep(0.1)


def test_connections_beyond_the_limit_are_hung_up_on(limited):
    def answered(opened: socket.socket) -> bool:
        with contextlib.suppress(BrokenPipeError):
            opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return received(opened).endswith(b"alive\n")

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(raw(limited)) for _ in range(SETTINGS.max_connections)]
        time.sleep(0.2)
        with raw(limited) as extra:
            assert not answered(extra)
        assert answered(opened.pop())  # those before it are served
        time.sleep(0.2)
        with raw(limited) as next_one:
            assert answered(next_one)


def test_microphones_beyond_the_limit_are_told(limited):
    start = json.dumps({"type": "start", "sample_rate_hz": 16_000})

    def first_message(*, after_s: float = 0.0) -> dict:
        with connect(limited.listen_address) as ws:
            time.sleep(after_s)
            with contextlib.suppress(
                ConnectionClosed
            ):  # it may be refused before it has said a word
                ws.send(start)
            return json.loads(ws.recv())

    with connect(limited.listen_address) as ws:
        ws.send(start)
        assert json.loads(ws.recv())["type"] == "listening"
        for after_s in (0.0, 0.5):
            refused = first_message(after_s=after_s)
            assert (refused["type"], refused["status"]) == ("problem", 429) and refused["remedy"]
    until = time.monotonic() + 30
    while first_message()["type"] != "listening":  # the first one has gone
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_clip_that_never_ends(limited):
    """A word now and then, but no audio: the place goes to somebody else."""
    with connect(limited.listen_address) as ws:
        began = time.monotonic()
        last = {"type": "listening"}
        ws.send(json.dumps({"type": "start", "sample_rate_hz": 16_000}))
        while last["type"] == "listening":
            assert time.monotonic() - began < 30
            with contextlib.suppress(ConnectionClosed):
                ws.send(b"")
            with contextlib.suppress(TimeoutError):
                last = json.loads(ws.recv(0.3))
    assert (
        (last["type"], last["status"]) == ("problem", 408)
        and "within 6 s" in last["detail"]
        and last["remedy"]
    )


def test_a_client_that_does_not_read(limited):
    """Answers that nobody takes: neither they nor the connection are kept."""
    ask = b"GET /v1/tracks/1/audio HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with raw(limited) as silent:
        silent.settimeout(0.5)
        until = time.monotonic() + 30
        with pytest.raises(ConnectionError):
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    silent.sendall(ask * 20)
                time.sleep(0.1)


def test_sites_that_may_ask(limited):
    with limited.client() as client:
        asked = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
        preflight = client.options("/v1/identify", headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (
            204,
            SITE,
        )
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        shown = client.get("/v1/tracks", headers={"Origin": SITE})
        assert (
            shown.headers["access-control-allow-origin"] == SITE
            and shown.headers["vary"] == "Origin"
        )
        refused = client.post(
            "/v1/identify", headers={"Origin": SITE}
        )  # a page can read why as well
        assert refused.status_code == 400 and refused.headers["access-control-allow-origin"] == SITE
        for other in ("https://other.example", "http://pages.example", "null"):
            answer = client.get("/v1/tracks", headers={"Origin": other})
            assert "access-control-allow-origin" not in answer.headers
            assert (
                "access-control-allow-origin"
                not in client.options("/v1/identify", headers=asked | {"Origin": other}).headers
            )
    with connect(limited.listen_address, origin=SITE) as ws:
        ws.send("?")
        assert json.loads(ws.recv())["status"] == 400
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(limited.listen_address, origin="https://other.example"),
    ):
        pass


def test_it_is_still_well(limited):
    """After all of this."""
    with httpx.Client(base_url=limited.address, timeout=60) as client:
        assert client.get("/readyz").status_code == 200
    assert "Traceback" not in limited.log.read_text()


def test_the_page_is_found_behind_a_proxy_with_a_path_of_its_own(limited):
    """The proxy takes its path away before it asks; what the page names is relative."""
    with limited.client() as client:
        prefix = {"X-Forwarded-Prefix": "/music"}
        page = client.get("/", headers=prefix)
        named = re.findall(r'(?:src|href)="([^"]*page/[^"]*)"', page.text)
        assert named and not any(address.startswith("/") for address in named)
        assert all(client.get(f"/{name}", headers=prefix).status_code == 200 for name in named)
