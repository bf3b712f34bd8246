"""What the service's tests share: one server for all that leave it as it was, its clients, and
clips.
"""

import pathlib
import shutil
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import soundfile
from browsing import CHROMIUM, runtime_folder
from jsonschema import Draft202012Validator
from running_service import KNOWN, MUSIC, RATE, UNKNOWN, Server, excerpt, start_server

import confp_jax


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> pathlib.Path:
    """Eight tracks by the model that ships. Nothing opens it: it is there to be copied, and SQLite
    removes files of a database that a server reads, at any moment.
    """
    folder = tmp_path_factory.mktemp("original") / "music.db"
    library = confp_jax.open(folder)
    library.add([MUSIC / f"{name}.mp3" for name in KNOWN])
    library.settle()  # a thread that looks whether the index is due has it open
    return folder


@pytest.fixture(scope="session")
def database(original, tmp_path_factory) -> pathlib.Path:
    """The one that servers read."""
    return shutil.copytree(original, tmp_path_factory.mktemp("service") / "music.db")


@pytest.fixture(scope="session")
def server(database, tmp_path_factory) -> Iterator[Server]:
    """One server for all tests that leave it as it was."""
    server = start_server(
        database,
        tmp_path_factory.mktemp("server"),
        "--share-audio",
        str(MUSIC),
        "--max-body-mib",
        "4",
        "--max-audio-s",
        "60",
        "--browser-runtime",
        str(runtime_folder(tmp_path_factory.mktemp("runtime"))),
    )
    yield server
    server.stop()


@pytest.fixture(scope="session")
def document(server) -> dict:
    """The OpenAPI document."""
    with server.client() as client:
        return client.get("/openapi.json").json()


@pytest.fixture(scope="session")
def valid(document):
    """`valid(reply)`: whether an answer is what the OpenAPI document promises; returns its JSON."""

    def check(reply: httpx.Response):
        path = reply.url.path.replace("/v1/tracks/999999", "/v1/tracks/{id}")
        for number in range(1, 30):
            path = (
                path.replace(f"/v1/tracks/{number}", "/v1/tracks/{id}") if "{" not in path else path
            )
        responses = document["paths"][path][reply.request.method.lower()]["responses"]
        ((media, content),) = responses[str(reply.status_code)]["content"].items()
        assert reply.headers["content-type"] == media
        Draft202012Validator(content["schema"] | {"components": document["components"]}).validate(
            reply.json()
        )
        return reply.json()

    return check


@pytest.fixture
def client(server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def writer(server) -> Iterator[httpx.Client]:
    with server.writer() as client:
        yield client


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Files to ask about: 5 s of a known track in noise, 6 s of an unknown one, silence and
    no audio.
    """
    folder = tmp_path_factory.mktemp("clips")
    files = {
        "known": excerpt(KNOWN[0], start_s=7.35, length_s=5.0, noise_db=10.0),
        "unknown": excerpt(UNKNOWN, start_s=4.0, length_s=6.0),
        "silence": np.zeros(4 * RATE, np.float32),
        "short": excerpt(KNOWN[0], start_s=7.0, length_s=0.5),
    }
    for name, samples in files.items():
        soundfile.write(folder / f"{name}.wav", np.clip(samples, -1, 1), RATE)
    (folder / "text.wav").write_text("this is no audio\n" * 100)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> dict[str, pathlib.Path]:
    """What the fake microphone plays, over and over: 12 s at 48 kHz."""
    folder = tmp_path_factory.mktemp("microphone")
    known = excerpt(KNOWN[0], start_s=6.0, length_s=12.0, noise_db=10.0, rate_hz=48_000)
    unknown = excerpt(UNKNOWN, start_s=6.0, length_s=12.0, noise_db=10.0, rate_hz=48_000)
    for name, samples in {
        "known": known,
        "unknown": unknown,
        "silence": np.zeros(48_000),
    }.items():
        soundfile.write(folder / f"{name}.wav", np.clip(samples, -1, 1), 48_000, subtype="PCM_16")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")  # its event loop would be in other tests' way
def playwright():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture
def open_page(playwright, server, sounds) -> Iterator:
    """`open_page(sound)`: the page with a microphone that plays it; every message of the console
    must be expected. `page.sent` are its requests, `page.sockets` its WebSockets.
    """
    browsers = []
    troubles = []

    def opened(sound: str = "known", *, allowed: bool = True, **options):
        arguments = [
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={sounds[sound]}",
            "--no-sandbox",
        ]
        arguments += ["--use-fake-ui-for-media-stream"] if allowed else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        browsers.append(browser)
        context = browser.new_context(**({"viewport": {"width": 900, "height": 1100}} | options))
        page = context.new_page()
        page.outside, page.sent, page.sockets = [], [], []
        page.on("request", lambda request: page.sent.append(request))
        page.on("websocket", lambda socket: page.sockets.append(socket))
        page.on(
            "request",
            lambda request: (
                page.outside.append(request.url) if server.address not in request.url else None
            ),
        )
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda said: troubles.append(said.text) if "Content Security" in said.text else None,
        )
        page.goto(server.address)
        page.get_by_text("tracks can be recognised").wait_for()
        return page

    yield opened
    for browser in browsers:
        browser.close()
    assert troubles == []
