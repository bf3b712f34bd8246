"""A station from its audio to its log, also when the program ends on the way."""

import collections
import http.server
import threading
import types
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import soundfile

from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.library.monitor import Moment
from confp_jax.library.searcher import Match
from confp_jax.radio.air_log import AirLog, read_events
from confp_jax.radio.station import Station
from confp_jax.radio.stations import StationConfig

RATE = 16_000
BEGINS_S = 1_764_500_000.0
STEP_S = 3.6
LOUD = 0.1  # the first sample of the one track; each second adds a thousandth


def by_loudness(
    _searcher: object, blocks: Iterable[np.ndarray], *, alarms_per_hour: float
) -> Iterator[Moment]:
    """Moments without a model: a sample says where in the track it is."""
    del alarms_per_hour
    place_s = 0.0
    begin = None
    held = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= STEP_S * RATE:
            step, held = np.split(held, [round(STEP_S * RATE)])
            place_s += STEP_S
            offsets_s = 1_000 * (step[step > LOUD - 0.01] - LOUD)
            if len(offsets_s) > len(step) / 2:
                begin = begin or (place_s - len(offsets_s) / RATE, float(offsets_s[0]))
                length_s = place_s - begin[0]
                found = Match("one", "", begin[1], 0.5, 0.9, begin[0], length_s, 1.0, 1, "", "", "")
                yield Moment(place_s, [found], [], [])
            else:
                begin = None
                yield Moment(place_s, [], [], [])


@pytest.fixture
def live(monkeypatch) -> types.SimpleNamespace:
    monkeypatch.setattr("confp_jax.library.live.moments", by_loudness)
    return types.SimpleNamespace(view=types.SimpleNamespace(searcher=None), sample_rate_hz=RATE)


@pytest.fixture
def recording(tmp_path) -> StationConfig:
    """8 s of something else, 30 s of the track, 40 s of silence."""
    track = LOUD + np.arange(30 * RATE) / RATE / 1_000
    parts = [np.full(8 * RATE, 0.02), track, np.zeros(40 * RATE)]
    soundfile.write(tmp_path / "tape.wav", np.concatenate(parts), RATE, subtype="FLOAT")
    return StationConfig("One", str(tmp_path / "tape.wav"), begins_s=BEGINS_S)


def logged(folder) -> list[dict]:
    return [event for path in sorted(folder.glob("*.jsonl")) for event in read_events(path)]


def hear(config: StationConfig, live: types.SimpleNamespace, folder, *, until: str = "") -> None:
    """Runs a station to its end, or until it tells an event."""
    stop = threading.Event()

    def report(event: dict) -> None:
        if event["event"] == until:
            stop.set()

    Station(config, live, AirLog(folder), report, agreeing=1).run(stop)


@pytest.mark.parametrize("until", ["", "playing", "silence", "play"])
def test_a_recording_is_logged_once(live, recording, tmp_path, until):
    if until:
        hear(recording, live, tmp_path / "air", until=until)
    hear(recording, live, tmp_path / "air")
    hear(recording, live, tmp_path / "air")  # nothing is left of it
    events = logged(tmp_path / "air")
    plays = [event for event in events if event["event"] == "play"]
    assert [play["track"] for play in plays] == ["one"]
    assert plays[0]["played_s"] == pytest.approx(30, abs=4)
    assert "silence" in {event["event"] for event in events}
    keys = collections.Counter((e["event"], e.get("play") or e["at"]) for e in events)
    assert set(keys.values()) == {1}


def test_a_stream_that_breaks_off_is_connected_again(live, tmp_path, monkeypatch):
    monkeypatch.setattr("confp_jax.radio.station._FIRST_WAIT_S", 0.05)
    file = tmp_path / "live.wav"
    soundfile.write(file, np.full(15 * RATE, 0.3), RATE)
    data = file.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    source = f"http://127.0.0.1:{server.server_port}/live"
    hear(StationConfig("One", source), live, tmp_path / "air", until="connected")
    server.shutdown()
    server.server_close()
    thread.join()
    kinds = [event["event"] for event in logged(tmp_path / "air")]
    assert "playing" in kinds and kinds[-2:] == ["lost", "connected"]


def test_a_stream_that_nobody_sends_is_lost_once(live, tmp_path, monkeypatch):
    monkeypatch.setattr("confp_jax.radio.station._FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("confp_jax.radio.station._LONGEST_WAIT_S", 0.05)
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)
    timer.start()
    config = StationConfig("One", "http://127.0.0.1:9/x")
    Station(config, live, AirLog(tmp_path / "air"), lambda event: None, agreeing=1).run(stop)
    timer.join()
    (event,) = logged(tmp_path / "air")
    assert event["event"] == "lost" and "cannot be reached" in event["reason"]


def test_a_station_is_heard_again_after_an_error_of_the_program(live, tmp_path, monkeypatch):
    monkeypatch.setattr("confp_jax.radio.station._FIRST_WAIT_S", 0.01)
    stop = threading.Event()
    attempts = []

    def blocks(*_: object, **__: object) -> Iterator[np.ndarray]:
        attempts.append(0)
        if len(attempts) == 1:
            raise RuntimeError("a mistake")
        yield np.full(15 * RATE, 0.3, np.float32)
        stop.set()

    monkeypatch.setattr("confp_jax.radio.station.station_blocks", blocks)
    station = Station(StationConfig("One", "http://x/"), live, AirLog(tmp_path), print, agreeing=1)
    station.run(stop)
    assert [event["event"] for event in logged(tmp_path)] == ["lost", "connected", "playing"]


def test_a_stream_that_was_stopped_at_once_is_not_lost(live, tmp_path, monkeypatch):
    stop = threading.Event()

    def blocks(*_: object, **__: object) -> Iterator[np.ndarray]:
        stop.set()
        yield np.zeros(100, np.float32)

    def too_short(_searcher: object, heard: Iterable[np.ndarray], **_: object) -> Iterator[Moment]:
        raise AudioError(f"only {sum(map(len, heard))} samples")
        yield

    monkeypatch.setattr("confp_jax.radio.station.station_blocks", blocks)
    monkeypatch.setattr("confp_jax.library.live.moments", too_short)
    config = StationConfig("One", "http://127.0.0.1:9/x")
    Station(config, live, AirLog(tmp_path / "air"), lambda event: None, agreeing=1).run(stop)
    assert logged(tmp_path / "air") == []
