"""`confp watch`: a database that follows its folders."""

import argparse
import contextlib
import dataclasses
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator

from confp_jax.cli.monitoring import on_stop
from confp_jax.cli.output import Commands, Output, positive, say


def register(commands: Commands) -> None:
    """Declares the command."""
    watch = commands.add(
        "watch",
        _watch,
        "index folders and follow their changes until stopped (extra `watch`)",
        model=True,
        examples="""\
  confp watch music.db ~/Music           what appears is indexed, what moves keeps its fingerprints
  confp watch music.db /nas/a /nas/b --poll     network folders, which give no events
  confp watch music.db ~/Music --remove --json  one JSON object a line""",
    )
    watch.add_argument(
        "folders", type=pathlib.Path, nargs="+", metavar="FOLDER", help="a folder of music"
    )
    watch.add_argument(
        "--remove", action="store_true", help="remove the tracks whose files are gone"
    )
    watch.add_argument(
        "--poll",
        action="store_true",
        help="look at the files every 2 s instead of waiting for the file system's events",
    )
    watch.add_argument(
        "--settle",
        type=positive,
        default=3.0,
        metavar="S",
        help="how long a file must be unchanged to count as completely written (3)",
    )


def _watch(args: argparse.Namespace) -> int:
    for folder in args.folders:
        if not folder.is_dir():
            say(f"error: {folder}: no such folder; create it or mount its disk", file=sys.stderr)
            return 1
    try:
        from confp_jax.library.watch import Watch
    except ModuleNotFoundError as error:
        say(f"error: {error}; install confp_jax's extra `watch`", file=sys.stderr)
        return 1
    from confp_jax.library.open import open_or_create

    database, embedder = open_or_create(args.db, args.model)
    options = {"remove": args.remove, "poll": args.poll, "settle_s": args.settle}
    watch = Watch(database, embedder, args.folders, **options)
    folders = ", ".join(map(str, args.folders))
    say(f"watching {folders} for {args.db}; Ctrl-C stops", file=sys.stderr)
    output = Output(is_alone=False)  # the database has it all
    with contextlib.suppress(KeyboardInterrupt), _stopped_by_kill():
        for added in watch.run(threading.Event()):
            if args.json:
                output.json_line(dataclasses.asdict(added))
            else:
                reason = f": {added.error}" if added.error else ""
                output.say(f"{added.status} {added.path}{reason}")
    return 0


@contextlib.contextmanager
def _stopped_by_kill() -> Iterator[None]:
    """Lets `kill` and the end of a terminal do what Ctrl-C does: what was done is kept."""
    before = on_stop(signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
