"""All stations at once: a thread for each, one model and one index for all."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from confp_jax.library.live import LiveDatabase
from confp_jax.library.open import open_database
from confp_jax.radio.air_log import AirLog
from confp_jax.radio.station import Station
from confp_jax.radio.stations import RadioConfig

_log = logging.getLogger(__name__)
_LOOK_S = 0.5


def run_radio(
    config: RadioConfig, report: Callable[[dict[str, Any]], None], stop: threading.Event
) -> None:
    """Hears all stations until `stop` is set, or all are files and over; `report` gets every event,
    from the threads of the stations.

    Raises:
      DatabaseError: the database or the log cannot be opened.
    """
    live = LiveDatabase(*open_database(config.database, config.model or None))
    log = AirLog(config.log)
    following = threading.Thread(target=live.follow, args=(stop,), daemon=True)
    following.start()
    threads = [
        threading.Thread(target=_run, args=(station, stop), name=f"station {number}", daemon=True)
        for number, station in enumerate(
            Station(station, live, log, report, agreeing=config.agreeing)
            for station in config.stations
        )
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not stop.wait(_LOOK_S):
        continue
    for thread in threads:
        thread.join(_LOOK_S)  # one that waits for a stream is left: what it knows is saved


def _run(station: Station, stop: threading.Event) -> None:
    try:
        station.run(stop)
    except Exception:  # noqa: BLE001 - one station's end is not the others'
        _log.exception("a station has ended")
