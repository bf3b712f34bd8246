"""`confp recurring`: messages that come again, and intros, credits, stings and spots."""

import argparse
import contextlib
import csv
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from confp_jax.cli.library import reporting
from confp_jax.cli.output import Commands, clock, print_json, progress, say, status
from confp_jax.texts import plain

_LONGEST_S = 600.0
_TICKS_PER_S = 10_000_000  # of Jellyfin
_EDGE_SHARE = 0.34  # of a recording: what recurs there opens or closes it
_ADVERT = 3  # of Kodi's edit decision lists


def register(commands: Commands) -> None:
    """Declares the command."""
    recurring = commands.add(
        "recurring",
        _recurring,
        "group recordings that are the same message, or find sections that recur",
        model=True,
        db=False,
        examples="""\
  confp recurring calls/                      campaigns: calls that are the same message
  confp recurring calls/ --keep calls.db      the next time only new calls are read
  confp recurring calls.db --csv groups.csv
  confp recurring season1/ --shortest 5 --longest 120 --chapters season1/
  confp recurring day/ --shortest 3 --longest 60 --json    intros, stings, spots""",
    )
    recurring.add_argument(
        "sources",
        nargs="+",
        type=pathlib.Path,
        metavar="SOURCE",
        help="a database, or audio files and folders of them",
    )
    recurring.add_argument(
        "--keep", type=pathlib.Path, metavar="DB", help="a database to keep the fingerprints in"
    )
    length = "find sections instead of whole messages: the {} in seconds ({})"
    recurring.add_argument(
        "--shortest", type=_seconds, metavar="S", help=length.format("shortest", "3")
    )
    recurring.add_argument(
        "--longest", type=_seconds, metavar="S", help=length.format("longest", "600")
    )
    recurring.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="write a table")
    for name, text in (
        ("chapters", "FFmpeg's metadata with chapters"),
        ("edl", "Kodi's edit decision lists"),
        ("jellyfin", "Jellyfin's media segments as JSON"),
    ):
        recurring.add_argument(
            f"--{name}",
            type=pathlib.Path,
            metavar="FOLDER",
            help=f"write {text} into a folder, a file for each recording",
        )


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be at least 1 second")
    return value


def _recurring(args: argparse.Namespace) -> int:
    from confp_jax.library.recurring import opened_sources, recurring_messages, recurring_parts

    shortest_s = args.shortest or 3.0
    longest_s = args.longest or _LONGEST_S
    if shortest_s > longest_s:
        say(
            f"error: --shortest {shortest_s:g} is longer than --longest {longest_s:g}",
            file=sys.stderr,
        )
        return 2
    by_section = args.shortest is not None or args.longest is not None
    with contextlib.ExitStack() as stack:
        with reporting("fingerprinting") as report:
            opened = opened_sources(args.sources, keep=args.keep, model=args.model, report=report)
            database, embedder, num_failed = stack.enter_context(opened)
        bar = stack.enter_context(progress("comparing"))
        task = bar.add_task("comparing", total=None)

        def count(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if by_section:
            lengths = {"shortest_s": shortest_s, "longest_s": longest_s}
            groups = recurring_parts(database, embedder, **lengths, report=count)
        else:
            groups = recurring_messages(database, embedder, report=count)
        num = len(database.tracks())
    written = _write(args, groups)
    if args.json:
        print_json([dataclasses.asdict(group) for group in groups])
    else:
        _print(groups, num)
    return status(num_failed, num + num_failed) if written else 1


def _print(groups: Sequence[Any], num: int) -> None:
    for number, group in enumerate(groups, start=1):
        say(f"{number}: {group.size} times, as {group.representative}")
        for place in group.places:
            say(f"   {clock(place.begin_s)} to {clock(place.end_s)} of {place.path}")
    say(f"{len(groups)} groups, {sum(group.size for group in groups)} places in {num} recordings")


def _write(args: argparse.Namespace, groups: Sequence[Any]) -> bool:
    """Writes what was asked for; whether all of it could be written."""
    each = (("chapters", _chapters), ("edl", _edl), ("jellyfin", _jellyfin))
    outputs: list[tuple[pathlib.Path | None, Callable[[pathlib.Path], None]]] = [
        (args.csv, functools.partial(write_table, groups=groups)),
        *(
            (
                getattr(args, name),
                functools.partial(write_each, groups=groups, kind=name, text=text),
            )
            for name, text in each
        ),
    ]
    for path, act in outputs:
        if path is None:
            continue
        try:
            act(path)
        except OSError as error:
            say(f"error: {path}: cannot be written ({error.strerror})", file=sys.stderr)
            return False
    return True


def write_table(path: pathlib.Path, groups: Sequence[Any]) -> None:
    """Writes a table with one row for each place; times in seconds."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        names = ("group", "size", "representative", "id", "track", "path", "begin_s", "end_s")
        table.writerow((*names, "duration_s"))
        for number, group in enumerate(groups, start=1):
            for place in group.places:
                texts = plain(place.track), plain(place.path)
                times = place.begin_s, place.end_s, place.duration_s
                head = number, group.size, plain(group.representative), place.id
                table.writerow((*head, *texts, *times))


_SUFFIXES = {"chapters": ".chapters.txt", "edl": ".edl", "jellyfin": ".segments.json"}


def write_each(
    folder: pathlib.Path,
    groups: Sequence[Any],
    kind: str,
    text: Callable[[Sequence[tuple[int, Any]]], str],
) -> None:
    """Writes a file beside the others for each recording that something recurs in; of recordings
    of one name the later ones have their id in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    each: dict[str, list[tuple[int, Any]]] = {}
    for number, group in enumerate(groups, start=1):
        for place in group.places:
            each.setdefault(place.path, []).append((number, place))
    used: set[str] = set()
    for path, found in each.items():
        stem = pathlib.PurePath(path).stem
        name = stem if stem not in used else f"{stem}.{found[0][1].id}"
        used.add(name)
        places = sorted(found, key=lambda one: one[1].begin_s)
        target = folder / f"{name}{_SUFFIXES[kind]}"
        target.write_text(text(places), encoding="utf-8")


def _edl(found: Sequence[tuple[int, Any]]) -> str:
    lines = [f"{place.begin_s:.2f}\t{place.end_s:.2f}\t{_ADVERT}" for _, place in found]
    return "\n".join(lines) + "\n"


def _chapters(found: Sequence[tuple[int, Any]]) -> str:
    """FFmpeg's metadata: `ffmpeg -i a.mkv -i a.chapters.txt -map_metadata 1 -c copy b.mkv`."""
    lines = [";FFMETADATA1"]
    for number, place in found:
        times = f"START={round(1000 * place.begin_s)}", f"END={round(1000 * place.end_s)}"
        title = f"title={_kind(place)} {number}"
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", *times, title]
    return "\n".join(lines) + "\n"


def _jellyfin(found: Sequence[tuple[int, Any]]) -> str:
    segments = [
        {
            "Type": _kind(place),
            "StartTicks": round(_TICKS_PER_S * place.begin_s),
            "EndTicks": round(_TICKS_PER_S * place.end_s),
        }
        for _, place in found
    ]
    return json.dumps(segments, indent=1) + "\n"


def _kind(place: Any) -> str:
    """Returns Jellyfin's name: intro near the beginning of a recording, outro near its end."""
    middle = (place.begin_s + place.end_s) / 2 / max(place.duration_s, 1e-9)
    if middle < _EDGE_SHARE:
        return "Intro"
    return "Outro" if middle > 1 - _EDGE_SHARE else "Commercial"
