"""What a query costs the service when its fingerprints are computed elsewhere, against an upload:
processor time and bytes; and how long a browser takes to compute them.

python -m benchmarks.local_queries --music examples/music --rows 80000 --queries 100
python -m benchmarks.local_queries --music examples/music --browser chromium \
  --runtime .cache/onnxruntime-web/dist
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import soundfile
from websockets.sync.client import connect

import confp_jax
from benchmarks.serve import fill, wait_until_ready
from confp_jax.audio.decode import decode
from confp_jax.audio.folders import find_audio
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.query_rows import packed_rows

_RATE = 16_000
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_LISTENED_S = 10.0
_NUM_LISTENED = 4
_BLOCK_S = 0.1
_ROUNDS = 4  # of each way, one after the other
_FINGERPRINTS = "/v1/identify/fingerprints"


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """One query: as a file, and as what a client sends that computes its fingerprints."""

    wav: bytes
    rows: bytes
    num_samples: int


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--music", type=pathlib.Path, required=True, help="a folder of audio")
    parser.add_argument("--rows", type=int, default=80_000, help="fingerprints in the database")
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--browser", default="", help="also measure in this Chromium")
    parser.add_argument("--runtime", type=pathlib.Path, help="the folder of onnxruntime-web")
    args = parser.parse_args()
    print("$ python", " ".join(sys.argv))
    with tempfile.TemporaryDirectory() as folder:
        database = pathlib.Path(folder) / "music.db"
        fill(database, "edge2", args.music, args.rows)
        encoder = confp_jax.load_encoder("edge2")
        with _serving(database, args.runtime) as (address, pid):
            for length_s in (3.0, 10.0):
                for noise_db in (None, 0.0):
                    excerpts = _excerpts(args.music, encoder, length_s, noise_db)
                    _compare(address, pid, encoder, excerpts, args.queries)
                    if length_s == _LISTENED_S:
                        _listen(address, pid, excerpts[:_NUM_LISTENED])
                if args.browser:
                    wav = pathlib.Path(folder) / "clip.wav"
                    wav.write_bytes(excerpts[0].wav)
                    _in_browser(args.browser, address, wav, length_s)


@contextlib.contextmanager
def _serving(database: pathlib.Path, runtime: pathlib.Path | None) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "confp_jax.cli", "serve", str(database), "--port", "0"]
    command += ["--browser-runtime", str(runtime)] if runtime else []
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE) as server:
        try:
            address = json.loads(next(iter(server.stdout or ())))["address"]
            wait_until_ready(address)
            yield address, server.pid
        finally:
            server.terminate()


def _excerpts(
    music: pathlib.Path, encoder: Embedder, length_s: float, noise_db: float | None
) -> list[Excerpt]:
    """Returns excerpts of the middle of each file, with white noise so far below."""
    rng = np.random.default_rng(0)
    found = []
    for file in find_audio([music]).files[:32]:
        samples = decode(file, sample_rate_hz=_RATE).samples
        first = max(0, (len(samples) - round(length_s * _RATE)) // 2)
        clip = samples[first : first + round(length_s * _RATE)]
        if noise_db is not None:
            level = np.sqrt(np.mean(clip**2)) * 10 ** (-noise_db / 20)
            clip = clip + rng.normal(scale=level, size=len(clip))
        clip = np.clip(clip, -1, 1).astype(np.float32)
        file_bytes = io.BytesIO()
        soundfile.write(file_bytes, clip, _RATE, format="WAV", subtype="PCM_16")
        rows = packed_rows(encoder.query(clip)).tobytes()
        found.append(Excerpt(file_bytes.getvalue(), rows, len(clip)))
    kind = "clean" if noise_db is None else f"white noise at {noise_db:g} dB"
    print(f"{length_s:g} s, {kind}: {len(found)} excerpts; load {os.getloadavg()[0]:.1f}")
    return found


def _compare(address: str, pid: int, encoder: Embedder, excerpts: list[Excerpt], num: int) -> None:
    """Prints the processor time of a query either way, and how often both name the same track."""

    def upload(client: httpx.Client, one: Excerpt) -> httpx.Response:
        return client.post("/v1/identify", content=one.wav)

    def local(client: httpx.Client, one: Excerpt) -> httpx.Response:
        query = {"weights_hash": encoder.weights_hash, "num_samples": one.num_samples}
        return client.post(_FINGERPRINTS, params=query, content=one.rows)

    ways: dict[str, Callable[[httpx.Client, Excerpt], httpx.Response]] = {
        "audio": upload,
        "fingerprints": local,
    }
    cpu_ms: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[tuple[str, str]]] = {name: [] for name in ways}
    with httpx.Client(base_url=address, timeout=60) as client:
        for ask in ways.values():
            ask(client, excerpts[0])
        for turn in range(_ROUNDS):
            for name, ask in ways.items():
                began = _cpu_ms(pid)
                for i in range(num // _ROUNDS):
                    reply = ask(client, excerpts[i % len(excerpts)])
                    reply.raise_for_status()
                    if not turn:
                        answer = reply.json()
                        answers[name].append((answer["verdict"], answer["matches"][0]["track"]))
                cpu_ms[name].append((_cpu_ms(pid) - began) / (num // _ROUNDS))
    least = {name: min(times) for name, times in cpu_ms.items()}
    same = np.mean([a == b for a, b in zip(*answers.values(), strict=True)])
    for name, body in (("audio", excerpts[0].wav), ("fingerprints", excerpts[0].rows)):
        print(f"  {name}: {least[name]:.1f} ms of processor time, {len(body) / 1000:.0f} kB")
    print(f"  audio / fingerprints: {least['audio'] / least['fingerprints']:.1f}; same {same:.1%}")


def _listen(address: str, pid: int, excerpts: list[Excerpt]) -> None:
    """Prints the processor time of a microphone that the service hears as the page sends it: until
    a guess is sure, or the clip ends.
    """
    began = _cpu_ms(pid)
    heard_s = [_listened_s(address, one) for one in excerpts]
    print(
        f"  microphone over the WebSocket: {(_cpu_ms(pid) - began) / len(excerpts):.1f} ms of "
        f"processor time for {np.mean(heard_s):.1f} s on average"
    )


def _listened_s(address: str, one: Excerpt) -> float:
    """Sends a clip as fast as it sounds; returns how much of it was sent."""
    samples, _ = soundfile.read(io.BytesIO(one.wav), dtype="int16")
    size = round(_BLOCK_S * _RATE)
    start = {"type": "start", "sample_rate_hz": _RATE, "format": "s16le", "mode": "clip"}
    with connect(address.replace("http", "ws") + "/v1/listen") as socket:
        socket.send(json.dumps(start))
        first = 0
        while first < len(samples):
            socket.send(samples[first : first + size].tobytes())
            first += size
            with contextlib.suppress(TimeoutError):
                if json.loads(socket.recv(timeout=_BLOCK_S)).get("verdict") == "match":
                    break
        socket.send(json.dumps({"type": "stop"}))
        while json.loads(socket.recv())["type"] != "answer":
            pass
    return first / _RATE


def _cpu_ms(pid: int) -> float:
    """Returns the processor time of a process and of all that it started."""
    process = pathlib.Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    children = [
        int(child) for file in process.glob("task/*/children") for child in file.read_text().split()
    ]
    return _TICK_MS * (int(fields[11]) + int(fields[12])) + sum(map(_cpu_ms, children))


def _in_browser(browser: str, address: str, wav: pathlib.Path, length_s: float) -> None:
    """Prints how long the page takes: from nothing, from its cache, and to answer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page()
        loaded_s = []
        for _ in range(2):
            began = time.perf_counter()
            page.goto(f"{address}/?local")
            page.get_by_text("Hold the microphone").wait_for(timeout=120_000)
            loaded_s.append(time.perf_counter() - began)
        answered_s = []
        for _ in range(6):
            began = time.perf_counter()
            with page.expect_response(lambda reply: _FINGERPRINTS in reply.url, timeout=120_000):
                page.locator("#file").set_input_files(wav)
            answered_s.append(time.perf_counter() - began)
        opened.close()
    print(
        f"  browser, {length_s:g} s: model loaded in {loaded_s[0]:.2f} s, again in "
        f"{loaded_s[1]:.2f} s; answered in {answered_s[0]:.2f} s at first, then "
        f"{min(answered_s):.2f} s at the least; {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
