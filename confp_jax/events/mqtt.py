"""Events by MQTT: what plays is a device of Home Assistant, which discovers it by itself."""

import logging
import re
import ssl
import urllib.parse
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from confp_jax.database import DatabaseError
from confp_jax.texts import steady_json

_log = logging.getLogger(__name__)
_DISCOVERY = "homeassistant"
_PORT = 1883
_TLS_PORT = 8883
_LONGEST_WAIT_S = 120
_KEEPALIVE_S = 30
_QOS = 1
_MOST_QUEUED = 1_000  # while the broker is away
# Of each sensor: its name, and what Home Assistant shows it as.
_SENSORS: dict[str, dict[str, str]] = {
    "now_playing": {"name": "Now playing", "icon": "mdi:music"},
    "artist": {"name": "Artist", "icon": "mdi:account-music"},
    "offset_s": {
        "name": "Offset",
        "device_class": "duration",
        "unit_of_measurement": "s",
    },
    "confidence": {"name": "Confidence", "unit_of_measurement": "%", "icon": "mdi:gauge"},
    "sound_level": {
        "name": "Sound level",
        "device_class": "sound_pressure",
        "unit_of_measurement": "dB",
        "state_class": "measurement",
    },
    "last_heard": {"name": "Last heard", "device_class": "timestamp"},
}


class Mqtt:
    """Keeps a device's state at a broker, in the background; a broker that is away is connected
    again.
    """

    def __init__(self, address: str, *, password: str = ""):
        """Begins to connect.

        Args:
          address: HOST, HOST:PORT, or mqtt://USER@HOST:PORT (mqtts:// with TLS).
          password: of the user.

        Raises:
          DatabaseError: it is no address.
        """
        parts = _address_parts(address)
        self._states: dict[str, dict[str, Any]] = {}
        self._is_down = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(_MOST_QUEUED)
        self._client.reconnect_delay_set(1, _LONGEST_WAIT_S)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = lambda *_: self._report("cannot be reached")
        self._client.on_disconnect = self._disconnected
        self._host = parts.hostname or ""
        if parts.username:
            word = urllib.parse.unquote(parts.password or "") or password
            self._client.username_pw_set(urllib.parse.unquote(parts.username), word or None)
        is_safe = parts.scheme == "mqtts"
        if is_safe:
            self._client.tls_set(cert_reqs=ssl.CERT_REQUIRED)
        self._availability = "confp/availability"
        self._client.will_set(self._availability, "offline", _QOS, retain=True)
        port = parts.port or (_TLS_PORT if is_safe else _PORT)
        self._client.connect_async(self._host, port, _KEEPALIVE_S)
        self._client.loop_start()

    def report(self, event: dict[str, Any]) -> None:
        """Brings the state of the event's device up to date."""
        device = str(event.get("station") or "confp")
        if device not in self._states:
            self._states[device] = dict.fromkeys(_SENSORS)
            self._announce(device)
        before = self._states[device]
        state = before | _changes(event)
        if state != before:
            self._states[device] = state
            self._publish(f"confp/{_topic(device)}/state", state)

    def close(self) -> None:
        """Reports that the device is off, and disconnects."""
        if self._client.is_connected():
            info = self._client.publish(self._availability, "offline", _QOS, retain=True)
            info.wait_for_publish(5.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _: Any) -> None:
        if reason.is_failure:
            self._report(f"refused the connection ({reason})")
            return
        self._is_down = False
        self._client.publish(self._availability, "online", _QOS, retain=True)
        for device, state in list(self._states.items()):
            self._announce(device)
            self._publish(f"confp/{_topic(device)}/state", state)

    def _disconnected(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _: Any
    ) -> None:
        if reason.is_failure:
            self._report(f"the connection was lost ({reason})")

    def _report(self, reason: str) -> None:
        if not self._is_down:
            _log.warning("MQTT broker %s: %s; tried again until it works", self._host, reason)
        self._is_down = True

    def _announce(self, device: str) -> None:
        """Publishes what Home Assistant needs to make a device with its sensors."""
        topic = _topic(device)
        about = {"identifiers": [f"confp_{topic}"], "name": device, "manufacturer": "confp_jax"}
        for sensor, shown in _SENSORS.items():
            config = shown | {
                "unique_id": f"confp_{topic}_{sensor}",
                "state_topic": f"confp/{topic}/state",
                "value_template": f"{{{{ value_json.{sensor} }}}}",
                "availability_topic": self._availability,
                "device": about,
            }
            if sensor == "now_playing":
                config["json_attributes_topic"] = f"confp/{topic}/state"
            self._publish(f"{_DISCOVERY}/sensor/confp_{topic}/{sensor}/config", config)

    def _publish(self, topic: str, value: dict[str, Any]) -> None:
        self._client.publish(topic, steady_json(value), _QOS, retain=True)


def _changes(event: dict[str, Any]) -> dict[str, Any]:
    """Returns what an event changes of a device's state."""
    kind = event["event"]
    if kind == "level":
        return {"sound_level": event["level_db"]}
    if kind == "playing":
        offset_s = event.get("offset_s", event.get("first_s"))
        confidence = event.get("confidence")
        return {
            "now_playing": (event.get("title") or event["track"])[:255],
            "artist": event.get("artist", "")[:255],
            "offset_s": offset_s,
            "confidence": None if confidence is None else round(100 * confidence, 1),
            "last_heard": event.get("played_at") or event.get("at"),
        }
    if kind in ("unknown", "silence", "lost"):
        return {"now_playing": "", "artist": "", "offset_s": None, "confidence": None}
    return {}


def _address_parts(address: str) -> urllib.parse.SplitResult:
    parts = urllib.parse.urlsplit(address if "://" in address else f"mqtt://{address}")
    try:
        is_good = parts.scheme in ("mqtt", "mqtts") and parts.hostname and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise DatabaseError(f"{address}: is no broker; write HOST, HOST:PORT or mqtt://USER@HOST")
    return parts


def _topic(device: str) -> str:
    """Returns a device's name as a level of a topic."""
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_") or "station"
