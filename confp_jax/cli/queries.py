"""`confp identify`, `monitor`, `listen`, `compare`, `dedupe`, `calibrate`: what is asked of a
database.
"""

import argparse
import dataclasses
import datetime
import pathlib
import sys
import time

from confp_jax.cli.event_options import add_event_options, open_sinks
from confp_jax.cli.monitoring import run_monitor
from confp_jax.cli.output import (
    Commands,
    clock,
    positive,
    print_answer,
    print_json,
    print_table,
    progress,
    rate,
    say,
    status,
)


def register(commands: Commands) -> None:
    """Declares the commands."""
    _register_identifying(commands)
    _register_monitoring(commands)
    _register_listening(commands)
    _register_comparing(commands)


def _register_identifying(commands: Commands) -> None:
    """Declares `identify`."""
    identify = commands.add(
        "identify",
        _identify,
        "find the track of each clip, and the position in it",
        model=True,
        examples="""\
  confp identify music.db clip.wav
  confp identify music.db mix.mp3        a long recording: every track in it
  confp identify music.db *.wav --json   for programs
  cat clip.mp3 | confp identify music.db -""",
    )
    identify.add_argument(
        "clips",
        nargs="+",
        metavar="CLIP",
        help="audio of at least 1 s, better 3 s; - is standard input",
    )
    _add_rate(identify)


def _register_monitoring(commands: Commands) -> None:
    """Declares `monitor`."""
    monitor = commands.add(
        "monitor",
        run_monitor,
        "report what plays in a long recording or a stream, while it plays",
        model=True,
        examples="""\
  confp monitor music.db broadcast.mp3 --cue broadcast.cue --csv broadcast.csv
  confp monitor music.db https://example.org/radio.mp3 --json   one JSON object a line
  arecord -f cd -t wav | confp monitor music.db -""",
    )
    monitor.add_argument(
        "source",
        metavar="SOURCE",
        help="a file, an address that FFmpeg can open, - for standard input, or microphone",
    )
    monitor.add_argument(
        "--cue",
        type=pathlib.Path,
        metavar="FILE",
        help="write a cue sheet at the end (one more for every 99 tracks)",
    )
    monitor.add_argument(
        "--start",
        type=_moment,
        metavar="TIME",
        help="when the recording began, such as 2026-11-30T06:00:00+01:00 (a stream: now)",
    )
    for name, what in (
        ("--csv", "a table"),
        ("--tracklist", "a list of tracks as text"),
        ("--chapters", "chapters in FFmpeg's format"),
    ):
        text = f"write {what} at the end"
        monitor.add_argument(name, type=pathlib.Path, metavar="FILE", help=text)
    monitor.add_argument(
        "--alarms-per-hour",
        type=positive,
        default=0.1,
        metavar="N",
        help="false alarms allowed in an hour (0.1)",
    )
    monitor.add_argument(
        "--gate",
        type=_level,
        default=-60.0,
        metavar="DB",
        help="treat sound below this level as silence, which takes no work (-60)",
    )
    add_event_options(monitor)


def _register_listening(commands: Commands) -> None:
    """Declares `listen`."""
    listen = commands.add(
        "listen",
        _listen,
        "identify what the microphone hears",
        model=True,
        examples="  confp listen music.db --seconds 8",
    )
    listen.add_argument(
        "--seconds", type=positive, default=12.0, metavar="S", help="longest time to listen (12)"
    )
    _add_rate(listen)
    add_event_options(listen)


def _register_comparing(commands: Commands) -> None:
    """Declares the commands that compare recordings or look into a database."""
    compare = commands.add(
        "compare",
        _compare,
        "find the sections that two recordings share",
        model=True,
        db=False,
        examples="  confp compare original.flac broadcast.mp3",
    )
    compare.add_argument("a", type=pathlib.Path, metavar="A", help="an audio file")
    compare.add_argument("b", type=pathlib.Path, metavar="B", help="another one")
    dedupe = commands.add(
        "dedupe",
        _dedupe,
        "list tracks that share long sections",
        model=True,
        examples="  confp dedupe music.db",
    )
    dedupe.add_argument(
        "--shortest",
        type=positive,
        default=10.0,
        metavar="S",
        help="shortest shared section to list, in seconds (10)",
    )
    commands.add(
        "calibrate",
        _calibrate,
        "fit the match threshold to this database (20 tracks and more)",
        model=True,
        examples="  confp calibrate music.db               run it again after adding many tracks",
    )


def _add_rate(command: argparse.ArgumentParser) -> None:
    text = "proportion of unknown queries that may be answered (0.001)"
    command.add_argument("--false-alarms", type=rate, default=0.001, metavar="SHARE", help=text)


def _level(text: str) -> float:
    value = float(text)
    if not -120 <= value < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected decibels from -120 to 0, as -60")
    return value


def _identify(args: argparse.Namespace) -> int:
    from confp_jax.library import open as opening
    from confp_jax.library import searcher as searching

    database, embedder = opening.open_database(args.db, args.model)
    searcher = searching.Searcher(database, embedder, false_alarm_rate=args.false_alarms)
    answers = []
    for answer in searching.identify_sources(searcher, args.clips):
        answers.append(answer)
        if not args.json:
            print_answer(answer)
    if args.json:
        print_json([dataclasses.asdict(answer) for answer in answers])
    return status(sum(bool(answer.error) for answer in answers), len(answers))


def _moment(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is no date and time; write it as 2026-11-30T06:00:00+01:00"
        ) from None


def _listen(args: argparse.Namespace) -> int:
    from confp_jax.audio.level import LevelMeter
    from confp_jax.audio.microphone import microphone_blocks
    from confp_jax.library import open as opening
    from confp_jax.library import searcher as searching
    from confp_jax.library.clock import iso
    from confp_jax.library.listening import identify_growing

    database, embedder = opening.open_database(args.db, args.model)
    searcher = searching.Searcher(database, embedder, false_alarm_rate=args.false_alarms)
    say(f"listening until sure, for {args.seconds:g} s at most", file=sys.stderr)
    meter = LevelMeter(embedder.sample_rate_hz)
    heard = meter.through(microphone_blocks(sample_rate_hz=embedder.sample_rate_hz))
    answer = None
    with open_sinks(args) as sinks:
        for heard_s, answer in identify_growing(
            searcher, heard, query="microphone", longest_s=args.seconds
        ):
            level_db = round(meter.loudest_db(heard_s), 1)
            sinks.report({"event": "level", "level_db": level_db})
            if not answer.num_accepted:
                say(f"{heard_s:.0f} s: not sure yet", file=sys.stderr)
        if answer is not None:
            best = dataclasses.asdict(answer.matches[0]) if answer.num_accepted else {}
            kind = "playing" if best else "unknown"
            sinks.report(best | {"event": kind, "at": iso(time.time())})
            print_json(dataclasses.asdict(answer)) if args.json else print_answer(answer)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from confp_jax.library.compare import compare_files

    sections = compare_files(
        args.a, args.b, args.model, note=lambda text: say(f"note: {text}", file=sys.stderr)
    )
    if args.json:
        print_json([dataclasses.asdict(section) for section in sections])
        return 0
    for s in sections:
        places = f"{clock(s.a_s)} to {clock(s.a_s + s.length_s)} of A is {clock(s.b_s)} of B"
        say(f"{places} (tempo {s.tempo:.3f}, score {s.score:.2f}, confidence {s.confidence:.2f})")
    say(f"{len(sections)} common sections, {sum(s.length_s for s in sections):.1f} s of A")
    return 0


def _dedupe(args: argparse.Namespace) -> int:
    from confp_jax.library import open as opening
    from confp_jax.matching.shared_sections import shared_sections

    database, embedder = opening.open_database(args.db, args.model)
    reference = opening.open_reference(database, embedder)
    decision = opening.database_decision(database, embedder)
    with progress("searching") as bar:
        task = bar.add_task("searching", total=None)
        found = shared_sections(
            reference,
            decision,
            shortest_s=args.shortest,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    tracks = reference.snapshot.tracks
    if args.json:
        named = (
            {
                "track": tracks[s.track].path,
                "track_id": tracks[s.track].id,
                "other": tracks[s.other].path,
                "other_id": tracks[s.other].id,
            }
            for s in found
        )
        print_json(
            [
                dataclasses.asdict(section) | names
                for section, names in zip(found, named, strict=True)
            ]
        )
        return 0
    rows = [(clock(s.length_s), f"{tracks[s.track].path} at {clock(s.track_s)}",
             f"{tracks[s.other].path} at {clock(s.other_s)}") for s in found]  # fmt: skip
    print_table(("shared", "track", "other"), rows)
    say(f"{len(found)} pairs share {args.shortest:g} s or more")
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from confp_jax.library import open as opening
    from confp_jax.library.calibrate import calibrate_database

    database, embedder = opening.open_database(args.db, args.model)
    with progress("searching") as bar:
        task = bar.add_task("searching", total=None)
        found = calibrate_database(
            database,
            embedder,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if args.json:
        print_json(dataclasses.asdict(found))
    else:
        lengths = ", ".join(f"{length:g} s" for length in found.lengths_s)
        say(f"calibrated on {found.num_excerpts} excerpts each of {lengths} from "
        f"{found.num_tracks} tracks; "
              f"{found.num_same} of recordings that are there twice were left out")  # fmt: skip
    return 0
