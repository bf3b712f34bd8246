"""The HTTP interface: what it answers, what it refuses, and that no body can take it down."""

import base64
import concurrent.futures
import socket
import time

import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st
from running_service import KNOWN, MUSIC, RATE, excerpt
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import confp_jax

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:30\n#EXTINF:30,\n{}\n#EXT-X-ENDLIST\n"


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
            0.35 < second["score"] <= 1 for second in why["scores"]
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
        answer = valid(client.post("/v1/identify?explain=1", content=clips["unknown"].read_bytes()))
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


def soundfile_bytes(samples: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()
