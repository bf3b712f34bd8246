"""`confp add`, `update`, `remove`, `list`, `info`: what changes a database, and what is in it."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confp_jax.cli.output import (
    Commands,
    clock,
    print_json,
    print_table,
    progress,
    say,
    status,
    whole_number,
)
from confp_jax.texts import plain

_FORECAST_FACTORS = (10, 100)


def register(commands: Commands) -> None:
    """Declares the commands."""
    add = commands.add(
        "add",
        _add,
        "add music to a database; create the database if it does not exist",
        model=True,
        examples="""\
  confp add music.db ~/Music             a folder; a second run reads only what is new
  confp add music.db a.mp3 b.flac
  confp add big.db ~/Music --model edge --precision int8     another model, half the bytes
  confp add small.db ~/Music --dims 64   a tenth of the bytes, fewer answers""",
    )
    add.add_argument(
        "paths", type=pathlib.Path, nargs="+", metavar="PATH", help="audio files or folders of them"
    )
    add.add_argument(
        "--passed-over",
        action="store_true",
        help="also name the files in folders that are not audio",
    )
    help_text = "how a new database stores fingerprints (binary for edge2, float16 for others)"
    add.add_argument("--precision", choices=("float16", "int8", "binary"), help=help_text)
    help_text = "values of a new database's fingerprints: 64 or 96 (edge2; the model's own: 640)"
    add.add_argument("--dims", type=whole_number, metavar="N", help=help_text)
    update = commands.add(
        "update",
        _update,
        "re-fingerprint changed files, read missing tags, report tracks whose files are gone",
        model=True,
        examples="""\
  confp update music.db
  confp update music.db --prune          also remove the tracks whose files are gone""",
    )
    update.add_argument(
        "--prune", action="store_true", help="remove the tracks whose files are gone"
    )
    update.add_argument(
        "--force",
        action="store_true",
        help="with --prune: also if all tracks of an added folder, or most tracks, are gone",
    )
    _register_tracks(commands)


def _register_tracks(commands: Commands) -> None:
    """Declares the commands that remove or list tracks."""
    remove = commands.add(
        "remove",
        _remove,
        "remove tracks from a database (the audio files stay)",
        examples="""\
  confp remove music.db --id 17          by id (see `confp list`)
  confp remove music.db ~/Music/a.mp3    by path
  confp remove music.db "Some Title"     by name, if only one track has it""",
    )
    text = "a path or a name; a number is an id, unless a track has a number for a name"
    remove.add_argument("tracks", nargs="*", metavar="TRACK", help=text)
    remove.add_argument(
        "--id",
        type=int,
        action="append",
        default=[],
        dest="ids",
        metavar="N",
        help="a track's id; may be given several times",
    )
    listing = commands.add(
        "list",
        _list,
        "list the tracks of a database",
        examples="""\
  confp list music.db
  confp list music.db --search björk     in name, path, title, artist, album or another tag
  confp list music.db --limit 50 --offset 100        the third fifty""",
    )
    listing.add_argument(
        "--search",
        metavar="TEXT",
        help="list only tracks with this text in their name, path or tags",
    )
    listing.add_argument(
        "--limit", type=whole_number, metavar="N", help="list at most N tracks (all)"
    )
    listing.add_argument(
        "--offset", type=whole_number, default=0, metavar="N", help="skip the first N tracks (0)"
    )
    commands.add(
        "info",
        _info,
        "show what a database holds and its size",
        examples="  confp info music.db",
    )


def _add(args: argparse.Namespace) -> int:
    from confp_jax.fingerprint.places import model_of_dims
    from confp_jax.library.add import add_paths
    from confp_jax.library.open import open_or_create

    model = model_of_dims(args.model, args.dims)
    database, embedder = open_or_create(args.db, model, precision=args.precision)
    with reporting("adding") as report:
        results = add_paths(database, embedder, args.paths, passed_over=True, report=report)
    others = [r.path for r in results if r.status == "passed over"]
    if not args.passed_over:
        results = [r for r in results if r.status != "passed over"]
    failed = sum(r.status == "failed" for r in results)
    num_files = sum(r.status != "passed over" for r in results)
    if args.json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        added = [r for r in results if r.status == "added"]
        hours = sum(r.duration_s for r in added) / 3600
        counts = [
            f"{len(added)} added ({hours:.2f} h, {sum(r.num_fingerprints for r in added)} "
            "fingerprints)",
            *(
                f"{num} {name}"
                for name in ("updated", "moved")
                if (num := sum(r.status == name for r in results))
            ),
            f"{sum(r.status == 'unchanged' for r in results)} already there",
            f"{failed} failed",
            *([f"{len(others)} passed over as no audio"] if others else []),
        ]
        say(f"{', '.join(counts)}; {args.db} now holds {database.num_tracks()} tracks")
        for path in others if args.passed_over else ():
            say(f"passed over {path}", file=sys.stderr)
        if not num_files:
            say(
                "no audio files found; name files, or folders that hold wav, flac, mp3, ogg, "
                "opus, m4a, ...",
                file=sys.stderr,
            )
    return status(failed, num_files)


def _update(args: argparse.Namespace) -> int:
    from confp_jax.library.add import update_tracks
    from confp_jax.library.open import open_database

    database, embedder = open_database(args.db, args.model)
    with reporting("updating") as report:
        results = update_tracks(
            database, embedder, prune=args.prune, force=args.force, report=report
        )
    kept = next((result.error for result in results if result.status == "vanished"), "")
    if args.json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        for result in results:
            if result.status in ("updated", "moved", "vanished", "removed"):
                say(f"{result.status} {result.path}")
        names = ("updated", "moved", "tagged", "unchanged", "vanished", "removed", "failed")
        counts = {name: sum(r.status == name for r in results) for name in names}
        say(", ".join(f"{num} {name}" for name, num in counts.items() if num or name != "tagged"))
        if any(result.status == "vanished" for result in results) and not kept:
            say("--prune removes the tracks whose files are gone", file=sys.stderr)
    if kept:
        say(
            f"error: nothing was removed, for {kept}; are their disks there? --prune --force "
            "removes them",
            file=sys.stderr,
        )
        return 1
    return 0 if not results else status(sum(r.status == "failed" for r in results), len(results))


def _remove(args: argparse.Namespace) -> int:
    from confp_jax.database import Database
    from confp_jax.library.maintenance import remove

    database = Database(args.db)
    if not args.tracks and not args.ids:
        say("error: name a TRACK, or give an --id", file=sys.stderr)
        return 2
    removed, refused = remove(database, args.tracks, ids=args.ids)
    for text in refused:
        say(f"failed {text}", file=sys.stderr)
    if args.json:
        print_json({"removed": removed, "refused": refused})
    else:
        for track in removed:
            say(f"removed {track['id']} {track['name']} ({track['path']})")
        say(f"{len(removed)} removed; {args.db} now holds {database.num_tracks()} tracks")
    return status(len(refused), len(args.tracks) + len(args.ids))


def _list(args: argparse.Namespace) -> int:
    from confp_jax.database import Database
    from confp_jax.database.names import stored_path

    database = Database(args.db)
    tracks, total = database.page(search=args.search or "", offset=args.offset, limit=args.limit)
    if args.json:
        print_json(
            [{k: v for k, v in dataclasses.asdict(t).items() if k != "first_row"} for t in tracks]
        )
        return 0
    rows = [
        (str(t.id), t.name, t.artist, t.title, clock(t.duration_s), stored_path(t.path))
        for t in tracks
    ]
    print_table(("id", "track", "artist", "title", "length", "path"), rows)
    some = "" if len(tracks) == total else f" of {total}"
    say(
        f"{len(tracks)}{some} tracks, {sum(t.duration_s for t in tracks) / 3600:.2f} h, model "
        f"{database.model_id.name}"
    )
    return 0


def _info(args: argparse.Namespace) -> int:
    from confp_jax.database import Database
    from confp_jax.library.forecast import forecast
    from confp_jax.library.maintenance import describe

    info = describe(Database(args.db))
    forecasts = [forecast(info, factor) for factor in _FORECAST_FACTORS]
    num_bytes = info.vector_bytes + info.catalogue_bytes + info.index_bytes
    hours = info.duration_s / 3600
    if args.json:
        more = [dataclasses.asdict(one) for one in forecasts]
        print_json(dataclasses.asdict(info) | {"num_bytes": num_bytes, "forecast": more})
        return 0
    stale = (
        f", {info.index_stale_share:.0%} of its rows out of date" if info.index_stale_share else ""
    )
    per_hour = f", {num_bytes / hours / 1e6:.2f} MB an hour of audio" if hours else ""
    rows = [
        ("tracks", f"{info.num_tracks}, {hours:.2f} h"),
        (
            "fingerprints",
            f"{info.num_fingerprints}, {info.hop_s * 1000:.0f} ms apart, stored as "
            f"{info.precision}",
        ),
        ("removed", f"{info.num_removed} fingerprints, until `confp compact`"),
        ("model", f"{info.model} ({info.identity})"),
        ("size", f"{num_bytes / 1e6:.1f} MB in {info.num_shards} shards{per_hour}"),
        ("search", f"{info.index}{stale}"),
        ("format", info.format),
    ]
    rows += [
        (
            f"{one.factor:g} times this",
            f"{one.hours:.0f} h, {one.num_fingerprints} fingerprints: {one.disk_bytes / 1e9:.2f} "
            f"GB on disk, {one.memory_bytes / 1e9:.2f} GB in memory while it is searched",
        )
        for one in forecasts
        if hours
    ]
    for name, text in rows:
        say(f"{name:<15}{text}")
    return 0


@contextmanager
def reporting(text: str) -> Iterator[Any]:
    """Shows a progress bar that names failed files; yields `report(result, total)`."""
    with progress(text) as bar:
        task = bar.add_task(text, total=None)

        def report(result: Any, total: int) -> None:
            bar.update(task, advance=1, total=total)
            if result.status == "failed":
                bar.console.print(
                    plain(f"failed {result.error}"), highlight=False, markup=False, soft_wrap=True
                )
            elif result.note:
                bar.console.print(
                    plain(f"note: {result.path}: {result.note}"),
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

        yield report
