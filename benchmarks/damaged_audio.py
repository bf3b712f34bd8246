"""Damaged audio files: what decoding them ends in.

python -m benchmarks.damaged_audio --files 50 --damages 40

Sounds made on the spot are written in many containers and codecs (FFmpeg is needed). Each file is
damaged many times: bits flipped, its end cut off, parts swapped, zeroed, doubled or replaced, its
first bytes changed. Every damaged file is decoded in a process of its own, with limits on time and
memory. It must give finite samples or one DecodeError in one line that names the file.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

from confp_jax.audio.decode import DecodeError, decode_blocks
from confp_jax.audio.errors import Losses

_RATE = 16_000
_LIMIT_S = 60
_LONGEST_S = 60.0  # of 8 s at most that were written
_MEMORY_BYTES = 4 << 30
_KINDS = {
    "wav": ["-c:a", "pcm_s16le"],
    "24.wav": ["-c:a", "pcm_s24le"],
    "w64": ["-c:a", "pcm_s16le"],
    "aiff": ["-c:a", "pcm_s16be"],
    "caf": ["-c:a", "pcm_s16le"],
    "au": ["-c:a", "pcm_s16be"],
    "flac": ["-c:a", "flac"],
    "mp3": ["-c:a", "libmp3lame", "-b:a", "64k"],
    "mp2": ["-c:a", "mp2", "-b:a", "96k"],
    "ogg": ["-c:a", "libvorbis"],
    "opus": ["-c:a", "libopus", "-b:a", "32k"],
    "oga": ["-c:a", "flac"],
    "m4a": ["-c:a", "aac", "-b:a", "64k"],
    "alac.m4a": ["-c:a", "alac"],
    "frag.mp4": ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"],
    "aac": ["-c:a", "aac"],
    "wma": ["-c:a", "wmav2", "-b:a", "64k"],
    "mka": ["-c:a", "libvorbis"],
    "webm": ["-c:a", "libopus"],
    "ac3": ["-c:a", "ac3"],
    "wv": ["-c:a", "wavpack"],
    "tta": ["-c:a", "tta"],
    "ts": ["-c:a", "mp2"],
    "avi": ["-c:a", "libmp3lame"],
    "amr.3gp": ["-c:a", "aac"],
}


def damaged(content: bytes, how: str, rng: random.Random) -> bytes:
    """The content with one damage."""
    data = bytearray(content)
    size = len(content)

    def part() -> slice:
        length = rng.randint(1, max(1, size // 4))
        first = rng.randrange(max(1, size - length))
        return slice(first, first + length)

    if how == "bits":
        for _ in range(rng.choice((1, 3, 10, 100, 1000))):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(size) :]
    elif how == "swap":
        one = part()
        other = part()
        data[one], data[other] = data[other], data[one]
    elif how == "zeros":
        where = part()
        data[where] = bytes(where.stop - where.start)
    elif how == "noise":
        where = part()
        data[where] = rng.randbytes(where.stop - where.start)
    elif how == "missing":
        del data[part()]
    elif how == "doubled":
        where = part()
        data[where.stop : where.stop] = data[where]
    else:  # "header"
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(min(256, size))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(data)


HOW = ("bits", "bits", "cut", "swap", "zeros", "noise", "missing", "doubled", "header", "header")


def write_sources(folder: pathlib.Path, num_files: int) -> list[pathlib.Path]:
    """Sounds of a few seconds in all kinds, mono and stereo; kinds that FFmpeg here cannot write
    are left out.
    """
    rng = np.random.default_rng(0)
    written = []
    number = 0
    kinds = dict(_KINDS)
    while len(written) < num_files:
        suffix = list(kinds)[number % len(kinds)]
        time_s = np.arange(int(rng.uniform(2, 8) * _RATE)) / _RATE
        hz = rng.uniform(100, 4000, 5)
        notes = np.sin(2 * np.pi * hz[:, None] * time_s).sum(axis=0) / 8
        sound = np.stack(
            [notes + 0.05 * rng.standard_normal(len(notes))] * (1 + number % 2), axis=1
        )
        soundfile.write(folder / "source.wav", sound.astype(np.float32), _RATE)
        path = folder / f"{number}.{suffix}"
        command = ["ffmpeg", "-v", "error", "-y", "-i", folder / "source.wav", *kinds[suffix], path]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            written.append(path)
            number += 1
        else:
            del kinds[suffix]
    (folder / "source.wav").unlink()
    return written


def outcome(path: pathlib.Path, report: int) -> None:
    """Decodes in this process and writes what came of it, as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    losses = Losses()
    num_samples = 0
    is_finite = True
    try:
        for block in decode_blocks(path, sample_rate_hz=_RATE, losses=losses):
            num_samples += len(block)
            is_finite &= bool(np.isfinite(block).all() and np.abs(block).max(initial=0) < 1e4)
        kind = "decoded, and losses reported" if losses.notes() else "decoded"
        kind = kind if is_finite else "NOT FINITE"
        kind = kind if num_samples < _LONGEST_S * _RATE else "TOO LONG"
        text = ""
    except DecodeError as error:
        text = str(error)
        one_line = "\n" not in text and text.startswith(str(path))
        kind = "one error in a line" if one_line else "A BAD ERROR"
    except MemoryError:
        kind = "OUT OF MEMORY"
        text = ""
    except BaseException as error:  # noqa: BLE001 - what is looked for
        kind = "ANOTHER EXCEPTION"
        text = f"{type(error).__name__}: {error}"
    os.write(report, json.dumps([kind, text, num_samples / _RATE]).encode())


def decode_apart(path: pathlib.Path) -> tuple[str, str]:
    """Returns what came of a file in a process of its own, and the words."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries write there
            outcome(path, writing)
        finally:
            os._exit(0)
    os.close(writing)
    until = time.monotonic() + _LIMIT_S
    status = None
    while status is None and time.monotonic() < until:
        ended, raw = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(raw) if ended else None
        if status is None:
            time.sleep(0.002)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    said = os.read(reading, 1 << 16)
    os.close(reading)
    if status is None:
        return "A HANG", ""
    if not said:
        return f"A CRASH ({status})", ""
    kind, text, _ = json.loads(said)
    return kind, text


def main() -> None:
    """Damages, decodes and counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--damages", type=int, default=40, help="of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, help="keeps files that end badly there")
    args = parser.parse_args()
    print("$ python", " ".join(sys.argv), flush=True)
    counts: collections.Counter[str] = collections.Counter()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        sources = write_sources(folder, args.files)
        print("containers:", " ".join(sorted({p.name.partition(".")[2] for p in sources})))
        for source in sources:
            content = source.read_bytes()
            for number in range(args.damages):
                how = HOW[number % len(HOW)]
                path = source.with_name(f"x-{how}-{number}-{source.name}")
                path.write_bytes(damaged(content, how, rng))
                kind, text = decode_apart(path)
                counts[kind] += 1
                if kind.isupper() or kind.startswith("A "):
                    print(f"{path.name}: {kind}: {text[:300]}", flush=True)
                    if args.keep:
                        args.keep.mkdir(parents=True, exist_ok=True)
                        (args.keep / path.name).write_bytes(path.read_bytes())
                path.unlink()
    print(json.dumps({"files": len(sources), "damaged": counts.total()} | dict(counts)), flush=True)


if __name__ == "__main__":
    main()
