"""From start to stop: ready, overload, a shutdown that finishes what runs, and kills that lose no
accepted write.
"""

import concurrent.futures
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
import soundfile
from running_service import KNOWN, ROOT, TOKEN, UNKNOWN, excerpt, launch, start_server

from confp_jax.database import Database
from confp_jax.library.maintenance import verify


@pytest.fixture
def copied(original, tmp_path) -> pathlib.Path:
    return shutil.copytree(original, tmp_path / "music.db")


def test_start_overload_and_stop(copied, clips, tmp_path):
    """One server's life: alive before it is ready, 429 beyond its queue, and on SIGTERM every
    request is still answered.
    """
    body = clips["known"].read_bytes()
    server = start_server(copied, tmp_path, "--max-waiting", "0", ready=False)
    try:
        with server.client(limits=httpx.Limits(max_connections=64)) as client:
            assert client.get("/healthz").status_code == 200
            early = client.post("/v1/identify", content=body)
            assert (
                early.status_code == 503 and early.headers["retry-after"] and early.json()["remedy"]
            )
            while client.get("/readyz").status_code != 200:
                time.sleep(0.2)
            with concurrent.futures.ThreadPoolExecutor(48) as pool:
                replies = list(
                    pool.map(lambda _: client.post("/v1/identify", content=body), range(48))
                )
            refused = [reply for reply in replies if reply.status_code == 429]
            answered = [reply for reply in replies if reply.status_code == 200]
            assert refused and answered and len(refused) + len(answered) == 48
            assert all(reply.headers["retry-after"] == "1" for reply in refused)
            assert all(reply.json()["matches"][0]["track"] == KNOWN[0] for reply in answered)
            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                last = [pool.submit(client.post, "/v1/identify", content=body) for _ in range(3)]
                while "confp_requests_inside 3.0" not in client.get("/metrics").text and not any(
                    f.done() for f in last
                ):
                    time.sleep(0.001)
                server.process.send_signal(signal.SIGTERM)
                assert [future.result().status_code for future in last] == [200] * 3
        server.process.wait(60)
    finally:
        server.stop(signal.SIGKILL)
    assert "Traceback" not in server.log.read_text()


def tracks_to_add(folder: pathlib.Path, num: int) -> list[bytes]:
    """Different cuts of one track, 4 s each."""
    files = []
    for i in range(num):
        file = folder / f"cut{i}.flac"
        soundfile.write(
            file, excerpt(UNKNOWN, start_s=i * 0.5, length_s=4.0, rate_hz=16_000), 16_000
        )
        files.append(file.read_bytes())
    return files


@pytest.mark.parametrize("num_kills", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_kills_under_load_lose_no_accepted_write(copied, clips, tmp_path, num_kills):
    """Four clients add and remove while the server is killed: what was answered with 201 or 204 is
    so after the restart.
    """
    bodies = tracks_to_add(tmp_path, 24)
    accepted: dict[int, bool] = {}  # id: whether it is there
    for kill in range(num_kills):
        server = start_server(copied, tmp_path)
        enough = threading.Event()

        def write(number: int, server=server, enough=enough) -> None:
            with server.writer() as client:
                for body in bodies[number::4]:
                    try:
                        made = client.post("/v1/tracks", content=body)
                        assert made.status_code in (200, 201), made.text
                        accepted[made.json()["id"]] = True
                        if made.json()["id"] % 3 == 0:
                            unsure = made.json()["id"]
                            del accepted[unsure]  # until it is answered, it may be there or not
                            assert client.delete(f"/v1/tracks/{unsure}").status_code == 204
                            accepted[unsure] = False
                    except httpx.TransportError:  # killed
                        return
                    if len(accepted) > 5:
                        enough.set()

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, number) for number in range(4)]
            enough.wait(120)
            time.sleep(0.03 * kill)
            server.stop(signal.SIGKILL)
            for future in writers:
                future.result()
        database = Database(copied)
        there = {track.id for track in database.tracks()}
        assert accepted and {number for number, is_there in accepted.items() if is_there} <= there
        assert not {number for number, is_there in accepted.items() if not is_there} & there
        assert verify(database)[0] == []
        for number in [
            number for number in there if number > len(KNOWN)
        ]:  # room for the next round
            with database.writing():
                database.remove([number])
            accepted[number] = False
    server = start_server(copied, tmp_path)
    try:
        with server.client() as client:
            assert (
                client.post("/v1/identify", content=clips["known"].read_bytes()).json()["matches"][
                    0
                ]["track"]
                == KNOWN[0]
            )
    finally:
        server.stop()


def test_what_is_switched_off(database, clips, tmp_path):
    """Without a token nobody writes, and without sharing nobody gets a track's file: 403, and who
    can change it.
    """
    command = [
        sys.executable,
        "-m",
        "confp_jax.cli",
        "serve",
        str(database),
        "--port",
        "0",
        "--json",
    ]
    server = launch(command, tmp_path / "serve.log")
    try:
        with server.client() as client:
            body = clips["known"].read_bytes()
            for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {TOKEN}"}):
                written = (
                    client.post("/v1/tracks", content=body, headers=headers),
                    client.delete("/v1/tracks/1", headers=headers),
                )
                for refused in written:
                    assert refused.status_code == 403 and "--token-file" in refused.json()["remedy"]
            refused = client.get("/v1/tracks/1/audio")
            assert refused.status_code == 403 and "--share-audio" in refused.json()["remedy"]
            found = client.post("/v1/identify", content=body).json()["matches"][0]
            assert (found["track"], found["audio"]) == (KNOWN[0], None)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["missing.db"], "is no fingerprint database"),
        (["missing.db", "--token-file", "nothing"], "cannot be read"),
        (["missing.db", "--token-file", "short"], "holds no token"),
        (["missing.db", "--host", "203.0.113.1"], "cannot be served"),
        (["missing.db", "--port", "99999"], "from 1 to 65535"),
        (["missing.db", "--max-body-mib", "0"], "must be above 0"),
        (["missing.db", "--browser-runtime", "."], "no ort.wasm.bundle.min.mjs there"),
    ],
)
def test_what_keeps_it_from_starting(tmp_path, options, words):
    (tmp_path / "short").write_text("123\n")
    command = [sys.executable, "-m", "confp_jax.cli", "serve", "--port", "0", *options]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr
