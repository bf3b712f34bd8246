"""`confp`: parse, call, print. No logic."""

import argparse
import dataclasses
import io
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import confp_jax

_EXAMPLES = """examples:
  confp add music.db ~/Music             index a folder (a second run adds only what is new)
  confp identify music.db clip.wav       which track is it, and where in it?
  confp identify music.db *.wav --json   the same for programs
  confp list music.db                    what is in the database
  confp models                           the models that ship
  confp embed clip.wav --out clip.npz    fingerprints as arrays
"""
# Errors that a user can cause, by name: their classes live beside JAX, which must not load for --help.
_USER_ERRORS = ("DatabaseError", "UnknownModelError", "CheckpointError", "DecodeError", "AudioError")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 all well, 1 nothing done, 2 wrong usage, 3 some files failed."""
    args = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a file name that is no UTF-8 must not break the output
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return args.run(args)
    except ValueError as error:
        if type(error).__name__ not in _USER_ERRORS:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `confp list DB | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _add(args: argparse.Namespace) -> int:
    from confp_jax.retrieval import identify

    database, embedder = identify.open_or_create(args.db, args.model)
    with _progress("adding") as progress:
        task = progress.add_task("adding", total=None)

        def report(added: identify.Added, total: int) -> None:
            progress.update(task, advance=1, total=total)
            if added.status == "failed":
                progress.console.print(f"failed {added.error}", highlight=False, markup=False, soft_wrap=True)

        results = identify.add_paths(database, embedder, args.paths, report=report)
    failed = sum(r.status == "failed" for r in results)
    if args.json:
        _print_json([dataclasses.asdict(result) for result in results])
    else:
        added = [r for r in results if r.status == "added"]
        unchanged = sum(r.status == "unchanged" for r in results)
        hours = sum(r.duration_s for r in added) / 3600
        print(f"{len(added)} added ({hours:.2f} h, {sum(r.num_fingerprints for r in added)} fingerprints), "
              f"{unchanged} already there, {failed} failed; {args.db} now holds {len(database.tracks())} tracks")  # fmt: skip
        if not results:
            print("no audio files found; name files, or folders that hold wav, flac, mp3, ogg, opus, m4a, ...", file=sys.stderr)
    return _status(failed, len(results))


def _identify(args: argparse.Namespace) -> int:
    from confp_jax.retrieval import identify

    database, embedder = identify.open_database(args.db, args.model)
    answers = []
    for answer in identify.identify_files(database, embedder, args.clips):
        answers.append(answer)
        if not args.json:
            _print_answer(answer)
    if args.json:
        _print_json([dataclasses.asdict(answer) for answer in answers])
    return _status(sum(bool(answer.error) for answer in answers), len(answers))


def _list(args: argparse.Namespace) -> int:
    from confp_jax.retrieval.database import Database

    database = Database(args.db)
    tracks = database.tracks()
    if args.json:
        _print_json([{k: v for k, v in dataclasses.asdict(t).items() if k != "first_row"} for t in tracks])
        return 0
    rows = [(t.name, _clock(t.duration_s), t.path) for t in tracks]
    _print_table(("track", "length", "path"), rows)
    print(f"{len(tracks)} tracks, {sum(t.duration_s for t in tracks) / 3600:.2f} h, model {database.stamp.name}")
    return 0


def _models(args: argparse.Namespace) -> int:
    from confp_jax.retrieval.embed import DEFAULT_MODEL, model_card, shipped_models

    cards = [{"name": name, "default": name == DEFAULT_MODEL} | model_card(name) for name in shipped_models()]
    if args.json:
        _print_json(cards)
    for card in [] if args.json else cards:
        print(f"{card['name']}{' (default)' if card['default'] else ''}: {card.get('summary', 'no card')}")
    return 0


def _embed(args: argparse.Namespace) -> int:
    from confp_jax.audio.decode import DecodeError, decode
    from confp_jax.retrieval.embed import DEFAULT_MODEL, HOP_S, AudioError, load_encoder
    from confp_jax.retrieval.identify import length_notes, reason

    if not args.out.parent.is_dir():
        print(f"error: {args.out}: there is no folder {args.out.parent}; make it first", file=sys.stderr)
        return 1
    embedder = load_encoder(args.model or DEFAULT_MODEL)
    arrays: dict[str, Any] = {}
    summary: list[dict[str, Any]] = []
    for path in args.files:
        try:
            audio = decode(path, sample_rate_hz=embedder.sample_rate_hz)
            found = embedder.fingerprint(audio.samples)
        except (DecodeError, AudioError) as error:
            summary.append({"file": str(path), "error": reason(path, error)})
            print(f"failed {reason(path, error)}", file=sys.stderr)
            continue
        for note in length_notes(found, embedder):
            print(f"note: {path}: {note}", file=sys.stderr)
        summary.append({"file": str(path), "num_fingerprints": len(found.vectors), "segment_s": found.segment_s})
        arrays[str(path)] = found.vectors
    out = args.out if args.out.suffix == ".npz" else args.out.with_name(args.out.name + ".npz")
    if arrays:
        _write_npz(out, arrays)
    if args.json:
        _print_json({"out": str(out), "model": embedder.name, "hop_s": HOP_S, "files": summary})
    else:
        place = f" in {out}" if arrays else ": nothing was written"
        print(f"{sum(len(a) for a in arrays.values())} fingerprints of {len(arrays)} files{place}")
    return _status(len(args.files) - len(arrays), len(args.files))


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "confp", description="Identify music from short, noisy excerpts.", epilog=_EXAMPLES, formatter_class=formatter
    )
    parser.add_argument("--version", action="version", version=f"confp_jax {confp_jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model_help = "a shipped model (see `confp models`) or a checkpoint folder; default: the database's own, else edge"

    def command(name: str, run: Any, text: str, *, model: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text + ".")
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print JSON instead of text")
        if model:
            sub.add_argument("--model", metavar="MODEL", help=model_help)
        return sub

    add = command("add", _add, "add music to a database, which is made if it is not there", model=True)
    add.add_argument("db", type=pathlib.Path, metavar="DB", help="the database's folder")
    add.add_argument("paths", type=pathlib.Path, nargs="+", metavar="PATH", help="audio files or folders of them")
    identify = command("identify", _identify, "say which track each clip is from, and where in it", model=True)
    identify.add_argument("db", type=pathlib.Path, metavar="DB", help="the database's folder")
    identify.add_argument("clips", type=pathlib.Path, nargs="+", metavar="CLIP", help="audio of 1 s or more; 3 s are enough")
    listing = command("list", _list, "list the tracks of a database")
    listing.add_argument("db", type=pathlib.Path, metavar="DB", help="the database's folder")
    command("models", _models, "list the models that ship")
    embed = command("embed", _embed, "compute fingerprints, 300 ms apart, without a database", model=True)
    embed.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE", help="audio files")
    embed.add_argument("--out", type=pathlib.Path, required=True, metavar="X.npz", help="an array [N, 128] for each file")
    return parser


def _print_answer(answer: Any) -> None:
    if answer.error:
        print(f"failed {answer.error}", file=sys.stderr)
        return
    for note in answer.notes:
        print(f"note: {answer.query}: {note}", file=sys.stderr)
    best = answer.matches[0] if answer.matches else None
    if answer.verdict == "match" and best:
        print(f"{answer.query}: {best.track} at {_clock(best.offset_s)} (score {best.score:.2f}, margin {answer.margin:.2f})")
    elif best:
        print(f"{answer.query}: unknown (nearest: {best.track}, score {best.score:.2f}, margin {answer.margin:.2f})")
    else:
        print(f"{answer.query}: unknown")


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 10_000  # a pipe gets whole lines
    Console(width=width, highlight=False, markup=False).print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _progress(text: str) -> Progress:
    console = Console(stderr=True)
    columns = TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True)


def _clock(seconds: float) -> str:
    """83.4 s as 1:23.4."""
    tenths = round(float(f"{abs(seconds):.1f}") * 10)
    sign = "-" if seconds < 0 and tenths else ""
    return f"{sign}{tenths // 600}:{tenths % 600 / 10:04.1f}"


def _write_npz(out: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz with any names: `np.savez` keeps some ("file", "allow_pickle") for itself."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") + ".npy"
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _status(num_failed: int, num: int) -> int:
    return 0 if not num_failed and num else 1 if num_failed == num else 3


if __name__ == "__main__":
    sys.exit(main())
