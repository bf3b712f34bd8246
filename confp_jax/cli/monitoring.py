"""`confp monitor`: what plays, with the time of day, until the end or until it is stopped."""

import argparse
import contextlib
import dataclasses
import datetime
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from confp_jax.cli.cue_sheet import check_writable, write_csv, write_cue
from confp_jax.cli.output import clock, drop_output, known_as, print_json_line, say

_DRIFT_S = 0.25


def run_monitor(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from confp_jax.audio.errors import DecodeError, Losses
    from confp_jax.fingerprint.fingerprints import AudioError
    from confp_jax.library import open as opening
    from confp_jax.library import searcher as searching
    from confp_jax.library.monitor import monitor

    outputs = [(args.cue, write_cue), (args.csv, write_csv)]
    for path, _ in outputs:
        if path and not _works(path, lambda path=path: check_writable(path)):
            return 1
    database, embedder = opening.open_database(args.db, args.model)
    searcher = searching.Searcher(database, embedder)
    is_live = searching.is_stream(args.source)
    moments = Moments(embedder.sample_rate_hz, start=args.start, is_live=is_live)
    played: list[tuple[Any, str]] = []
    losses = Losses()
    output = _Output(as_json=args.json, has_files=bool(args.cue or args.csv))
    error = ""
    with Stopping() as stopping:
        heard = stopping.until_stopped(searching.source_blocks(args.source, embedder, losses))
        try:
            for event in monitor(
                searcher, moments.seen(heard), alarms_per_hour=args.alarms_per_hour
            ):
                moment = moments.at(event.found.query_offset_s)
                if event.event == "match":
                    played.append((event.found, moment))
                output.tell(event, moment)
        except (DecodeError, AudioError) as failure:  # what was heard before is still written
            error = "" if stopping.is_asked else str(failure)
    if stopping.is_asked:
        say("interrupted", file=sys.stderr)
    played.sort(key=lambda one: one[0].query_offset_s)
    done = [
        _works(path, lambda path=path, write=write: write(path, args.source, played))
        for path, write in outputs
        if path
    ]
    for note in losses.notes():
        say(f"note: {args.source}: {note}", file=sys.stderr)
    if not args.json and (played or not error):
        output.say(f"{len(played)} matches")
    for text in filter(None, (error, output.error)):
        say(f"error: {text}", file=sys.stderr)
    return 0 if all(done) and not error and not output.error else 1


def _works(path: pathlib.Path, act: Any) -> bool:
    try:
        act()
    except OSError as error:
        say(f"error: {path}: cannot be written ({error.strerror})", file=sys.stderr)
        return False
    return True


class _Output:
    """Standard output; where it fails, the files (if there are any) are written all the same."""

    def __init__(self, *, as_json: bool, has_files: bool):
        self._as_json = as_json
        self._has_files = has_files
        self.error = ""

    def tell(self, event: Any, moment: str) -> None:
        """Prints an event."""
        found = event.found
        if self._as_json:
            times = {"event": event.event, "heard_s": event.heard_s}
            at = {"played_at": moment} if moment else {}
            self._print(lambda: print_json_line(times | at | dataclasses.asdict(found)))
        elif event.event == "match":
            end_s = found.query_offset_s + found.length_s
            self.say(
                f"{moment}{' ' if moment else ''}{clock(found.query_offset_s)} to {clock(end_s)}: "
                f"{found.track} from {clock(found.offset_s)} [{known_as(found)}]"
            )

    def say(self, text: str) -> None:
        """Prints a line at once."""
        self._print(lambda: say(text, flush=True))

    def _print(self, act: Callable[[], None]) -> None:
        if self.error:
            return
        try:
            act()
        except OSError as error:
            if not self._has_files:
                raise
            self.error = f"standard output cannot be written ({error.strerror})"
            drop_output()


class Moments:
    """At what time of day a place of a recording was heard, by the clock while it came in, or by
    the time at which it began.
    """

    def __init__(self, sample_rate_hz: int, *, start: datetime.datetime | None, is_live: bool):
        self._rate_hz = sample_rate_hz
        self._is_live = is_live and start is None
        # (place in s, moment of its beginning): one more where the stream stood still
        self._anchors: list[tuple[float, float]] = []
        if start is not None:
            self._anchors = [(0.0, start.timestamp())]

    def seen(
        self, blocks: Iterable[Float32[np.ndarray, " n"]]
    ) -> Iterator[Float32[np.ndarray, " n"]]:
        """Passes blocks on and notes when they came."""
        num = 0
        for block in blocks:
            if self._is_live:
                self._note(num / self._rate_hz, time.time() - len(block) / self._rate_hz)
            num += len(block)
            yield block

    def _note(self, place_s: float, moment_s: float) -> None:
        if self._anchors:
            place, moment = self._anchors[-1]
            if abs(moment + place_s - place - moment_s) < _DRIFT_S:
                return
        self._anchors.append((place_s, moment_s))

    def at(self, place_s: float) -> str:
        """The moment in ISO 8601 with the zone's offset; "" where it is not known."""
        before = [anchor for anchor in self._anchors if anchor[0] <= place_s] or self._anchors[:1]
        if not before:
            return ""
        place, moment = before[-1]
        heard = datetime.datetime.fromtimestamp(moment + place_s - place).astimezone()
        return heard.isoformat(timespec="seconds")


class Stopping:
    """Ends what is heard at Ctrl-C, `kill` or the end of a terminal, so that what was found is
    still written; at the second one the program ends.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._is_waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` sets it
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, *_: object) -> None:
        if self.is_asked or self._is_waiting:
            self.is_asked = True
            raise KeyboardInterrupt
        self.is_asked = True

    def until_stopped(
        self, blocks: Iterable[Float32[np.ndarray, " n"]]
    ) -> Iterator[Float32[np.ndarray, " n"]]:
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
