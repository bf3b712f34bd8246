"""`confp identify`: what is asked of a database."""

import argparse
import dataclasses
import pathlib

from confp_jax.cli.output import Commands, print_answer, print_json, status


def register(commands: Commands) -> None:
    """Declares the commands."""
    identify = commands.add(
        "identify",
        _identify,
        "say which track each clip is from, and where in it",
        model=True,
        examples="""\
  confp identify music.db clip.wav
  confp identify music.db *.wav --json   for programs""",
    )
    identify.add_argument("clips", type=pathlib.Path, nargs="+", metavar="CLIP", help="audio of 1 s or more; 3 s are enough")


def _identify(args: argparse.Namespace) -> int:
    from confp_jax.retrieval import identify

    database, embedder = identify.open_database(args.db, args.model)
    answers = []
    for answer in identify.identify_files(database, embedder, args.clips):
        answers.append(answer)
        if not args.json:
            print_answer(answer)
    if args.json:
        print_json([dataclasses.asdict(answer) for answer in answers])
    return status(sum(bool(answer.error) for answer in answers), len(answers))
