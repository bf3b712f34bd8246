"""`confp models` and `confp embed`: the encoders, without a database."""

import argparse
import pathlib
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

from confp_jax.cli.cue_sheet import check_writable
from confp_jax.cli.output import Commands, print_json, say, status
from confp_jax.texts import shown_bytes


def register(commands: Commands) -> None:
    """Declares the commands."""
    commands.add("models", _models, "list the models that ship", db=False)
    embed = commands.add(
        "embed",
        _embed,
        "compute fingerprints, 300 ms apart, without a database",
        model=True,
        db=False,
    )
    embed.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE", help="audio files")
    embed.add_argument(
        "--out",
        type=pathlib.Path,
        required=True,
        metavar="X.npz",
        help="the file to write: an array [N, dims] for each audio file",
    )


def _models(args: argparse.Namespace) -> int:
    from confp_jax.fingerprint.embedder import DEFAULT_MODEL
    from confp_jax.model.shipped import model_card, shipped_models

    cards = [
        {"name": name, "default": name == DEFAULT_MODEL} | model_card(name)
        for name in shipped_models()
    ]
    if args.json:
        print_json(cards)
    for card in [] if args.json else cards:
        say(
            f"{card['name']}{' (default)' if card['default'] else ''}: "
            f"{card.get('summary', 'no card')}"
        )
    return 0


def _embed(args: argparse.Namespace) -> int:
    from confp_jax.audio.decode import DecodeError, decode
    from confp_jax.audio.errors import Losses
    from confp_jax.fingerprint.embedder import DEFAULT_MODEL, HOP_S, load_encoder
    from confp_jax.fingerprint.files import reason
    from confp_jax.fingerprint.fingerprints import AudioError
    from confp_jax.library.searcher import length_notes

    if not args.out.parent.is_dir():
        say(
            f"error: {args.out}: there is no folder {args.out.parent}; make it first",
            file=sys.stderr,
        )
        return 1
    out = args.out if args.out.suffix == ".npz" else args.out.with_name(args.out.name + ".npz")
    check_writable(out)
    embedder = load_encoder(args.model or DEFAULT_MODEL)
    arrays: dict[str, Any] = {}
    summary: list[dict[str, Any]] = []
    for path in args.files:
        try:
            losses = Losses()
            audio = decode(path, sample_rate_hz=embedder.sample_rate_hz, losses=losses)
            found = embedder.fingerprint(audio.samples)
        except (DecodeError, AudioError) as error:
            summary.append({"file": str(path), "error": reason(path, error)})
            say(f"failed {reason(path, error)}", file=sys.stderr)
            continue
        for note in length_notes(found.duration_s, embedder) + losses.notes():
            say(f"note: {path}: {note}", file=sys.stderr)
        summary.append(
            {
                "file": str(path),
                "num_fingerprints": len(found.vectors),
                "segment_s": found.segment_s,
            }
        )
        arrays[str(path)] = found.vectors
    if arrays:
        _write_npz(out, arrays)
    if args.json:
        print_json({"out": str(out), "model": embedder.name, "hop_s": HOP_S, "files": summary})
    else:
        place = f" in {out}" if arrays else ": nothing was written"
        say(f"{sum(len(a) for a in arrays.values())} fingerprints of {len(arrays)} files{place}")
    return status(len(args.files) - len(arrays), len(args.files))


def _write_npz(out: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes an .npz with any names: `np.savez` keeps some ("file", "allow_pickle") for itself."""
    import numpy as np

    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{shown_bytes(name)}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
