"""Several processes behind one port: what one writes the others see, and one that is killed is
replaced.
"""

import os
import pathlib
import shutil
import signal
import time

import pytest
import soundfile
from running_service import KNOWN, RATE, UNKNOWN, excerpt, start_server

pytestmark = pytest.mark.slow


def children(number: int) -> list[int]:
    text = pathlib.Path(f"/proc/{number}/task/{number}/children").read_text()
    return [
        int(child)
        for child in text.split()
        if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_they_answer_as_one(original, tmp_path):
    folder = pathlib.Path(shutil.copytree(original, tmp_path / "db"))
    server = start_server(folder, tmp_path, "--workers", "2")
    try:
        clip = tmp_path / "clip.wav"
        soundfile.write(clip, excerpt(KNOWN[0], start_s=8.0, length_s=3.0), RATE)
        new = tmp_path / "new.wav"
        soundfile.write(new, excerpt(UNKNOWN, start_s=0.0, length_s=12.0), RATE)
        workers = children(server.process.pid)
        assert len(workers) == 2
        time.sleep(20)  # the second one compiles
        for _ in range(4):  # a connection each
            with server.client() as client:
                answer = client.post("/v1/identify", content=clip.read_bytes()).json()
            assert answer["matches"][0]["track"] == KNOWN[0], answer
        with server.writer() as client:
            added = client.post("/v1/tracks", content=new.read_bytes()).json()
        for _ in range(8):
            with server.client() as client:
                assert client.get(f"/v1/tracks/{added['id']}").status_code == 200
        os.kill(workers[0], signal.SIGKILL)
        time.sleep(5)
        now = children(server.process.pid)
        assert len(now) == 2 and workers[0] not in now
        with server.client() as client:
            assert client.get("/healthz").status_code == 200
    finally:
        server.stop()
    assert not any(pathlib.Path(f"/proc/{number}").exists() for number in (*workers, *now))
