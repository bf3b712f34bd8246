"""The HTTP interface: what it answers, what it refuses, and that no body can take it down."""

import base64
import concurrent.futures
import socket
import threading
import time

import httpx
import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from running_service import KNOWN, MUSIC, RATE, STRANGER, excerpt
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import confp_jax

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:30\n#EXTINF:30,\n{}\n#EXT-X-ENDLIST\n"


@pytest.fixture(scope="module")
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


class TestIdentify:
    def test_it_answers_as_the_library_does(self, client, clips, database, valid):
        expected = confp_jax.open(database).identify_file(clips["known"])
        raw = valid(client.post("/v1/identify", content=clips["known"].read_bytes()))
        form = valid(
            client.post(
                "/v1/identify", files={"audio": ("../../etc/x.wav", clips["known"].read_bytes())}
            )
        )
        for answer in (raw, form):
            assert (answer["verdict"], answer["num_accepted"], answer["length_s"]) == (
                "match",
                1,
                5.0,
            )
            for found, wanted in zip(answer["matches"], expected.matches, strict=True):
                assert found["track"] == wanted.track
                assert found["offset_s"] == pytest.approx(wanted.offset_s, abs=0.02)
                assert found["confidence"] == pytest.approx(wanted.confidence, abs=0.01)
            assert "path" not in answer["matches"][0] and "why" not in answer

    def test_why(self, client, clips, valid):
        why = valid(client.post("/v1/identify?explain=true", content=clips["known"].read_bytes()))[
            "why"
        ]
        assert len(why["scores"]) == 5 and all(
            0.4 < second["score"] <= 1 for second in why["scores"]
        )
        assert why["margin"] > 0.1 and why["runner_up"]["track"] != KNOWN[0]
        assert why["offset_s"] == pytest.approx(7.35, abs=0.1)
        pictures = []
        for picture in (why["query"], why["match"]):
            pixels = np.frombuffer(base64.b64decode(picture["pixels"]), np.uint8)
            pictures.append(
                pixels.reshape(picture["num_bands"], picture["num_columns"])[:, :200].astype(float)
            )
            assert pixels.max() == 255
        assert (
            np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1] > 0.6
        )  # they show the same moment

    def test_why_of_a_query_shorter_than_a_window(self, client, clips, valid, tmp_path):
        samples, rate_hz = soundfile.read(clips["known"])
        soundfile.write(tmp_path / "short.wav", samples[rate_hz : 3 * rate_hz], rate_hz)
        answer = valid(
            client.post("/v1/identify?explain=true", content=(tmp_path / "short.wav").read_bytes())
        )
        assert answer["matches"][0]["track"] == KNOWN[0] and answer["why"][
            "offset_s"
        ] == pytest.approx(8.35, abs=0.3)
        assert [second["query_offset_s"] for second in answer["why"]["scores"]] == [0.0, 1.0]
        assert all(0.4 < second["score"] <= 1 for second in answer["why"]["scores"])

    def test_unknown_and_long(self, client, clips, valid, tmp_path):
        answer = valid(
            client.post("/v1/identify?explain=1", content=clips["stranger"].read_bytes())
        )
        assert (answer["verdict"], answer["num_accepted"]) == ("unknown", 0)
        both = np.concatenate(
            [excerpt(KNOWN[1], start_s=2, length_s=14), excerpt(KNOWN[2], start_s=5, length_s=14)]
        )
        soundfile.write(tmp_path / "both.ogg", both, RATE)
        answer = valid(client.post("/v1/identify", content=(tmp_path / "both.ogg").read_bytes()))
        assert {match["track"] for match in answer["matches"][: answer["num_accepted"]]} == {
            KNOWN[1],
            KNOWN[2],
        }

    def test_many_at_once_share_batches(self, server, client, clips):
        """32 clients: each gets the answer to its own clip."""
        bodies = [soundfile_bytes(excerpt(name, start_s=8.0, length_s=3.0)) for name in KNOWN]
        with server.client() as shared, concurrent.futures.ThreadPoolExecutor(32) as pool:
            answers = list(
                pool.map(
                    lambda i: shared.post("/v1/identify", content=bodies[i % len(bodies)]).json(),
                    range(48),
                )
            )
        assert [answer["matches"][0]["track"] for answer in answers] == [
            KNOWN[i % len(bodies)] for i in range(48)
        ]
        counts = dict(
            line.rsplit(" ", 1)
            for line in client.get("/metrics").text.splitlines()
            if "batch_clips" in line
        )
        assert float(counts["confp_batch_clips_sum"]) > float(
            counts["confp_batch_clips_count"]
        )  # some were together


class TestRefusals:
    @pytest.mark.parametrize(
        ("clip", "words"),
        [("text", "cannot be decoded"), ("silence", "silent"), ("short", "too short")],
    )
    def test_no_usable_audio(self, client, clips, valid, clip, words):
        reply = client.post("/v1/identify", content=clips[clip].read_bytes())
        assert reply.status_code == 422
        assert words in valid(reply)["detail"] and reply.json()["remedy"]

    def test_too_much(self, client, valid, tmp_path):
        assert valid(client.post("/v1/identify", content=bytes(5 << 20)))["status"] == 413
        chunks = (bytes(1 << 20) for _ in range(6))  # without Content-Length
        assert client.post("/v1/identify", content=chunks).status_code == 413
        soundfile.write(tmp_path / "long.flac", np.zeros(90 * 16_000), 16_000)
        assert (
            "longer than 60 s"
            in valid(client.post("/v1/identify", content=(tmp_path / "long.flac").read_bytes()))[
                "detail"
            ]
        )

    def test_nothing_and_nonsense(self, client, valid):
        assert valid(client.post("/v1/identify"))["status"] == 400
        assert valid(client.post("/v1/identify", data={"a": "b"}, files={}))["status"] in (400, 422)
        for query in ("limit=0", "limit=x", "limit=9999999999999", "offset=-1"):
            assert valid(client.get(f"/v1/tracks?{query}"))["status"] == 400
        assert valid(client.get("/v1/tracks/999999"))["status"] == 404
        assert client.get("/v1/tracks/99999999999999999999999999").status_code == 404
        assert (
            client.get("/page/../app.py").status_code
            == client.get("/page/%2e%2e/app.py").status_code
            == 404
        )

    def test_a_playlist_opens_nothing(self, client, tmp_path):
        """FFmpeg would fetch what a playlist names: a file of the server, or an address that only
        the server can reach.
        """
        target = (MUSIC / f"{KNOWN[0]}.mp3").resolve()
        assert (
            client.post("/v1/identify", content=PLAYLIST.format(target).encode()).status_code == 422
        )
        with socket.create_server(("127.0.0.1", 0)) as trap:
            address = f"http://127.0.0.1:{trap.getsockname()[1]}/a.mp3"
            assert (
                client.post("/v1/identify", content=PLAYLIST.format(address).encode()).status_code
                == 422
            )
            trap.setblocking(False)
            with pytest.raises(BlockingIOError):
                trap.accept()

    def test_other_hosts_and_sites(self, server, client):
        assert client.get("/v1/tracks", headers={"Host": "rebound.example"}).status_code == 421
        assert (
            "access-control-allow-origin"
            not in client.get("/v1/tracks", headers={"Origin": "https://other.example"}).headers
        )
        with (
            pytest.raises(InvalidStatus, match="403"),
            connect(server.listen_address, origin="https://other.example"),
        ):
            pass
        policy = client.get("/").headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy

    def test_a_client_that_never_finishes_is_hung_up_on(self, server, client):
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            began = time.monotonic()
            try:
                for letter in "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + "a" * 60:
                    slow.sendall(letter.encode())
                    slow.settimeout(0.5)
                    try:
                        assert slow.recv(100) == b""  # it was never answered
                        break
                    except TimeoutError:
                        continue
            except ConnectionError:
                pass
            assert 5 < time.monotonic() - began < 25


@hypothesis.settings(
    max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    st.sampled_from(["known", "flac", "mp3"]),
    st.integers(0, 200_000),
    st.binary(max_size=64),
    st.integers(0, 200_000),
    st.booleans(),
)
def test_broken_bodies_are_answered(client, clips, valid, fuzzed, kind, place, junk, end, as_form):
    """Cut and overwritten audio of several formats, raw and as a form: an answer or a reason, never
    a 500.
    """
    body = bytearray(fuzzed[kind])
    body[place : place + len(junk)] = junk
    body = bytes(body[: end or None])
    if as_form:
        content = (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'
            + body
            + b"\r\n--x--"
            + junk
        )
        reply = client.post(
            "/v1/identify",
            content=content,
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
    else:
        reply = client.post("/v1/identify", content=body)
    assert reply.status_code in (200, 400, 422)
    assert valid(reply)


@pytest.fixture(scope="module")
def fuzzed(clips) -> dict[str, bytes]:
    samples, rate_hz = soundfile.read(clips["known"])
    folder = clips["known"].parent
    soundfile.write(folder / "whole.flac", samples, rate_hz)
    mp3 = (MUSIC / f"{KNOWN[0]}.mp3").read_bytes()[:30_000]
    return {
        "known": clips["known"].read_bytes(),
        "flac": (folder / "whole.flac").read_bytes(),
        "mp3": mp3,
    }


@hypothesis.settings(
    max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    st.binary(max_size=300),
    st.text(max_size=30),
    st.sampled_from(["multipart/form-data", "audio/wav", ""]),
)
def test_broken_forms_are_answered(client, body, boundary, kind):
    encoded = f"{kind}; boundary={boundary}".encode("utf-8", "replace")
    header = bytes(
        byte for byte in encoded if byte >= 0x20 and byte != 0x7F
    )  # the client itself refuses to send control characters
    assert client.post(
        "/v1/identify", content=body, headers={b"Content-Type": header.strip()}
    ).status_code in (400, 422)


class TestTracks:
    def test_pages_and_search(self, client, valid):
        pages = [
            valid(client.get(f"/v1/tracks?limit=3&offset={offset}"))["tracks"]
            for offset in (0, 3, 6, 9)
        ]
        assert [track["track"] for page in pages for track in page] == [
            track["track"] for track in valid(client.get("/v1/tracks"))["tracks"]
        ]
        found = valid(client.get("/v1/tracks?search=BATTLE"))
        assert (found["total"], found["tracks"][0]["track"]) == (1, KNOWN[0])
        assert valid(client.get(f"/v1/tracks/{found['tracks'][0]['id']}")) == found["tracks"][0]

    def test_the_file_can_be_played_from_anywhere(self, client):
        track = client.get(f"/v1/tracks?search={KNOWN[0]}").json()["tracks"][0]
        whole = (MUSIC / f"{KNOWN[0]}.mp3").read_bytes()
        part = client.get(track["audio"], headers={"Range": "bytes=1000-1999"})
        assert (part.status_code, part.content) == (206, whole[1000:2000])

    def test_writing_needs_the_token(self, client, writer, valid):
        body = (MUSIC / f"{STRANGER}.mp3").read_bytes()
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic 0123456789abcdef-for-tests"},
        ):
            assert valid(client.post("/v1/tracks", content=body, headers=headers))["status"] == 401
            assert client.delete("/v1/tracks/1", headers=headers).status_code == 401

    def test_added_and_removed_at_once(self, client, writer, clips, valid):
        body, query = (MUSIC / f"{STRANGER}.mp3").read_bytes(), clips["stranger"].read_bytes()
        made = writer.post(
            "/v1/tracks", params={"title": "The Protagonist", "artist": "Tim Beek"}, content=body
        )
        try:
            assert made.status_code == 201
            track = valid(made)
            assert (track["title"], track["artist"], track["audio"]) == (
                "The Protagonist",
                "Tim Beek",
                None,
            )
            assert made.headers["location"] == f"/v1/tracks/{track['id']}"
            found = client.post("/v1/identify?explain=1", content=query).json()
            assert (found["verdict"], found["matches"][0]["id"]) == ("match", track["id"])
            assert "not on this machine" in found["why"]["no_match_because"]
            again = writer.post("/v1/tracks", content=body)
            assert (again.status_code, again.json()["id"]) == (200, track["id"])
        finally:
            assert writer.delete(f"/v1/tracks/{track['id']}").status_code == 204
        assert writer.delete(f"/v1/tracks/{track['id']}").status_code == 404
        assert client.post("/v1/identify", content=query).json()["verdict"] == "unknown"

    def test_the_same_twice_at_once(self, writer, valid):
        """Of several that send the same, one is told that it was new."""
        body = (MUSIC / f"{STRANGER}.mp3").read_bytes()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: writer.post("/v1/tracks", content=body), range(4)))
        assert {valid(reply)["id"] for reply in made} == {(number := made[0].json()["id"])}
        assert writer.delete(f"/v1/tracks/{number}").status_code == 204
        assert sorted(reply.status_code for reply in made) == [200, 200, 200, 201]

    def test_adding_and_removing_while_others_ask(self, server, client, writer, clips):
        """A known clip is always right; a removed track is in no answer to what was asked after its
        204.
        """
        stranger, known = clips["stranger"].read_bytes(), clips["known"].read_bytes()
        removed_at: dict[int, float] = {}
        done = threading.Event()

        def ask(body: bytes, right: str) -> int:
            num_asked = 0
            with server.client() as own:
                while not done.is_set():
                    asked_at = time.monotonic()
                    answer = own.post("/v1/identify", content=body).json()
                    accepted = answer["matches"][: answer["num_accepted"]]
                    assert {match["track"] for match in accepted} <= {right} and (
                        accepted or right == STRANGER
                    )
                    gone = {number for number, when in list(removed_at.items()) if when < asked_at}
                    assert not gone & {match["id"] for match in answer["matches"]}
                    num_asked += 1
            return num_asked

        body = (MUSIC / f"{STRANGER}.mp3").read_bytes()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [
                pool.submit(ask, *what) for what in [(known, KNOWN[0]), (stranger, STRANGER)] * 2
            ]
            try:
                for _ in range(5):
                    made = writer.post("/v1/tracks", params={"name": STRANGER}, content=body)
                    number = made.json()["id"]
                    found = client.post("/v1/identify", content=stranger).json()
                    assert (made.status_code, found["verdict"], found["matches"][0]["id"]) == (
                        201,
                        "match",
                        number,
                    )
                    assert writer.delete(f"/v1/tracks/{number}").status_code == 204
                    removed_at[number] = time.monotonic()
                    assert (
                        client.post("/v1/identify", content=stranger).json()["verdict"] == "unknown"
                    )
            finally:
                done.set()
            assert all(future.result() > 0 for future in asking)

    def test_what_is_no_track(self, writer, clips, valid):
        for clip in ("silence", "short", "text"):
            assert (
                valid(writer.post("/v1/tracks", content=clips[clip].read_bytes()))["status"] == 422
            )
        assert (
            valid(writer.post("/v1/tracks?name=a%00b", content=clips["known"].read_bytes()))[
                "status"
            ]
            == 400
        )


def test_another_process_adds_while_it_serves(server, client, database, clips):
    """`confp add` and `confp remove` beside the service: seen within seconds."""
    library = confp_jax.open(database)
    library.add(MUSIC / f"{STRANGER}.mp3")
    query = clips["stranger"].read_bytes()

    def verdict(wanted: str) -> bool:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if client.post("/v1/identify", content=query).json()["verdict"] == wanted:
                return True
            time.sleep(0.3)
        return False

    try:
        assert verdict("match")
    finally:
        from confp_jax.database import Database
        from confp_jax.library.maintenance import remove

        remove(Database(database), [STRANGER])
    assert verdict("unknown")


def soundfile_bytes(samples: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()
