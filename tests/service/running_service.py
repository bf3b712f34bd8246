"""A real `confp serve` in a process of its own, on a free port, and excerpts of real music to ask
about.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import httpx
import numpy as np

from confp_jax.audio.decode import decode

ROOT = pathlib.Path(__file__).resolve().parents[2]
MUSIC = ROOT / "examples" / "music"
KNOWN = (
    "jordan-trudgett_battle2",
    "karissa-hobbs_lets-go-fishin",
    "david-reeves_david03",
    "shawn-parrotte_desert",
)
KNOWN += (
    "alexandr-zhelanov_low-fi",
    "askyel_sirius-remix",
    "claude-werner_win-theme",
    "manuel-marino_van-mission4",
)
UNKNOWN = "tim-beek_the-protagonist"  # in no database
TOKEN = "0123456789abcdef-for-tests"
RATE = 44_100


@dataclasses.dataclass
class Server:
    """A running `confp serve`."""

    process: subprocess.Popen
    address: str
    log: pathlib.Path

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=120, **options)

    @property
    def listen_address(self) -> str:
        """Of the microphone's WebSocket."""
        return self.address.replace("http", "ws") + "/v1/listen"

    def writer(self) -> httpx.Client:
        return self.client(headers={"Authorization": f"Bearer {TOKEN}"})

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)
        self.process.stdout.close()


def start_server(
    database: pathlib.Path, folder: pathlib.Path, *options: str, ready: bool = True
) -> Server:
    """Starts a server with the token, and waits until it is ready."""
    (folder / "token").write_text(TOKEN + "\n")
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
    command += ["--token-file", str(folder / "token"), *options]
    return launch(command, folder / "serve.log", ready=ready)


def launch(command: list[str], log: pathlib.Path, *, ready: bool = True) -> Server:
    """Starts what prints its address as JSON."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::RuntimeWarning"}
    with open(log, "ab") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
    line = process.stdout.readline()
    assert line, log.read_text()
    server = Server(process, json.loads(line)["address"], log)
    until = time.monotonic() + 300
    with server.client() as client:
        while ready and client.get("/readyz").status_code != 200:
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
    return server


def excerpt(
    name: str,
    *,
    start_s: float,
    length_s: float,
    noise_db: float | None = None,
    rate_hz: int = RATE,
) -> np.ndarray:
    """A part of an example track, with a recorded noise this many dB below it."""
    samples = decode(MUSIC / f"{name}.mp3", sample_rate_hz=rate_hz).samples
    clip = samples[round(start_s * rate_hz) : round((start_s + length_s) * rate_hz)]
    if noise_db is None:
        return clip
    rain = ROOT / "examples" / "noise" / "test" / "rain" / "esc10__4-160999-A.ogg"
    noise = np.resize(decode(rain, sample_rate_hz=rate_hz).samples, len(clip))
    gain = np.sqrt(np.mean(clip**2) / np.mean(noise**2)) * 10 ** (-noise_db / 20)
    return clip + gain * noise
