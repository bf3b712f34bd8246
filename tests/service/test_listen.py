"""The microphone's WebSocket: guesses, answers, monitoring, and clients that do it wrong or go
away.
"""

import concurrent.futures
import contextlib
import json
import os
import socket
import time

import numpy as np
import pytest
import soundfile
from running_service import KNOWN, MUSIC, UNKNOWN, excerpt
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from confp_jax.audio.g711 import encode_g711


class TestListen:
    def test_it_firms_up_and_answers(self, server, clips):
        samples, rate_hz = soundfile.read(clips["known"], dtype="float32")
        with connect(server.listen_address) as ws:
            ws.send(json.dumps({"type": "start", "sample_rate_hz": rate_hz, "format": "s16le"}))
            for block in np.array_split(np.round(samples * 32_767).astype("<i2"), 40):
                ws.send(block.tobytes())
            ws.send(json.dumps({"type": "stop"}))
            messages = [json.loads(message) for message in ws]
        assert messages[0]["type"] == "listening" and messages[-1]["type"] == "answer"
        guesses = [message for message in messages if message["type"] == "guess"]
        assert guesses and [guess["length_s"] for guess in guesses] == sorted(
            guess["length_s"] for guess in guesses
        )
        answer = messages[-1]
        assert (answer["verdict"], answer["matches"][0]["track"]) == ("match", KNOWN[0])
        assert answer["matches"][0]["offset_s"] == pytest.approx(7.35, abs=0.1)

    @pytest.mark.parametrize("law", ["mulaw", "alaw"])
    def test_a_call_is_answered_as_soon_as_it_is_sure(self, server, law):
        music = excerpt(KNOWN[0], start_s=10, length_s=10, rate_hz=8_000)
        start = {"type": "start", "sample_rate_hz": 8_000, "format": law, "profile": "calls"}
        with connect(server.listen_address) as ws:
            ws.send(json.dumps(start))
            with contextlib.suppress(ConnectionClosed):  # by the service, once it is sure
                for block in np.array_split(music, 500):  # packets of 20 ms
                    ws.send(encode_g711(block, law).tobytes())
            messages = [json.loads(message) for message in ws]
        answer = messages[-1]
        assert (answer["type"], answer["verdict"]) == ("answer", "match")
        assert answer["matches"][0]["track"] == KNOWN[0]
        assert answer["matches"][0]["offset_s"] == pytest.approx(10, abs=0.1)
        assert 1.5 <= answer["length_s"] < 5
        assert not any(message["num_accepted"] for message in messages[1:-1])

    def test_monitoring(self, server):
        music = np.concatenate(
            [
                excerpt(KNOWN[1], start_s=0, length_s=20, rate_hz=16_000),
                np.zeros(16_000, np.float32),
            ]
        )
        with connect(server.listen_address) as ws:
            ws.send(json.dumps({"type": "start", "sample_rate_hz": 16_000, "mode": "monitor"}))
            for block in np.array_split(music.astype("<f4"), 50):
                ws.send(block.tobytes())
            ws.send(json.dumps({"type": "stop"}))
            messages = [json.loads(message) for message in ws]
        matches = [message for message in messages if message["type"] == "match"]
        assert [match["track"] for match in matches] == [KNOWN[1]] and messages[-1]["type"] == "end"

    def test_many_monitors_at_once(self, server):
        """More than the event loop's own pool has threads: each hears its music to the end."""
        music = excerpt(KNOWN[1], start_s=0, length_s=20, rate_hz=16_000).astype("<f4")

        def session(_: int) -> list[dict]:
            with connect(server.listen_address) as ws:
                ws.send(json.dumps({"type": "start", "sample_rate_hz": 16_000, "mode": "monitor"}))
                messages = [json.loads(ws.recv(60))]
                for block in np.array_split(music, 100):  # more blocks than may wait
                    ws.send(block.tobytes())
                ws.send(json.dumps({"type": "stop"}))
                while messages[-1]["type"] != "end":
                    messages.append(json.loads(ws.recv(60)))
            return messages

        num_sessions = min(16, (os.cpu_count() or 1) + 6)
        with concurrent.futures.ThreadPoolExecutor(num_sessions) as pool:
            for messages in pool.map(session, range(num_sessions)):
                assert [message["track"] for message in messages if message["type"] == "match"] == [
                    KNOWN[1]
                ]

    def test_monitoring_heeds_what_is_added_and_removed(self, server, writer):
        """What is added is heard in a running session; what is removed while it plays is told
        of no more.
        """
        names = (KNOWN[1], KNOWN[2], UNKNOWN)
        body = (MUSIC / f"{UNKNOWN}.mp3").read_bytes()
        music = np.concatenate(
            [excerpt(name, start_s=0, length_s=20, rate_hz=16_000) for name in names]
        )
        told: list[dict] = []
        with connect(server.listen_address) as ws:
            ws.send(json.dumps({"type": "start", "sample_rate_hz": 16_000, "mode": "monitor"}))
            told.append(json.loads(ws.recv(60)))
            added = writer.post("/v1/tracks", params={"name": UNKNOWN}, content=body).json()["id"]
            try:
                for block in np.array_split(music.astype("<f4"), 100):
                    ws.send(block.tobytes())
                until = time.monotonic() + 100
                while (told[-1]["type"], told[-1].get("track")) != ("playing", UNKNOWN):
                    ws.send(np.zeros(1600, "<f4").tobytes())  # it hangs up on who sends nothing
                    with contextlib.suppress(TimeoutError):
                        told.append(json.loads(ws.recv(0.5)))
                    assert time.monotonic() < until, told
            finally:
                assert writer.delete(f"/v1/tracks/{added}").status_code == 204
            ws.send(json.dumps({"type": "stop"}))
            after = [json.loads(message) for message in ws]
        assert after[-1]["type"] == "end" and UNKNOWN not in {
            message.get("track") for message in after
        }
        begins = {
            message["track"]: message["query_offset_s"] - message["offset_s"]
            for message in told
            if "track" in message
        }
        assert begins == pytest.approx({name: 20.0 * i for i, name in enumerate(names)}, abs=0.5)

    @pytest.mark.parametrize(
        "messages",
        [
            ["nonsense"],
            [b"1234"],
            ['{"type": "start"}'],
            ['{"type": "start", "sample_rate_hz": 1e9}'],
            ['{"type": "start", "sample_rate_hz": 8000, "format": "mu-law"}'],
            ['{"type": "start", "sample_rate_hz": 8000, "profile": ["calls"]}'],
            ['{"type": "start", "sample_rate_hz": 8000, "mode": "monitor", "profile": "calls"}'],
            ['{"type": "start", "sample_rate_hz": 16000}', b"12345"],
            ['{"type": "start", "sample_rate_hz": 16000}', "pause"],
            ['{"type": "start", "sample_rate_hz": 16000}', np.full(100, np.nan, "<f4").tobytes()],
            ['{"type": "start", "sample_rate_hz": 16000}', '{"type": "stop"}'],
            ['{"type": "start", "sample_rate_hz": 16000, "mode": "monitor"}', '{"type": "stop"}'],
        ],
    )
    def test_what_is_wrong_is_said(self, server, messages):
        with connect(server.listen_address) as ws:
            for message in messages:
                ws.send(message)
            last = [json.loads(message) for message in ws][-1]
        assert last["type"] == "problem" and last["status"] in (400, 422) and last["remedy"]

    def test_clients_that_vanish_leave_nothing(self, server, client):
        for mode in ("clip", "monitor"):
            with connect(server.listen_address) as ws:
                ws.send(json.dumps({"type": "start", "sample_rate_hz": 16_000, "mode": mode}))
                ws.send(np.zeros(16_000, "<f4").tobytes())
                ws.socket.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + 30
        while "confp_listeners 0.0" not in client.get("/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.2)
