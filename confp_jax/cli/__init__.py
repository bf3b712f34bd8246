"""`confp`: parse, call, print. No logic."""

import argparse
import contextlib
import io
import logging
import os
import pathlib
import sys
from collections.abc import Sequence

import confp_jax
from confp_jax.cli import (
    library,
    maintenance,
    models,
    queries,
    radio,
    recurring,
    serve,
    watching,
)
from confp_jax.cli.output import Commands, drop_output, say
from confp_jax.errors import UserError
from confp_jax.texts import PlainFormatter

_EXAMPLES = """examples:
  confp add music.db ~/Music             index a folder (a second run adds only what is new)
  confp identify music.db clip.wav       which track is it, and where in it?
  confp identify music.db *.wav --json   the same for programs
  confp watch music.db ~/Music           index a folder and follow its changes
  confp monitor music.db radio.mp3       a cue sheet of a long recording or stream
  confp radio stations.yaml              what many stations play, day after day
  confp compare a.mp3 b.mp3              the sections that two recordings share
  confp recurring calls/                 recordings that are the same message
  confp list music.db                    what is in the database
  confp remove music.db 17               remove a track
  confp COMMAND --help                   update, info, compact, verify, merge, ...
  confp models                           the models that ship
  confp serve music.db                   a page for the microphone, and JSON for programs
  confp embed clip.wav --out clip.npz    fingerprints as arrays
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 all well, 1 nothing done, 2 wrong usage, 3 some
    files failed.
    """
    args = _parser().parse_args(argv)
    _keep_compiled_programs()
    if getattr(args, "engine", None):
        os.environ["CONFP_ENGINE"] = args.engine  # also of worker processes
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # a file name that is no UTF-8 must not break the output
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _log_plainly()
    try:
        status = args.run(args)
        sys.stdout.flush()  # a full disk is noticed here and not after the end
        return status
    except UserError as error:
        say(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `confp list DB | head`
        drop_output()
        return 0
    except OSError as error:  # of a disk, where no command knows more about it
        drop_output()
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _log_plainly() -> None:
    """Shows the library's warnings on one line each, whatever names are in them."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())


def _keep_compiled_programs() -> None:
    """Sets a cache for compiled programs, so that JAX compiles a model once for all runs. It lies
    with the user's other caches, unless the environment says otherwise.
    """
    # Without a place to keep them (or a home), programs are compiled in every run.
    with contextlib.suppress(OSError, RuntimeError):
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        folder = home / "confp_jax" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "confp",
        description="Identify music from short, noisy excerpts.",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"confp_jax {confp_jax.__version__}")
    commands = Commands(parser)
    for module in (
        *(library, queries, recurring, maintenance, models),
        *(serve, watching, radio),
    ):
        module.register(commands)
    return parser
