"""Speed of the service: requests per second and latency by number of clients, memory, and HTTP
against the call in a process.

python -m benchmarks.serve --music examples/music --rows 100000 --requests 10000
"""

import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import httpx
import numpy as np
import soundfile

import confp_jax
from benchmarks.copies import noisy_copies
from confp_jax.audio.decode import decode
from confp_jax.audio.folders import find_audio
from confp_jax.database import Database, NewTrack

_CLIP_S = 3.0


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="edge", help="a shipped model or a checkpoint folder")
    parser.add_argument("--music", type=pathlib.Path, required=True, help="a folder of audio")
    parser.add_argument(
        "--rows",
        type=int,
        default=100_000,
        help="fingerprints in the database: real ones, and jittered copies",
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    parser.add_argument("--requests", type=int, default=10_000, help="for the memory's growth")
    args = parser.parse_args()
    print("$ python", " ".join(sys.argv))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        database = pathlib.Path(folder) / "music.db"
        fill(database, args.model, args.music, args.rows)
        clips = make_clips(pathlib.Path(folder), args.music)
        process_p50_ms = in_process(database, clips, args.seconds)
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "confp_jax.cli",
                "serve",
                str(database),
                "--port",
                "0",
                "--json",
            ],
            stdout=subprocess.PIPE,
        ) as server:
            try:
                address = json.loads(next(iter(server.stdout or ())))["address"]
                wait_until_ready(address)
                over_http(address, clips, args.clients, args.seconds, process_p50_ms)
                memory(address, server.pid, clips, args.requests)
            finally:
                server.terminate()


def fill(folder: pathlib.Path, model: str, music: pathlib.Path, num_rows: int) -> None:
    """A database of real tracks, and of copies with noise (cosine about 0.8) up to `num_rows`; its
    index is built.
    """
    library = confp_jax.open(folder, model=model)
    library.add(music)
    library.settle()
    database = Database(folder)
    real = np.asarray(database.snapshot().vectors[:], np.float32)
    copies = [
        NewTrack(f"copy {i}", f"/copy/{i}", str(i), 0.3 * len(rows), rows)
        for i, rows in enumerate(noisy_copies(real, num_rows - len(real)))
    ]
    with database.writing():
        database.add(copies)
    began = time.perf_counter()
    library.refresh()
    took_s = time.perf_counter() - began
    num = max(num_rows, len(real))
    print(
        f"database: {num} fingerprints of {len(library.tracks())} tracks; index made in "
        f"{took_s:.1f} s"
    )


def make_clips(folder: pathlib.Path, music: pathlib.Path) -> list[pathlib.Path]:
    """A wav of 3 s, 16 bit, 44.1 kHz, mono, from the middle of each file."""
    clips = []
    for file in find_audio([music]).files[:32]:
        samples = decode(file, sample_rate_hz=44_100).samples
        first = len(samples) // 2
        clips.append(folder / f"clip{len(clips)}.wav")
        soundfile.write(clips[-1], samples[first : first + round(_CLIP_S * 44_100)], 44_100)
    return clips


def in_process(database: pathlib.Path, clips: list[pathlib.Path], seconds: float) -> float:
    """`Library.identify_file` in one thread; returns the p50 in ms."""
    library = confp_jax.open(database)
    for clip in clips[:8]:
        library.identify_file(clip)
    times = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        library.identify_file(clips[len(times) % len(clips)])
        times.append(1000 * (time.perf_counter() - began))
    _report("in this process, 1 thread", times, seconds)
    return float(np.median(times))


def over_http(
    address: str,
    clips: list[pathlib.Path],
    numbers: list[int],
    seconds: float,
    process_p50_ms: float,
) -> None:
    """Closed loops: each client asks again when it is answered."""
    bodies = [clip.read_bytes() for clip in clips]
    for number in numbers:
        times: list[float] = []
        until = time.perf_counter() + seconds

        def ask(first: int, times=times, until=until) -> None:
            with httpx.Client(base_url=address, timeout=60) as client:
                i = first
                while time.perf_counter() < until:
                    began = time.perf_counter()
                    client.post("/v1/identify", content=bodies[i % len(bodies)]).raise_for_status()
                    times.append(1000 * (time.perf_counter() - began))
                    i += 1

        with concurrent.futures.ThreadPoolExecutor(number) as pool:
            list(pool.map(ask, range(number)))
        _report(f"HTTP, {number} clients", times, seconds)
        if number == 1:
            print(
                f"  HTTP / in process at one client, p50: {np.median(times) / process_p50_ms:.2f}"
            )


def memory(address: str, pid: int, clips: list[pathlib.Path], num_requests: int) -> None:
    """Resident memory of the server and its decoders as requests go by."""
    bodies = [clip.read_bytes() for clip in clips]
    with (
        httpx.Client(base_url=address, timeout=60) as client,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        for part in range(5):
            megabytes = _resident_mib(pid)
            print(f"resident memory after {part * num_requests // 4} requests: {megabytes:.0f} MiB")
            if part < 4:
                posts = (
                    pool.submit(client.post, "/v1/identify", content=bodies[i % len(bodies)])
                    for i in range(num_requests // 4)
                )
                for future in concurrent.futures.as_completed(list(posts)):
                    future.result().raise_for_status()


def wait_until_ready(address: str) -> None:
    """The time until all is compiled, or found in the cache."""
    began = time.perf_counter()
    while httpx.get(f"{address}/readyz").status_code != 200:
        time.sleep(0.1)
    print(f"ready {time.perf_counter() - began:.1f} s after it listened")


def _resident_mib(pid: int) -> float:
    """Returns the memory of a process and all that it started; pages that they share count for
    each.
    """
    process = pathlib.Path(f"/proc/{pid}")
    try:
        lines = io.StringIO((process / "status").read_text())
        children = [
            int(child)
            for file in process.glob("task/*/children")
            for child in file.read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):  # a decoder that was just replaced
        return 0.0
    own_kib = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
    return own_kib / 1024 + sum(map(_resident_mib, children))


def _report(name: str, times_ms: list[float], seconds: float) -> None:
    p50, p99 = np.quantile(times_ms, (0.5, 0.99))
    print(
        f"{name}: {len(times_ms) / seconds:.1f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms "
        f"({len(times_ms)} requests)"
    )


if __name__ == "__main__":
    main()
