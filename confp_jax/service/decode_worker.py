"""The process that decodes what clients send: bounded in memory, time and files, so that a hostile
file can only end it.

A job is a line of JSON on standard input; the answer is a line of JSON and, if all went well, the
samples as float32.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import resource
import sys

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode_blocks
from confp_jax.audio.errors import Losses
from confp_jax.audio.tags import Tags, read_tags
from confp_jax.service.settings import LONGEST_NAME
from confp_jax.texts import words

_MEMORY_BYTES = 3 << 30  # of addresses, most of which are the libraries'
_OPEN_FILES = 32
_MOST_OF_A_TAG = 10 * LONGEST_NAME  # what is looked at: files may hold megabytes
_PIPE_BYTES = 1 << 20


def main() -> None:
    """Serves jobs until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not spoil an answer
    with contextlib.suppress(OSError, AttributeError):  # Linux: 3 s in one piece, not in four
        fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    with contextlib.suppress(ValueError):  # macOS bounds no addresses
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    limits = ((resource.RLIMIT_NOFILE, _OPEN_FILES), (resource.RLIMIT_FSIZE, 0))
    for kind, limit in (*limits, (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (limit, limit))
    for line in sys.stdin.buffer:
        header, payload = answer(json.loads(line))
        answers.write(json.dumps(header).encode() + b"\n" + payload)
        answers.flush()


def answer(job: dict) -> tuple[dict, bytes]:
    """Returns the header and the samples of one job: {path, sample_rate_hz, start_s, length_s,
    max_audio_s, cpu_s, with_tags}.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    until_s = int(used.ru_utime + used.ru_stime + job["cpu_s"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until_s, resource.RLIM_INFINITY))
    path = pathlib.Path(job["path"])
    try:
        losses = Losses()
        samples = _samples(path, job, losses)
        tags = dataclasses.asdict(read_tags(path) if job["with_tags"] else Tags())
        tags = {key: _plain(text) for key, text in tags.items()}
    except DecodeError as error:
        return {"error": error.detail, "remedy": error.remedy}, b""
    except MemoryError:
        return {
            "error": "needs more memory than decoding may take",
            "remedy": "convert it to wav, flac or mp3",
        }, b""
    payload = np.ascontiguousarray(samples, "<f4").tobytes()
    return {"num_bytes": len(payload), "tags": tags, "notes": losses.notes()}, payload


def _plain(tag: str) -> str:
    """Returns what a file says of itself within the limits of what a client may say."""
    return words(tag[:_MOST_OF_A_TAG])[:LONGEST_NAME]


def _samples(path: pathlib.Path, job: dict, losses: Losses) -> Float32[np.ndarray, " n"]:
    rate_hz = job["sample_rate_hz"]
    max_audio_s = job["max_audio_s"]
    first = round(job["start_s"] * rate_hz)
    last = first + round(job["length_s"] * rate_hz) if job["length_s"] else None
    parts = [np.zeros(0, np.float32)]
    seen = 0
    kept = 0
    for block in decode_blocks(path, sample_rate_hz=rate_hz, losses=losses):
        parts.append(block[max(0, first - seen) : None if last is None else max(0, last - seen)])
        seen = seen + len(block)
        kept = kept + len(parts[-1])
        if kept > max_audio_s * rate_hz:
            raise DecodeError(
                f"is longer than {max_audio_s:g} s",
                "send an excerpt, or use `confp identify` for long recordings",
            )
        if last is not None and seen >= last:
            break
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
