"""4,000 requests of chance over HTTP and WebSocket: every one is answered or hung up on, none ends
in a fault of the service, and nothing grows.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import socket
import struct
import time

import pytest
from running_service import TOKEN, Server, start_server

NUM_REQUESTS = 4_000
PATHS = (
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/page/page.js",
    "/v1/identify",
    "/v1/identify?explain=1",
    "/v1/tracks",
    "/v1/tracks?limit=9999999999999999999",
    "/v1/tracks?search=%ff%00&offset=-1",
    "/v1/tracks/1",
    "/v1/tracks/1/audio",
    "/v1/tracks/99999999999999999999999999",
    "/v1/tracks/%F0%9F%92%A9",
    "/page/../../../etc/passwd",
    "/page/%2e%2e%2f%2e%2e%2fetc/passwd",
    "//v1//tracks",
    "/v1/listen",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X")
HEADERS = (
    "Range: bytes=5-1",
    "Range: bytes=-99999999999999999999",
    "Range: chunks=1",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: multipart/form-data",
    "Content-Type: application/json",
    "Authorization: Bearer wrong",
    f"Authorization: Bearer {TOKEN}",
    "Authorization: Bearer \xff\xfe",
    "Origin: https://pages.example/",
    "Origin: null",
    "X-Forwarded-For: ::1, \xff",
    "X-Forwarded-Prefix: //elsewhere.example",
    "Host: \xff",
    "Accept-Encoding: gzip, \x01",
    "Expect: 100-continue",
    "Transfer-Encoding: chunked",
    "Upgrade: websocket",
    "X-Long: " + "x" * 20_000,
)


def body_of(rng: random.Random, clips: list[bytes]) -> bytes:
    """Audio, whole or damaged, or what is none."""
    kind = rng.randrange(7)
    clip = bytearray(rng.choice(clips))
    if kind == 0:
        return b""
    if kind == 1:
        return rng.randbytes(rng.randrange(5_000))
    if kind == 2:
        values = (None, [], {"title": 5}, {"title": "x" * 9_999}, {"x": "y"}, "\ud800", 1e999)
        return json.dumps(rng.choice(values)).encode()
    if kind == 3:
        part = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a\0\xff"\r\n\r\n'
        return part + bytes(clip) + rng.choice((b"\r\n--x--\r\n", b"", b"\r\n--x\r\n"))
    if kind == 4:
        return bytes(clip[: rng.randrange(len(clip))])
    for _ in range(rng.choice((1, 10, 1000))):
        clip[rng.randrange(len(clip))] = rng.randrange(256)
    return bytes(clip)


def http_request(rng: random.Random, clips: list[bytes]) -> bytes:
    """A request with a right form, more or less."""
    method = rng.choice(METHODS)
    path = rng.choice(PATHS)
    if rng.random() < 0.1:
        path = "/" + "".join(chr(rng.randrange(33, 255)) for _ in range(rng.randrange(300)))
    if rng.random() < 0.4:
        method = "POST"
        path = rng.choice(("/v1/identify", "/v1/tracks", "/v1/identify?explain=1"))
    body = body_of(rng, clips) if method in ("POST", "PUT", "PATCH") else b""
    headers = rng.sample(HEADERS, rng.randrange(4))
    length: object = len(body)
    if rng.random() < 0.1:
        length = rng.choice((-1, "x", len(body) + 100, max(0, len(body) - 5), 1 << 70, "0x10"))
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    head += [f"Content-Length: {length}", *headers]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def frame(opcode: int, payload: bytes, *, announced: int | None = None, fin: bool = True) -> bytes:
    """A masked WebSocket frame; its length may lie."""
    size = len(payload) if announced is None else announced
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    return head + bytes(4) + payload


def listening(rng: random.Random) -> bytes:
    """A WebSocket's opening and a few frames, most of them wrong."""
    head = (
        b"GET /v1/listen HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    starts = (
        {"type": "start", "sample_rate_hz": 16_000},
        {"type": "start", "sample_rate_hz": 48_000, "format": "s16le", "mode": "monitor"},
        {"type": "start", "sample_rate_hz": -1},
        {"type": "start", "sample_rate_hz": 1e999},
        {"type": "start", "sample_rate_hz": "x", "mode": []},
        {"type": "stop"},
        [],
        None,
    )
    more = (
        frame(2, rng.randbytes(rng.choice((1, 3, 4, 400, 64_000)))),
        frame(2, b"\x00\x00\xc0\x7f" * 4_000),
        frame(2, bytes(64_000)),
        frame(2, b"", announced=1 << 62),
        frame(1, b"\xff\xfe"),
        frame(1, b'{"type": "stop"}'),
        frame(0, b"continued"),
        frame(2, b"begun", fin=False),
        frame(9, bytes(126)),
        frame(8, b"\x00"),
        rng.randbytes(40),
    )
    frames = [frame(1, json.dumps(rng.choice(starts)).encode())]
    frames += rng.choices(more, k=rng.randrange(6))
    return head + b"".join(frames)


def request(rng: random.Random, clips: list[bytes]) -> bytes:
    kind = rng.random()
    if kind < 0.05:
        return rng.randbytes(rng.randrange(2_000))
    return listening(rng) if kind < 0.3 else http_request(rng, clips)


def exchange(server: Server, content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Sends it; returns what became of it (the status, "hung up" or "waits") and the answer."""
    host, port = server.address.removeprefix("http://").split(":")
    answer = b""
    try:
        with socket.create_connection((host, int(port)), timeout=30) as opened:
            opened.settimeout(2)
            opened.sendall(content)
            if rng.random() < 0.2:
                return "left", b""
            while part := opened.recv(65_536):
                answer += part
    except TimeoutError:
        if not answer:
            return "waits", b""
    except OSError:
        pass
    line = answer.split(b"\r\n", 1)[0].split()
    return (line[1].decode("latin-1") if len(line) > 1 else "hung up"), answer


def family(number: int) -> list[int]:
    """A process and those that it started."""
    found = [number]
    for task in pathlib.Path(f"/proc/{number}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def held(number: int, folder: pathlib.Path) -> tuple[int, int, int]:
    """MiB, descriptors and temporary files of a service."""
    memory = descriptors = 0
    for process in family(number):
        rss = pathlib.Path(f"/proc/{process}/statm").read_text().split()[1]
        memory += int(rss) * os.sysconf("SC_PAGE_SIZE") >> 20
        descriptors += len(os.listdir(f"/proc/{process}/fd"))
    return memory, descriptors, sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_thousands_of_requests_of_chance(original, clips, tmp_path, monkeypatch):
    copied = shutil.copytree(original, tmp_path / "music.db")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    server = start_server(copied, tmp_path, "--max-body-mib", "4", "--max-audio-s", "60")
    bodies = [path.read_bytes() for path in clips.values()]
    counts: collections.Counter[str] = collections.Counter()
    failed: list[tuple[bytes, bytes]] = []
    slowest_s = 0.0

    def one(seed: int) -> None:
        rng = random.Random(seed)
        content = request(rng, bodies)
        status, answer = exchange(server, content, rng)
        counts[status] += 1
        if status == "500" or b"the service failed" in answer:
            failed.append((content[:300], answer[:300]))

    try:
        found = []
        for first in range(0, NUM_REQUESTS, 500):
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(one, range(first, first + 500)))
            with server.client() as client:
                until = time.monotonic() + 60
                while "confp_requests_inside 0.0" not in client.get("/metrics").text:
                    assert time.monotonic() < until, "requests stay inside"
                    time.sleep(0.2)
                began = time.monotonic()
                assert client.get("/healthz").status_code == 200
                slowest_s = max(slowest_s, time.monotonic() - began)
                answer = client.post("/v1/identify", content=clips["known"].read_bytes())
                assert answer.status_code == 200
            found.append(held(server.process.pid, temporary))
        print(f"{NUM_REQUESTS} requests: {dict(counts)}; MiB, descriptors, files: {found}")
        print(f"/healthz within {slowest_s:.2f} s")
        assert failed == []
        assert server.process.poll() is None
        memory, descriptors, files = zip(*found, strict=True)
        assert memory[-1] < memory[1] + 200
        assert max(descriptors) < min(descriptors) + 40
        assert max(files) == 0
    finally:
        server.stop()
    assert "Traceback" not in server.log.read_text()
