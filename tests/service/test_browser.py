"""The page in Debian's Chromium, with a microphone that plays a file: what a person sees and can
do.
"""

import json
import os
import re
import time

from browsing import PHONE, needs_chromium, title, wait_for_answer
from running_service import KNOWN, MUSIC, TOKEN, UNKNOWN

pytestmark = needs_chromium


def wait_for_level(page) -> None:
    """Until the meter shows sound. Not by `wait_for_function`: it polls by eval, which the page's
    policy forbids.
    """
    deadline = time.monotonic() + 30
    while page.evaluate("document.getElementById('level').value") <= 0.2:
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def brightness(page) -> float:
    """Of the page's background, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def is_drawn(page, canvas: str) -> bool:
    """Whether a canvas shows more than one colour."""
    script = """(id) => {
      const canvas = document.getElementById(id);
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return new Set(Array.from({length: data.length / 4},
        (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
    }"""
    return page.evaluate(script, canvas) > 50


def test_the_microphone_names_the_track(open_page, root):
    page = open_page("known")
    page.get_by_role("button", name="Listen").click()
    page.get_by_role("button", name="Stop").wait_for()
    wait_for_level(page)
    wait_for_answer(page)
    assert title(page) == KNOWN[0]
    seconds = re.fullmatch(
        r"(\d+):(\d\d) into the track.*", page.locator("#answer-place").inner_text()
    )
    assert 6 <= int(seconds[1]) * 60 + int(seconds[2]) <= 14
    assert re.search(
        r"(Almost certain|Very likely): .*\d %? ?.*confidence",
        page.locator("#answer-sure").inner_text(),
    )
    assert is_drawn(page, "query-picture") and is_drawn(page, "match-picture")
    assert page.locator("#scores li").count() >= 3
    assert "behind" in page.locator("#margin").inner_text()
    assert page.outside == []
    page.get_by_role("button", name="Listen").wait_for()  # it can be asked again
    if pictures := os.environ.get("CONFP_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/microphone.png", full_page=True)


def test_a_listening_button_and_what_is_read_aloud(open_page):
    """The button says what it does by its label alone; the status changes when there is news, not
    every second.
    """
    page = open_page("unknown")
    script = """() => {
      window.said = [];
      const status = document.getElementById("status");
      new MutationObserver(() => window.said.push(status.textContent))
        .observe(status, { childList: true });
    }"""
    page.evaluate(script)
    page.get_by_role("button", name="Listen").click()
    page.get_by_role("button", name="Stop").wait_for()
    assert page.locator("#listen").get_attribute("aria-pressed") is None
    page.locator("#heard").get_by_text(re.compile(r"[5-9] s heard")).wait_for(timeout=30_000)
    page.get_by_role("button", name="Stop").click()
    wait_for_answer(page)
    said = page.evaluate("window.said")
    assert (
        "Listening…" in said
        and len(said) <= 6
        and not any(re.search(r"\d+ s", text) for text in said)
    ), said
    assert page.locator("#heard").is_hidden()


def test_a_file_instead_of_the_microphone(open_page, clips):
    """What was heard until then is not answered, and the microphone is given back."""
    page = open_page("unknown")
    page.get_by_role("button", name="Listen").click()
    page.get_by_text("nothing sure yet").wait_for(timeout=60_000)
    page.locator("#file").set_input_files(clips["known"])
    page.get_by_role("button", name="Listen").wait_for()
    wait_for_answer(page)
    page.wait_for_timeout(3000)
    assert title(page) == KNOWN[0]
    assert page.locator("#history").is_hidden() and page.get_by_role("alert").is_hidden()
    assert page.locator("#level").is_hidden()


def test_the_artist_and_a_copy_by_hand(open_page, clips, writer):
    """Pages by plain http may not copy: the answer is shown, and selected."""
    body = (MUSIC / f"{UNKNOWN}.mp3").read_bytes()
    added = writer.post(
        "/v1/tracks", params={"title": "The Protagonist", "artist": "Tim Beek"}, content=body
    ).json()
    try:
        page = open_page()
        page.locator("#file").set_input_files(clips["unknown"])
        wait_for_answer(page)
        assert (title(page), page.locator("#answer-artist").inner_text()) == (
            "The Protagonist",
            "by Tim Beek",
        )
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        page.get_by_role("button", name="Copy as JSON").click()
        page.get_by_text("select it below").wait_for()
        assert (
            json.loads(page.locator("#to-copy").inner_text())["matches"][0]["artist"] == "Tim Beek"
        )
        assert json.loads(page.evaluate("getSelection().toString()"))["verdict"] == "match"
    finally:
        assert writer.delete(f"/v1/tracks/{added['id']}").status_code == 204


def test_the_match_can_be_played_and_copied(open_page, clips):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#file").set_input_files(clips["known"])
    wait_for_answer(page)
    player = page.locator("#answer-play audio")
    player.evaluate("player => { player.muted = true; return player.play(); }")
    assert player.evaluate("player => player.currentTime") >= 7
    link = page.get_by_role("link", name=re.compile("Play from 0:0[78]"))
    assert re.search(r"/v1/tracks/\d+/audio#t=7\.\d$", link.get_attribute("href"))
    page.get_by_role("button", name="Copy as JSON").click()
    page.get_by_text("Copied.").wait_for()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert (copied["verdict"], copied["matches"][0]["track"]) == ("match", KNOWN[0])


def test_a_dropped_file_and_the_history(open_page, clips):
    page = open_page()
    script = """([bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], "dropped.wav"));
      document.body.dispatchEvent(new DragEvent("drop",
        { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(script, [list(clips["known"].read_bytes())])
    wait_for_answer(page)
    assert title(page) == KNOWN[0]
    page.locator("#file").set_input_files(clips["unknown"])
    page.get_by_text("I don’t know this one").wait_for()
    page.locator("#history").get_by_role("button", name=KNOWN[0]).click()
    assert title(page) == KNOWN[0]
    page.reload()
    page.locator("#history").get_by_role("button").first.wait_for()  # it is the browser's
    assert page.locator("#answer").is_visible()
    assert page.evaluate("document.activeElement.id") != "answer"  # which nobody has just asked for


def test_the_history_is_kept_until_it_is_forgotten(open_page, clips):
    page = open_page()
    for clip in ("known", "unknown"):
        page.locator("#file").set_input_files(clips[clip])
        wait_for_answer(page)
        page.locator("body:not([aria-busy])").wait_for()
    page.get_by_role("button", name="Forget all").click()
    assert page.locator("#history").is_hidden()
    page.reload()
    page.get_by_text("can be recognised here").first.wait_for()
    assert page.locator("#history").is_hidden() and page.locator("#answer").is_hidden()


def test_what_the_service_holds_can_be_searched_and_played(open_page):
    page = open_page(viewport=PHONE)
    page.get_by_text("What can be recognised here").click()
    page.get_by_label("Search by title").fill(KNOWN[0])
    page.get_by_text("1 track", exact=True).wait_for()
    page.get_by_role("button", name=f"Play {KNOWN[0]}").click()
    page.locator("#playing").wait_for()
    assert KNOWN[0] in page.locator("#playing-name").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_music_is_added_with_the_token(open_page, clips, writer):
    page = open_page()
    page.get_by_text("Add music").click()
    files = page.locator("#new-files")
    files.set_input_files(clips["unknown"])
    page.get_by_text("Adding needs the token").wait_for()
    page.get_by_label("Token of this service").fill("not the token")
    files.set_input_files(clips["unknown"])
    page.get_by_text("no token, or a wrong one").wait_for()
    page.get_by_label("Token of this service").fill(TOKEN)
    files.set_input_files([clips["unknown"], clips["text"]])
    page.get_by_text("unknown was added.").wait_for(timeout=30_000)
    page.get_by_text("text.wav:").wait_for()
    number = writer.get("/v1/tracks", params={"search": "unknown"}).json()["tracks"][0]["id"]
    assert writer.delete(f"/v1/tracks/{number}").status_code == 204


def test_a_microphone_that_hears_nothing(open_page):
    page = open_page("silence")
    page.get_by_role("button", name="Listen").click()
    page.get_by_text("The microphone hears nothing").wait_for(timeout=20_000)


def test_an_unknown_query(open_page):
    page = open_page("unknown", color_scheme="dark")
    assert brightness(page) < 40
    page.get_by_role("button", name="Listen").click()
    page.get_by_text("nothing sure yet").wait_for(timeout=30_000)
    wait_for_answer(page)
    assert title(page) == "I don’t know this one"
    assert "may not be in this collection" in page.locator("#answer-artist").inner_text()
    if pictures := os.environ.get("CONFP_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/unknown.png", full_page=True)


def test_what_can_go_wrong_is_said(open_page, server, clips):
    page = open_page("silence")
    alert = page.get_by_role("alert")
    for clip, words in (
        ("text", "cannot be decoded"),
        ("silence", "silent"),
        ("short", "too short"),
    ):
        page.locator("#file").set_input_files(clips[clip])
        alert.get_by_text(words).wait_for()
    page.get_by_role("button", name="Listen").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.keyboard.press("Escape")  # stops as the button does
    alert.get_by_text(re.compile("silent|too short|no audio")).wait_for()
    page.context.set_offline(True)
    page.locator("#file").set_input_files(clips["known"])
    alert.get_by_text("cannot be reached").wait_for()
    if pictures := os.environ.get("CONFP_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/problem.png", full_page=True)


def test_a_refused_microphone(open_page):
    page = open_page(allowed=False)
    page.get_by_role("button", name="Listen").click()
    page.get_by_role("alert").get_by_text("may not use the microphone").wait_for()


def test_phone_width_by_keyboard(open_page, clips):
    page = open_page("known", viewport=PHONE, has_touch=True, is_mobile=True)
    assert brightness(page) > 215
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "listen"
    page.keyboard.press("Enter")
    wait_for_answer(page)
    assert title(page) == KNOWN[0]
    assert page.evaluate("document.activeElement.id") == "answer"  # a screen reader reads it
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    if pictures := os.environ.get("CONFP_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/phone.png", full_page=True)


def test_the_documentation_needs_nobody_else(open_page, server):
    page = open_page()
    page.goto(f"{server.address}/docs")
    page.get_by_text("/v1/identify – Which tracks sound in it?").click()
    page.locator("details[open]").get_by_text("Also say why").wait_for()
    assert page.outside == []
    if pictures := os.environ.get("CONFP_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/docs.png")
