"""Exports the encoder of a training run for inference: the encoder alone, in half the size.

python -m confp_jax.training.export runs/edge my_model
confp add music.db ~/Music --model my_model
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from etils import epath

from confp_jax.config import TrainConfig
from confp_jax.model.remote import written_there
from confp_jax.model.weights import (
    CheckpointError,
    EncoderState,
    absolute_path,
    hash_weights,
    load_trained_encoder,
    save_encoder,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes OUT/checkpoint; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m confp_jax.training.export", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "run", help="a run's workdir (its newest checkpoint) or one step of it; may be gs://"
    )
    parser.add_argument("out", help="folder for the model, may be gs://; --model OUT then uses it")
    parser.add_argument(
        "--dtype",
        default="float16",
        choices=("float32", "float16", "bfloat16"),
        help="of the stored weights",
    )
    args = parser.parse_args(argv)
    try:
        config, state = load_trained_encoder(args.run)
        print(write_model(args.out, config, state, dtype=args.dtype))
    except (CheckpointError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def write_model(
    out: epath.PathLike, config: TrainConfig, state: EncoderState, *, dtype: str = "float16"
) -> str:
    """Writes OUT/checkpoint, an encoder for inference; returns what was written, in words.

    Raises:
      FileExistsError: there is a model.
    """
    there = absolute_path(out) / "checkpoint"
    if there.exists():
        raise FileExistsError(f"{there} exists; name another folder")
    config = dataclasses.replace(
        config, init_from="", teacher="", data=dataclasses.replace(config.data, dir="")
    )
    with written_there(out) as folder:
        num_bytes = _write(folder / "checkpoint", config, state, dtype)
    config, state = load_trained_encoder(there)
    weights_hash = hash_weights(config.model, state)
    return f"{out}: {config.name}, {num_bytes / 1e6:.1f} MB, weights hash {weights_hash}"


def _write(target: pathlib.Path, config: TrainConfig, state: EncoderState, dtype: str) -> int:
    save_encoder(target, config, state, dtype=dtype)
    # Orbax writes the folder's name into it and asks only whether it is there: no path of this
    # machine travels with a model.
    (target / "commit_success.txt").write_text("Checkpoint commit was successful.\n")
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
