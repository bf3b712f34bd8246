"""`confp add` and `confp list`: what changes a database, and what is in it."""

import argparse
import dataclasses
import pathlib
import sys

from confp_jax.cli.output import Commands, clock, print_json, print_table, progress, status


def register(commands: Commands) -> None:
    """Declares the commands."""
    add = commands.add(
        "add",
        _add,
        "add music to a database, which is made if it is not there",
        model=True,
        examples="""\
  confp add music.db ~/Music             a folder; a second run adds only what is new
  confp add music.db a.mp3 b.flac""",
    )
    add.add_argument("paths", type=pathlib.Path, nargs="+", metavar="PATH", help="audio files or folders of them")
    commands.add("list", _list, "list the tracks of a database")


def _add(args: argparse.Namespace) -> int:
    from confp_jax.retrieval.add import Added, add_paths
    from confp_jax.retrieval.identify import open_or_create

    database, embedder = open_or_create(args.db, args.model)
    with progress("adding") as bar:
        task = bar.add_task("adding", total=None)

        def report(added: Added, total: int) -> None:
            bar.update(task, advance=1, total=total)
            if added.status == "failed":
                bar.console.print(f"failed {added.error}", highlight=False, markup=False, soft_wrap=True)

        results = add_paths(database, embedder, args.paths, report=report)
    failed = sum(r.status == "failed" for r in results)
    if args.json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        added = [r for r in results if r.status == "added"]
        unchanged = sum(r.status == "unchanged" for r in results)
        hours = sum(r.duration_s for r in added) / 3600
        print(f"{len(added)} added ({hours:.2f} h, {sum(r.num_fingerprints for r in added)} fingerprints), "
              f"{unchanged} already there, {failed} failed; {args.db} now holds {len(database.tracks())} tracks")  # fmt: skip
        if not results:
            print("no audio files found; name files, or folders that hold wav, flac, mp3, ogg, opus, m4a, ...", file=sys.stderr)
    return status(failed, len(results))


def _list(args: argparse.Namespace) -> int:
    from confp_jax.retrieval.database import Database

    database = Database(args.db)
    tracks = database.tracks()
    if args.json:
        print_json([{k: v for k, v in dataclasses.asdict(t).items() if k != "first_row"} for t in tracks])
        return 0
    rows = [(t.name, clock(t.duration_s), t.path) for t in tracks]
    print_table(("track", "length", "path"), rows)
    print(f"{len(tracks)} tracks, {sum(t.duration_s for t in tracks) / 3600:.2f} h, model {database.stamp.name}")
    return 0
