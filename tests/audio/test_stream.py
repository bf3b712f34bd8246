"""Streams through FFmpeg against decoding the file, and what can be wrong with a source."""

import pathlib
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from confp_jax.audio.decode import DecodeError, decode
from confp_jax.audio.stream import is_url, stream_blocks

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIP = ROOT / "examples" / "music" / "jordan-trudgett_battle2.mp3"
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")

READ_STDIN = """
import sys, numpy as np
from confp_jax.audio.stream import stream_blocks
sys.stdout.buffer.write(np.concatenate(list(stream_blocks("-", sample_rate_hz=16_000))).tobytes())
"""


def read_stdin(content: bytes) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", READ_STDIN],
        input=content,
        capture_output=True,
        timeout=300,
        cwd=ROOT,
    )


@needs_ffmpeg
def test_standard_input_is_what_decoding_the_file_gives():
    done = read_stdin(CLIP.read_bytes())
    found = np.frombuffer(done.stdout, "<f4")
    expected = decode(CLIP, sample_rate_hz=16_000).samples
    assert abs(len(found) - len(expected)) < 3_200  # another decoder may keep the encoder's delay
    part = expected[80_000:96_000]
    around = found[76_000:100_000]
    begin = int(np.argmax(np.correlate(around, part, "valid")))
    assert np.corrcoef(around[begin : begin + len(part)], part)[0, 1] > 0.98


@needs_ffmpeg
@pytest.mark.parametrize("content", [b"", b"this is no music" * 1000])
def test_standard_input_without_audio(content):
    done = read_stdin(content)
    assert done.returncode == 1 and b"DecodeError: -: " in done.stderr


READ_DAMAGED = """
from confp_jax.audio.errors import Losses
from confp_jax.audio.stream import stream_blocks
losses = Losses()
print(sum(map(len, stream_blocks("-", sample_rate_hz=16_000, losses=losses))) > 100_000)
print(*losses.notes())
"""


@needs_ffmpeg
def test_damage_on_standard_input_is_told():
    content = bytearray(CLIP.read_bytes())
    content[100_000:140_000] = np.random.default_rng(0).bytes(40_000)
    command = [sys.executable, "-c", READ_DAMAGED]
    done = subprocess.run(command, input=content, capture_output=True, timeout=300, cwd=ROOT)
    told, note = done.stdout.decode().splitlines()
    assert told == "True" and "is damaged" in note and "packets could not be decoded" in note


@needs_ffmpeg
def test_an_address(tmp_path):
    shutil.copy(CLIP, tmp_path / "clip.mp3")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            num = sum(map(len, stream_blocks(f"{address}/clip.mp3", sample_rate_hz=16_000)))
            with pytest.raises(DecodeError, match=r"missing\.mp3: FFmpeg cannot read it"):
                list(stream_blocks(f"{address}/missing.mp3", sample_rate_hz=16_000))
            blocks = stream_blocks(f"{address}/clip.mp3", sample_rate_hz=16_000)
            next(blocks)
            blocks.close()  # leaving early ends FFmpeg
        finally:
            server.shutdown()
            thread.join()
    assert num / 16_000 == pytest.approx(30.0, abs=0.3)


@pytest.mark.parametrize(
    "source", ["file:///etc/passwd", "concat:a|b", "clip.mp3", "-i", "http:x.mp3"]
)
def test_only_addresses_of_streams(source):
    assert not is_url(source)
    with pytest.raises(DecodeError):
        list(stream_blocks(source, sample_rate_hz=16_000))


def test_without_ffmpeg(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DecodeError, match="needs the program ffmpeg"):
        list(stream_blocks("http://localhost/x", sample_rate_hz=16_000))


def test_a_machine_without_a_microphone_says_what_to_do():
    """Here there is none, or no PortAudio; where there is one, it is heard."""
    from confp_jax.audio.microphone import microphone_blocks

    blocks = microphone_blocks(sample_rate_hz=16_000)
    try:
        assert len(next(blocks)) == 8_000
    except DecodeError as error:
        assert "microphone cannot be used" in str(error) and (
            "extra `listen`" in str(error) or "connect one" in str(error)
        )
    finally:
        blocks.close()


@needs_ffmpeg
def test_an_mp4_on_standard_input_has_its_index_at_the_end(tmp_path):
    command = ["ffmpeg", "-v", "quiet", "-i", str(CLIP), "-t", "3", "-c:a", "aac", "x.m4a"]
    subprocess.run(command, check=True, cwd=tmp_path)
    done = read_stdin((tmp_path / "x.m4a").read_bytes())
    assert len(done.stdout) / 4 / 16_000 == pytest.approx(3, abs=0.2)


@needs_ffmpeg
def test_a_stream_that_is_closed_is_connected_again_and_its_end_is_told(monkeypatch):
    monkeypatch.setattr("confp_jax.audio.stream._WAITS_S", (0, 0))
    content = CLIP.read_bytes()[:100_000]
    asked = []

    class Radio(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.path)
            if len(asked) > 3:
                return self.send_error(404)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Radio) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            blocks = stream_blocks(f"http://127.0.0.1:{server.server_port}/", sample_rate_hz=16_000)
            num = 0
            with pytest.raises(DecodeError, match=r"broke off after .* cannot be reached again"):
                for block in blocks:
                    num += len(block)
        finally:
            server.shutdown()
            thread.join()
    assert len(asked) > 4 and num > 16_000
