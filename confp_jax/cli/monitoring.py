"""`confp monitor`: what plays, with the time of day, until the end or until it is stopped."""

import argparse
import contextlib
import dataclasses
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from confp_jax.cli.cue_sheet import (
    check_writable,
    write_chapters,
    write_csv,
    write_cue,
    write_tracklist,
)
from confp_jax.cli.event_options import open_sinks
from confp_jax.cli.output import Output, clock, known_as, say

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    Samples = Float32[np.ndarray, " n"]


def run_monitor(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from confp_jax.audio.errors import DecodeError, Losses
    from confp_jax.audio.level import FLOOR_DB, LevelMeter
    from confp_jax.fingerprint.fingerprints import AudioError
    from confp_jax.library import live as living
    from confp_jax.library import open as opening
    from confp_jax.library import searcher as searching
    from confp_jax.library.clock import Moments

    outputs = [
        (args.cue, write_cue),
        (args.csv, write_csv),
        (args.tracklist, write_tracklist),
        (args.chapters, write_chapters),
    ]
    for path, _ in outputs:
        if path and not _works(path, lambda path=path: check_writable(path)):
            return 1
    database, embedder = opening.open_database(args.db, args.model)
    live = living.LiveDatabase(database, embedder)
    is_live = searching.is_stream(args.source)
    clock_of = Moments(embedder.sample_rate_hz, start=args.start, is_live=is_live)
    gate_db = args.gate if is_live else FLOOR_DB
    meter = LevelMeter(embedder.sample_rate_hz, gate_db=gate_db)
    played: list[tuple[Any, str]] = []
    losses = Losses()
    output = Output(is_alone=not (any(path for path, _ in outputs) or args.webhook or args.mqtt))
    error = ""
    with open_sinks(args) as sinks, Stopping() as stopping:
        reporter = Reporter(sinks.report, meter, output, as_json=args.json)
        heard = stopping.until_stopped(searching.source_blocks(args.source, embedder, losses))
        try:
            if is_live:
                following = threading.Thread(target=live.follow, args=(stopping.over,), daemon=True)
                following.start()
            for moment in living.live_moments(
                live,
                meter.through(clock_of.seen(heard)),
                alarms_per_hour=args.alarms_per_hour,
            ):
                played += reporter.report(moment, clock_of)
        except (DecodeError, AudioError) as failure:  # what was heard before is still written
            error = "" if stopping.is_asked else str(failure)
    if stopping.is_asked:
        say("interrupted", file=sys.stderr)
    done = _written(outputs, args.source, played)
    for note in losses.notes():
        say(f"note: {args.source}: {note}", file=sys.stderr)
    if not args.json and (played or not error):
        output.say(f"{len(played)} matches")
    for text in filter(None, (error, output.error)):
        say(f"error: {text}", file=sys.stderr)
    return 0 if done and not error and not output.error else 1


def _written(
    outputs: Sequence[tuple[pathlib.Path | None, Any]],
    source: str,
    played: list[tuple[Any, str]],
) -> bool:
    """Writes the cue sheet and the table that were asked for; returns whether all went well."""
    played.sort(key=lambda one: one[0].query_offset_s)
    done = [
        _works(path, lambda path=path, write=write: write(path, source, played))
        for path, write in outputs
        if path
    ]
    return all(done)


def _works(path: pathlib.Path, act: Any) -> bool:
    try:
        act()
    except OSError as error:
        say(f"error: {path}: cannot be written ({error.strerror})", file=sys.stderr)
        return False
    return True


class Reporter:
    """Prints events and sends them to other programs."""

    def __init__(
        self, report: Callable[[dict[str, Any]], None], meter: Any, output: Output, *, as_json: bool
    ):
        self._report = report
        self._meter = meter
        self._output = output
        self._as_json = as_json
        self._is_playing = False

    def report(self, moment: Any, clock_of: Any) -> list[tuple[Any, str]]:
        """Reports what is new at a moment; returns the matches that are over, each with the time of
        day at which it began.
        """
        over = []
        for kind, founds in (("match", moment.finished), ("playing", moment.started)):
            for found in founds:
                played_at = clock_of.at(found.query_offset_s)
                if kind == "match":
                    over.append((found, played_at))
                event = {"event": kind, "heard_s": moment.heard_s}
                event |= {"played_at": played_at} if played_at else {}
                event |= dataclasses.asdict(found)
                self._report(event)
                self._show(event, found, played_at)
        level_db = round(self._meter.loudest_db(moment.heard_s), 1)
        self._report({"event": "level", "level_db": level_db})
        if self._is_playing and not moment.playing:
            self._report({"event": "unknown", "heard_s": moment.heard_s})
        self._is_playing = bool(moment.playing)
        return over

    def _show(self, event: dict[str, Any], found: Any, moment: str) -> None:
        if self._as_json:
            self._output.json_line(event)
        elif event["event"] == "match":
            end_s = found.query_offset_s + found.length_s
            self._output.say(
                f"{moment}{' ' if moment else ''}{clock(found.query_offset_s)} to {clock(end_s)}: "
                f"{found.track} from {clock(found.offset_s)} [{known_as(found)}]"
            )


_STOPS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


def on_stop(act: Callable[..., Any]) -> dict[int, Any]:
    """Calls `act` at Ctrl-C, `kill` or the end of a terminal; returns what was called before."""
    return {
        number: signal.signal(number, act)
        for number in _STOPS
        if signal.getsignal(number) is not signal.SIG_IGN  # as `nohup` sets it
    }


class Stopping:
    """Ends what is heard at Ctrl-C, `kill` or the end of a terminal, so that what was found is
    still written; at the second one the program ends.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.over = threading.Event()  # when nothing is heard any more
        self._is_waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            self._before = on_stop(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, *_: object) -> None:
        if self.is_asked or self._is_waiting:
            self.is_asked = True
            raise KeyboardInterrupt
        self.is_asked = True

    def until_stopped(self, blocks: Iterable["Samples"]) -> Iterator["Samples"]:
        """Passes blocks on until the program is asked to stop."""
        coming = iter(blocks)
        while not self.is_asked:
            try:
                self._is_waiting = True
                block = next(coming, None)
            except KeyboardInterrupt:
                return
            finally:
                self._is_waiting = False
            if block is None:
                return
            yield block
