"""Speed of asking: embedding, a warm `identify`, and the cold start of the command. Prints what
was run, and where.

python -m benchmarks.query_speed --model edge --music examples/music --rows 1000000
"""

import argparse
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import soundfile

from benchmarks.copies import noisy_copies
from confp_jax.audio.decode import decode
from confp_jax.audio.folders import find_audio
from confp_jax.database import Database, NewTrack
from confp_jax.fingerprint.embedder import Embedder, load_encoder
from confp_jax.fingerprint.files import read_files
from confp_jax.library.open import open_reference
from confp_jax.matching.blocks import Scan, joined_blocks
from confp_jax.matching.decision import load_decision
from confp_jax.matching.searchable import Reference

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
    parser.add_argument("--repeats", type=int, default=100)
    args = parser.parse_args()
    print("$ python", " ".join(sys.argv))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    embedder = load_encoder(args.model)
    files = find_audio([args.music]).files
    parts = embedding(embedder, files)
    with tempfile.TemporaryDirectory() as folder:
        reference = fill(embedder, parts, args.rows, pathlib.Path(folder) / "db")
        warm(embedder, reference, files[0], args.repeats)
    cold(args.model, files)


def embedding(embedder: Embedder, files: list[pathlib.Path]) -> list[np.ndarray]:
    """Files to fingerprints as `confp add` computes them, decoding included, after one file to
    compile.
    """
    list(read_files(embedder, files[:1]))
    began = time.perf_counter()
    processor = time.process_time()
    parts = [read.track.vectors for read in read_files(embedder, files) if read.track]
    wall_s = time.perf_counter() - began
    cpu_s = time.process_time() - processor
    audio_s = sum((len(part) - 1) * 0.3 + embedder.config.audio.segment_s for part in parts)
    print(f"embedding at a hop of 300 ms, decoding included: {audio_s / wall_s:.0f} x real time; "
          f"{audio_s / cpu_s:.0f} x by processor time ({len(files)} files, "
          f"{audio_s:.0f} s)")  # fmt: skip
    return parts


def fill(
    embedder: Embedder, parts: list[np.ndarray], num_rows: int, folder: pathlib.Path
) -> Reference:
    """A database of `num_rows`: the real fingerprints first, then copies with noise (cosine about
    0.8).
    """
    real = np.concatenate(parts)
    named = [(f"real {i}", part) for i, part in enumerate(parts)]
    copies = noisy_copies(real, num_rows - len(real))
    named += [(f"copy {i}", rows) for i, rows in enumerate(copies)]
    database = Database.create(folder, embedder.model_id, precision=embedder.precision)
    database.add(
        [
            NewTrack(name, name, f"{i:064x}", 0.3 * len(rows) + 0.6, rows)
            for i, (name, rows) in enumerate(named)
        ]
    )
    began = time.perf_counter()
    reference = open_reference(database, embedder)
    took_s = time.perf_counter() - began
    num = len(reference.snapshot.vectors)
    print(f"database: {num} fingerprints of {len(named)} tracks; index made in {took_s:.1f} s")
    return reference


def warm(embedder: Embedder, reference: Reference, file: pathlib.Path, repeats: int) -> None:
    """A clip of 3 s from samples to matches, and the parts of it."""
    samples = decode(file, sample_rate_hz=embedder.sample_rate_hz).samples
    clip = samples[: round(_CLIP_S * embedder.sample_rate_hz)]
    decision = load_decision(embedder.folder, embedder.weights_hash)
    prints = embedder.query(clip)
    heard = [np.concatenate([prints.edge_windows[0], prints.vectors, prints.edge_windows[1]])]
    heard += [prints.sped_up.vectors] if prints.sped_up else []

    def identify() -> None:
        scanning = Scan(reference, decision, keep_all=True)
        for block in joined_blocks(embedder.stream([clip])):
            scanning.push(block)

    _report("identify, 3 s", identify, repeats)
    _report("  of it embedding", lambda: embedder.query(clip), repeats)
    _report(
        "  of it the index's searches",
        lambda: [reference.index.search(v, k=1_200 // len(v)) for v in heard],
        repeats,
    )


def cold(model: str, files: list[pathlib.Path]) -> None:
    """The command in a process of its own: the first time it compiles, the second time it finds
    that in the cache.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        clip = place / "clip.wav"
        soundfile.write(
            clip, decode(files[0], sample_rate_hz=16_000).samples[: round(_CLIP_S * 16_000)], 16_000
        )
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        confp = [sys.executable, "-m", "confp_jax.cli"]
        subprocess.run(
            [*confp, "add", place / "db", *files[:16], "--model", model],
            check=True,
            capture_output=True,
        )
        for run in ("first", "second", "third"):
            began = time.perf_counter()
            subprocess.run(
                [*confp, "identify", place / "db", clip],
                check=True,
                capture_output=True,
                env=environment,
            )
            print(f"cold start of `confp identify`, {run} run: {time.perf_counter() - began:.2f} s")


def _report(name: str, call: Callable[[], object], repeats: int) -> None:
    for _ in range(5):
        call()
    times = []
    processor = time.process_time()
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    cpu_ms = 1000 * (time.process_time() - processor) / repeats
    p50, p99 = np.quantile(times, (0.5, 0.99))
    print(
        f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, processor time {cpu_ms:.1f} ms ({repeats} "
        "repeats)"
    )


if __name__ == "__main__":
    main()
