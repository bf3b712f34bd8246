"""`confp compact`, `verify`, `merge`, `reindex`, `export`, `import`: what keeps databases in order
and moves them about.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confp_jax.cli.library import reporting
from confp_jax.cli.output import Commands, milvus_address, print_json, progress, say, status

_PARQUET_HELP = "error: this needs pyarrow; install it with: pip install 'confp-jax[parquet]'"

_JAX_HELP = "export needs JAX and onnx; install them with: pip install 'confp-jax[jax]'"


def register(commands: Commands) -> None:
    """Declares the commands."""
    compact = commands.add(
        "compact",
        _compact,
        "free the space of removed tracks and rebuild the search index",
        examples="""\
  confp compact music.db
  confp compact music.db --recall 0.999         search more carefully, and slower, from now on
  confp compact music.db --index faiss          scann (Linux), faiss or exact
  confp compact music.db --index milvus://localhost:19530     a server, kept up to date
  confp compact music.db --index "milvus://localhost:19530?fallback=exact"    while it is away,
                                                all fingerprints are searched here
  confp compact music.db --index milvus:///data/rows.db       milvus-lite (an extra)""",
    )
    compact.add_argument(
        "--index", type=_index, metavar="KIND", help="the search index to use from now on"
    )
    compact.add_argument(
        "--recall",
        type=_recall,
        metavar="R",
        help="proportion of first hits that equal exact search (0.99)",
    )
    verify = commands.add(
        "verify",
        _verify,
        "check every checksum, and that tracks and fingerprints belong together",
        examples="""\
  confp verify music.db
  confp verify music.db --recall         and how often the index finds what exact search does""",
    )
    verify.add_argument(
        "--recall", action="store_true", help="measure the search index against exact search"
    )
    repair = commands.add(
        "repair",
        _repair,
        "fingerprint damaged tracks again from their files",
        examples="""\
  confp repair music.db                  what `confp verify` finds damaged
  confp repair music.db /mnt/backup      takes files of the same content from there too
  confp repair music.db --drop           and removes the tracks whose files are gone""",
    )
    repair.add_argument(
        "folders", type=pathlib.Path, nargs="*", metavar="FOLDER", help="where to look for files"
    )
    repair.add_argument(
        "--drop", action="store_true", help="remove the tracks that cannot be restored"
    )
    _register_copying(commands)
    _register_exchange(commands)


def _register_copying(commands: Commands) -> None:
    """Declares the commands that fill a database from another one, or with another model."""
    merge = commands.add(
        "merge",
        _merge,
        "copy another database's tracks into a database, without their audio",
        examples="  confp merge music.db laptop.db         of the same model; existing tracks stay",
    )
    merge.add_argument(
        "other", type=pathlib.Path, metavar="OTHER", help="the database to take tracks from"
    )
    reindex = commands.add(
        "reindex",
        _reindex,
        "fingerprint all tracks with another model, then swap in one commit",
        examples="""\
  confp reindex music.db --model runs/small     continues where it stopped if run again""",
    )
    reindex.add_argument(
        "--model", required=True, metavar="MODEL", help="a shipped model or a checkpoint folder"
    )
    reindex.add_argument(
        "--prune", action="store_true", help="swap even if files are gone, and remove their tracks"
    )
    reindex.add_argument(
        "--force",
        action="store_true",
        help="with --prune: also if all tracks of an added folder, or most tracks, are gone",
    )


def _register_exchange(commands: Commands) -> None:
    """Declares the commands that write and read files of other programs."""
    export = commands.add(
        "export",
        _export,
        "write all tracks and fingerprints as one Parquet file, or a model as one ONNX file",
        examples="""\
  confp export music.db music.parquet
  confp export edge2 --onnx edge2.onnx       for ONNX Runtime, also in other languages
  confp export runs/small --onnx small.onnx --int8""",
        db=False,
    )
    text = "the database's folder; with --onnx: a shipped model or a checkpoint folder"
    export.add_argument("source", metavar="DB", help=text)
    export.add_argument(
        "out", type=pathlib.Path, nargs="?", metavar="OUT", help="the Parquet file to write"
    )
    export.add_argument(
        "--onnx", type=pathlib.Path, metavar="FILE", help="write a model as this ONNX file"
    )
    text = "with --onnx: matrices as int8, half of the size"
    export.add_argument("--int8", action="store_true", help=text)
    importing = commands.add(
        "import",
        _import,
        "add fingerprints from Parquet files to a database; create it if it does not exist",
        examples="""\
  confp import music.db music.parquet
  confp import music.db shards/          all .parquet files of a folder""",
    )
    importing.add_argument(
        "files",
        type=pathlib.Path,
        nargs="+",
        metavar="FILE",
        help="Parquet files or folders of them",
    )


def _compact(args: argparse.Namespace) -> int:
    from confp_jax.database import Database
    from confp_jax.index import external
    from confp_jax.index.kinds import is_remote
    from confp_jax.library.maintenance import compact

    database = Database(args.db)
    with _counting("compacting"):
        done, manifest = compact(database, kind=args.index, recall=args.recall)
    chosen = database.setting("index") or ""
    if args.json:
        print_json(dataclasses.asdict(done) | {"index": manifest and dataclasses.asdict(manifest)})
        return 0
    searched = "search is exact"
    if manifest:
        searched = (
            f"{manifest.library} finds {manifest.effort.recall:.1%} of first hits among "
            f"{manifest.num_rows} fingerprints"
        )
    elif is_remote(chosen) and external.is_named(chosen):
        searched = f"{chosen} holds a copy of all fingerprints and proposes candidates"
    say(
        f"{done.num_removed_rows} removed fingerprints freed, "
        f"{done.num_shards_before} shards became {done.num_shards_after}; {searched}"
    )
    return 0


def _verify(args: argparse.Namespace) -> int:
    from confp_jax.database import Database
    from confp_jax.library.maintenance import verify

    database = Database(args.db)
    with _counting("verifying") as report:
        problems, recall = verify(database, recall=args.recall, report=report)
    if args.json:
        print_json(
            {"problems": [dataclasses.asdict(problem) for problem in problems], "recall": recall}
        )
    else:
        names = {track.id: track.name for track in database.tracks()} if problems else {}
        for problem in problems:
            say(f"{problem.what}; {problem.remedy}", file=sys.stderr)
            for number in problem.tracks:
                say(f"  {number} {names.get(number, '')}", file=sys.stderr)
        share = "" if recall is None else f"; {recall:.1%} of first hits are those of exact search"
        say(
            f"{len(problems)} problems{share}"
            if problems
            else f"all is well with {database.num_tracks()} tracks{share}"
        )
    return 1 if problems else 0


def _repair(args: argparse.Namespace) -> int:
    from confp_jax.library.open import open_database
    from confp_jax.library.repair import repair

    database, embedder = open_database(args.db, None)
    with reporting("repairing") as report:
        results = repair(database, embedder, folders=args.folders, drop=args.drop, report=report)
    num_failed = sum(result.status == "failed" for result in results)
    if args.json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        for result in results:
            say(
                f"failed {result.error}" if result.error else f"{result.status} {result.path}",
                file=sys.stderr if result.error else sys.stdout,
            )
        say(f"{len(results) - num_failed} of {len(results)} damaged tracks are in order")
    return status(num_failed, max(len(results), 1))


def _merge(args: argparse.Namespace) -> int:
    from confp_jax.database import Database
    from confp_jax.database.merge import merge_databases
    from confp_jax.library.maintenance import open_other

    database = Database(args.db)
    with _counting("merging") as report:
        merged = merge_databases(database, open_other(args.other, database), report=report)
    _print_added(args, merged, database.num_tracks())
    return _left_out(merged.damaged, merged.num_added + merged.num_there)


def _reindex(args: argparse.Namespace) -> int:
    from confp_jax.database import Database
    from confp_jax.fingerprint.embedder import load_encoder
    from confp_jax.library.open import CALIBRATION_SETTING
    from confp_jax.library.reindex import reindex

    database = Database(args.db)
    was_calibrated = database.setting(CALIBRATION_SETTING) is not None
    with reporting("reindexing") as report:
        results = reindex(
            database, load_encoder(args.model), prune=args.prune, force=args.force, report=report
        )
    failed = sum(result.status == "failed" for result in results)
    swapped = not failed or args.prune
    if args.json:
        print_json(
            {"swapped": swapped, "tracks": [dataclasses.asdict(result) for result in results]}
        )
    elif swapped:
        say(f"{args.db} now uses model {database.model_id.name}, {database.num_tracks()} tracks")
    else:
        say(f"{failed} tracks could not be fingerprinted, so {args.db} still has its old model: "
        "bring their files back and "
              "run this again; or --prune removes them", file=sys.stderr)  # fmt: skip
    if swapped and was_calibrated:
        say(
            f"{args.db}: its threshold was fitted with the old model; run `confp calibrate "
            f"{args.db}` again",
            file=sys.stderr,
        )
    return 0 if swapped else 1


def _export(args: argparse.Namespace) -> int:
    if args.onnx:
        return _export_model(args)
    if args.out is None or args.int8:
        text = "name the Parquet file, or the ONNX file with --onnx; --int8 belongs to --onnx"
        say(f"error: {text}", file=sys.stderr)
        return 2
    from confp_jax.database import Database

    database = Database(args.source)
    try:
        from confp_jax.library.parquet import export_database
    except ImportError:
        say(_PARQUET_HELP, file=sys.stderr)
        return 1
    with _counting("exporting") as report:
        num_tracks, damaged = export_database(database, args.out, report=report)
    if args.json:
        print_json({"out": str(args.out), "num_tracks": num_tracks, "damaged": damaged})
    else:
        say(f"{num_tracks} tracks in {args.out}")
    return _left_out(damaged, num_tracks)


def _export_model(args: argparse.Namespace) -> int:
    if args.out is not None:
        say("error: --onnx names the file; leave OUT out", file=sys.stderr)
        return 2
    if not args.onnx.absolute().parent.is_dir():
        say(f"error: {args.onnx}: there is no folder for it; make it first", file=sys.stderr)
        return 1
    try:
        from confp_jax.model.onnx_export import export_model
    except ImportError as error:
        say(f"error: {error.name} is missing; {_JAX_HELP}", file=sys.stderr)
        return 1
    weights_hash = export_model(args.source, args.onnx, is_int8=args.int8)
    size = args.onnx.stat().st_size
    if args.json:
        print_json({"out": str(args.onnx), "identity": weights_hash, "num_bytes": size})
    else:
        say(f"{args.onnx}: {size / 1e6:.1f} MB, weights hash {weights_hash}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from confp_jax.database import Database

    try:
        from confp_jax.library.parquet import file_stamp, find_files, import_files
    except ImportError:
        say(_PARQUET_HELP, file=sys.stderr)
        return 1
    files = find_files(args.files)
    exists = (args.db / "catalogue.sqlite").exists()
    database = Database(args.db) if exists else Database.create(args.db, file_stamp(files[0]))
    with _counting("importing") as report:
        imported = import_files(database, files, report=report)
    _print_added(args, imported, database.num_tracks())
    for reason in imported.refused:
        say(f"failed {reason}", file=sys.stderr)
    num_sound = imported.num_added + imported.num_there
    return status(len(imported.refused), len(imported.refused) + num_sound)


def _print_added(args: argparse.Namespace, done: Any, num_tracks: int) -> None:
    if args.json:
        print_json(dataclasses.asdict(done) | {"num_tracks": num_tracks})
    else:
        say(
            f"{done.num_added} added, {done.num_there} already there; {args.db} now holds "
            f"{num_tracks} tracks"
        )


def _left_out(damaged: Sequence[str], num_others: int) -> int:
    """Prints which tracks were not copied, and returns the exit status."""
    for name in damaged:
        say(f"failed {name}: its fingerprints are damaged and were not copied", file=sys.stderr)
    return status(len(damaged), len(damaged) + num_others)


@contextmanager
def _counting(text: str) -> Iterator[Callable[[int, int], None]]:
    with progress(text) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _index(text: str) -> str:
    from confp_jax.index import kinds

    if kinds.find_kind(text) is None:
        known = ", ".join(kind.usage for kind in kinds.ALL)
        raise argparse.ArgumentTypeError(f"{text}: expected one of {known}")
    return milvus_address(text) if kinds.is_remote(text) else text


def _recall(text: str) -> float:
    value = float(text)
    if not 0.5 <= value < 1:
        raise argparse.ArgumentTypeError(
            f"{text} must be at least 0.5 and below 1 (`--index exact` finds everything)"
        )
    return value
