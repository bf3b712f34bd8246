"""MQTT against a real broker (mosquitto, of Debian)."""

import json
import queue
import shutil
import socket
import subprocess
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from confp_jax.database import DatabaseError
from confp_jax.events.mqtt import Mqtt

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
PLAYING = {
    "event": "playing",
    "title": "Ein Lied",
    "track": "x",
    "artist": "Jemand",
    "offset_s": 12.0,
    "confidence": 0.987,
    "played_at": "2026-11-30T06:00:00+01:00",
}


class Broker:
    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        assert MOSQUITTO
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("mosquitto does not listen")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = None


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


class Watching:
    """A client that keeps the last message of each topic."""

    def __init__(self, port: int):
        self.seen: dict[str, str] = {}
        self._news: queue.Queue = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _c, _d, message: self._news.put(message)
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("#")
        self._client.loop_start()

    def until(self, topic: str, wanted) -> None:
        until = time.monotonic() + 30
        while not (topic in self.seen and wanted(self.seen[topic])):
            message = self._news.get(timeout=max(0.01, until - time.monotonic()))
            self.seen[message.topic] = message.payload.decode()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@needs_broker
@pytest.mark.slow
def test_home_assistant_finds_a_device_and_its_state(broker):
    broker.start()
    watching = Watching(broker.port)
    mqtt = Mqtt(f"127.0.0.1:{broker.port}")
    mqtt.report({"event": "level", "level_db": -23.5})
    mqtt.report(PLAYING)
    watching.until("confp/confp/state", lambda text: "Ein Lied" in text)
    state = json.loads(watching.seen["confp/confp/state"])
    assert state == {
        "now_playing": "Ein Lied",
        "artist": "Jemand",
        "offset_s": 12.0,
        "confidence": 98.7,
        "sound_level": -23.5,
        "last_heard": "2026-11-30T06:00:00+01:00",
    }
    for sensor in state:
        topic = f"homeassistant/sensor/confp_confp/{sensor}/config"
        watching.until(topic, bool)
        config = json.loads(watching.seen[topic])
        assert config["value_template"] == f"{{{{ value_json.{sensor} }}}}"
        assert config["unique_id"] == f"confp_confp_{sensor}"
        assert config["device"]["identifiers"] == ["confp_confp"]
    watching.until("confp/availability", lambda text: text == "online")
    mqtt.report({"event": "unknown"})
    watching.until("confp/confp/state", lambda text: '"now_playing": ""' in text)
    mqtt.close()
    watching.until("confp/availability", lambda text: text == "offline")
    watching.close()


@needs_broker
@pytest.mark.slow
def test_a_broker_that_is_away_gets_the_state_when_it_comes(broker):
    mqtt = Mqtt(f"mqtt://127.0.0.1:{broker.port}")
    mqtt.report(PLAYING | {"station": "Rädio 1"})
    broker.start()
    watching = Watching(broker.port)
    watching.until("confp/r_dio_1/state", lambda text: "Ein Lied" in text)
    mqtt.close()
    watching.close()


@pytest.mark.parametrize("address", ["http://x", "mqtt://", "x:port", ""])
def test_no_broker(address):
    with pytest.raises(DatabaseError, match="is no broker"):
        Mqtt(address)
