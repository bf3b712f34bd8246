"""A station's stream, as Icecast sends it: sound with titles in it."""

import http.server
import io
import threading

import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import DecodeError
from confp_jax.audio.level import LevelMeter, rms_db
from confp_jax.audio.radio import station_blocks

RATE = 16_000
INTERVAL = 1_500


def title_block(text: bytes) -> bytes:
    size = -(-len(text) // 16)
    return bytes([size]) + text.ljust(16 * size, b"\0")


@pytest.fixture
def icecast():
    """Serves 3 s of a tone, with a title every 1,500 bytes where they are asked for."""
    file = io.BytesIO()
    tone = 0.3 * np.sin(np.arange(3 * RATE) * 0.2)
    soundfile.write(file, tone, RATE, format="MP3")
    data = file.getvalue()
    titles = [b"StreamTitle='A - It's';StreamUrl='';", b"", "StreamTitle='Ö';".encode("latin-1")]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("icy-metaint", str(INTERVAL))
            self.end_headers()
            if self.headers["Icy-MetaData"] != "1" or self.path == "/silent":
                return
            for number, first in enumerate(range(0, len(data), INTERVAL)):
                self.wfile.write(data[first : first + INTERVAL])
                if first + INTERVAL <= len(data):
                    self.wfile.write(title_block(titles[number] if number < 3 else b""))

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/one"
    server.shutdown()
    server.server_close()
    thread.join()


def test_sound_and_titles(icecast):
    titles: list[str] = []
    parts: list[np.ndarray] = []
    with pytest.raises(DecodeError, match="the stream was closed"):
        parts.extend(station_blocks(icecast, sample_rate_hz=RATE, on_title=titles.append))
    heard = np.concatenate(parts)
    assert len(heard) == pytest.approx(3 * RATE, rel=0.05)
    assert rms_db(heard[RATE:]) == pytest.approx(-16.5, abs=0.5)  # FFmpeg gives mono 3 dB less
    assert titles == ["A - It's", "Ö"]


def test_nobody_there():
    with pytest.raises(DecodeError, match="cannot be reached"):
        list(station_blocks("http://127.0.0.1:9/x", sample_rate_hz=RATE, on_title=print))


def test_the_meter_passes_sound_and_gates_what_is_quiet():
    meter = LevelMeter(RATE, gate_db=-50.0)
    loud = np.full(RATE, 0.1, np.float32)
    quiet = np.full(8 * RATE, 1e-4, np.float32)
    out = np.concatenate(list(meter.through([loud, quiet, loud])))
    assert len(out) == 10 * RATE
    assert out[:RATE].all() and out[RATE : 4 * RATE].all() and out[9 * RATE :].all()
    assert not out[4 * RATE : 9 * RATE].any()
    assert meter.loudest_db(1.0) == pytest.approx(-20.0)
    assert meter.loudest_db(9.0) == pytest.approx(-80.0)
