"""The page with `?local` in Debian's Chromium: fingerprints are computed there, and no audio
travels.
"""

import json
import os
import re
import urllib.parse

import pytest
from browsing import PHONE, needs_chromium, needs_runtime, title, wait_for_answer
from running_service import KNOWN

pytestmark = [needs_chromium, needs_runtime]
FINGERPRINTS = "/v1/identify/fingerprints"


def open_local(open_page, server, sound: str = "known", **options):
    """The page in its local mode, once the model is loaded."""
    page = open_page(sound, **options)
    page.sent.clear()
    page.goto(f"{server.address}/?local")
    page.get_by_text("Hold the microphone").wait_for(timeout=60_000)
    return page


def asked_about(page, file) -> dict:
    """What the service answers to the page about a file."""
    with page.expect_response(lambda reply: FINGERPRINTS in reply.url, timeout=60_000) as got:
        page.locator("#file").set_input_files(file)
    return got.value.json()


def bodies(page) -> list[tuple[str, bytes]]:
    """Everything that the page sent: path, and body."""
    return [
        (re.sub(r"^https?://[^/]*|\?.*", "", request.url), request.post_data_buffer)
        for request in page.sent
        if request.post_data_buffer
    ]


@pytest.mark.parametrize("name", ["known", "unknown"])
def test_the_answer_is_the_uploads_and_no_audio_travels(open_page, server, client, clips, name):
    uploaded = client.post("/v1/identify", content=clips[name].read_bytes()).json()
    page = open_local(open_page, server)
    found = asked_about(page, clips[name])
    wait_for_answer(page)
    assert title(page) == (KNOWN[0] if name == "known" else "I don’t know this one")
    for key in ("verdict", "num_accepted", "length_s", "notes"):
        assert found[key] == uploaded[key], key
    for mine, theirs in zip(found["matches"][:2], uploaded["matches"][:2], strict=True):
        assert mine["track"] == theirs["track"]
        assert mine["offset_s"] == pytest.approx(theirs["offset_s"], abs=0.05)
        assert mine["score"] == pytest.approx(theirs["score"], abs=0.01)
        assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=0.05)
    num_windows = 1 + int((found["length_s"] - 0.9 + 1e-6) / 0.3)
    ((path, body),) = bodies(page)
    assert (path, len(body)) == (FINGERPRINTS, 6 * 640 * num_windows)
    assert page.sockets == [] and page.outside == []
    if pictures := os.environ.get("CONFP_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/local-{name}.png", full_page=True)


def questions(page) -> list[dict[str, str]]:
    """What the page asked the service, by the parameters of its addresses."""
    assert {path for path, _ in bodies(page)} == {FINGERPRINTS} and page.sockets == []
    asked = [request.url for request in page.sent if request.post_data_buffer]
    return [dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query)) for url in asked]


def test_the_microphone_stays_here(open_page, server):
    """It is asked about after 3 s, and the answer follows as soon as that is sure."""
    page = open_local(open_page, server)
    page.get_by_role("button", name="Listen").click()
    wait_for_answer(page)
    assert title(page) == KNOWN[0]
    seconds = re.match(r"(\d+):(\d\d) into", page.locator("#answer-place").inner_text())
    assert 5 <= int(seconds[1]) * 60 + int(seconds[2]) <= 18
    page.get_by_role("button", name="Listen").wait_for()
    *guesses, last = questions(page)
    assert 1 <= len(guesses) <= 2 and int(guesses[0]["num_samples"]) >= 3 * 16_000
    assert {one["questions"] for one in (*guesses, last)} == {"3"}
    assert [one["explain"] for one in (*guesses, last)] == ["false"] * len(guesses) + ["true"]


def test_a_recording_ends_by_itself_and_can_be_given_up(open_page, server, clips):
    page = open_local(open_page, server, "unknown")
    page.get_by_role("button", name="Listen").click()
    page.get_by_role("button", name="Stop").wait_for()
    assert asked_about(page, clips["known"])["verdict"] == "match"  # instead of the microphone
    wait_for_answer(page)
    page.sent.clear()
    page.get_by_role("button", name="Listen").click()
    page.get_by_text("I don’t know this one").wait_for(timeout=60_000)
    assert int(questions(page)[-1]["num_samples"]) == pytest.approx(10 * 16_000, rel=0.02)


def test_what_it_says_of_itself(open_page, server, clips):
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    assert page.locator("#private").is_hidden()
    page.get_by_role("link", name="Ask without sending audio").click()
    page.get_by_text("Audio does not leave this device").wait_for()
    page.get_by_text("Hold the microphone").wait_for(timeout=60_000)
    assert page.get_by_text("Add music").is_hidden()  # which would send audio
    asked_about(page, clips["known"])
    wait_for_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_text("the recording stayed on your device").wait_for()
    if pictures := os.environ.get("CONFP_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/local-phone.png", full_page=True)
    page.get_by_role("link", name="Ask by sending the audio").click()
    page.get_by_text("Add music").wait_for()


def test_recordings_that_are_no_use(open_page, server, clips):
    page = open_local(open_page, server)
    for clip, words in (
        ("text", "cannot decode"),
        ("silence", "silent"),
        ("short", "0.50 s of audio is too short"),
    ):
        page.locator("#file").set_input_files(clips[clip])
        page.get_by_role("alert").get_by_text(words).wait_for()
    assert [set(body) for _, body in bodies(page)] == [{0}]  # of silence, zeros


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": None}, "--browser-runtime"),
        ({"weights_hash": "0123456789abcdef"}, "has another model now"),
        (None, "cannot be run in this browser (/local/model.onnx is not there (404))"),
    ],
)
def test_what_is_missing_is_said(open_page, server, client, clips, change, words):
    page = open_page()
    if change is None:
        page.route("**/local/model.onnx", lambda route: route.fulfill(status=404))
    else:
        about = json.dumps(client.get("/v1/model").json() | change)
        page.route("**/v1/model", lambda route: route.fulfill(body=about))
    page.goto(f"{server.address}/?local")
    if change and "weights_hash" in change:
        asked_about(page, clips["known"])
    page.get_by_role("alert").get_by_text(words).wait_for()
    assert all(path == FINGERPRINTS for path, _ in bodies(page))
