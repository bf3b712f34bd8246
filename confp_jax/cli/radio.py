"""`confp radio`: what many stations play, and the reports of a day."""

import argparse
import logging
import pathlib
import re
import signal
import sys
import threading
from typing import Any

from confp_jax.cli.event_options import add_event_options, open_sinks
from confp_jax.cli.monitoring import on_stop
from confp_jax.cli.output import Commands, Output, clock, print_json, say

_DAY = re.compile(r"\d{4}-\d{2}(-\d{2})?")


def register(commands: Commands) -> None:
    """Declares the command."""
    radio = commands.add(
        "radio",
        _radio,
        "log what many stations play, and write the reports of a day (extra `radio`)",
        db=False,
        examples="""\
  confp radio stations.yaml              log all stations until Ctrl-C, one file a day
  confp radio report 2026-11-30 stations.yaml    reports: CSV, cue, SoundExchange, GEMA, PRS
  confp radio report 2026-11 stations.yaml --out reports    of a whole month""",
    )
    radio.add_argument(
        "words",
        nargs="+",
        metavar="STATIONS | report DAY [STATIONS]",
        help="the file of stations (stations.yaml), or `report`, a day or a month, and the file",
    )
    radio.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FOLDER",
        help="folder for the reports (default: `reports` beside the log)",
    )

    add_event_options(radio)


def _radio(args: argparse.Namespace) -> int:
    try:
        from confp_jax.radio.stations import read_stations
    except ModuleNotFoundError as error:
        say(f"error: {error}; install confp_jax's extra `radio`", file=sys.stderr)
        return 1
    is_report = args.words[0] == "report" and not pathlib.Path("report").is_file()
    if is_report:
        if len(args.words) not in (2, 3) or not _DAY.fullmatch(args.words[1]):
            say("error: write `confp radio report 2026-11-30 stations.yaml`", file=sys.stderr)
            return 2
        file = args.words[2] if len(args.words) == 3 else "stations.yaml"
        return _report(args, args.words[1], read_stations(pathlib.Path(file)))
    if len(args.words) != 1:
        say("error: name one file of stations", file=sys.stderr)
        return 2
    return _listen(args, read_stations(pathlib.Path(args.words[0])))


def _report(args: argparse.Namespace, day: str, config: Any) -> int:
    from confp_jax.radio.reports import Service, write_reports

    service = Service(config.service, config.category)
    folder = args.out or config.log / "reports"
    written = [str(path) for path in write_reports(config.log, day, folder, service)]
    if args.json:
        print_json({"files": written})
    else:
        for path in written:
            say(path)
    return 0


def _listen(args: argparse.Namespace, config: Any) -> int:
    from confp_jax.radio.run import run_radio

    logging.basicConfig(format="%(message)s")
    stop = threading.Event()
    before = on_stop(lambda *_: stop.set())
    output = Output(is_alone=False)  # the log has it all
    say(f"hearing {len(config.stations)} stations; the log is {config.log}", file=sys.stderr)

    def report(event: dict[str, Any]) -> None:
        if args.json and event["event"] != "level":
            output.json_line(event)
        elif text := _line_of(event):
            output.say(text)
        sinks.report(event)

    try:
        with open_sinks(args, config) as sinks:
            run_radio(config, report, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if output.error:
        say(f"error: {output.error}; the log is {config.log}", file=sys.stderr)
    return 1 if output.error else 0


def _line_of(event: dict[str, Any]) -> str:
    """Returns an event as text, "" of what is not shown."""
    kind = event["event"]
    if kind == "play":
        places = f"{clock(event['first_s'])} to {clock(event['last_s'])}"
        name = " - ".join(filter(None, (event["artist"], event["title"] or event["track"])))
        text = f"{name} [id {event['id']}], {event['played_s']:.0f} s, {places} of the track"
    elif kind in ("lost", "connected", "silence"):
        text = kind + (f" ({event['reason']})" if "reason" in event else "")
    else:
        return ""
    return f"{event['at'][:19]} {event['station']}: {text}"
