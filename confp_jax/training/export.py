"""Exports the encoder of a training run for inference: the encoder alone, in half the size.

python -m confp_jax.training.export runs/edge my_model
confp add music.db ~/Music --model my_model
"""

import argparse
import contextlib
import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence

from etils import epath

from confp_jax.config import TrainConfig
from confp_jax.errors import UserError
from confp_jax.files import RUN_LOCK, one_process
from confp_jax.model.addresses import is_remote
from confp_jax.model.remote import written_there
from confp_jax.model.weights import (
    EncoderState,
    absolute_path,
    hash_weights,
    load_trained_encoder,
    save_encoder,
)

_MODEL = "checkpoint"
_UNFINISHED = "checkpoint.part"
_MARK = "commit_success.txt"  # of a checkpoint that is whole


class ModelInUseError(UserError):
    """Another process writes a model to this folder."""


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
        with new_model(args.out):
            config, state = load_trained_encoder(args.run)
            print(write_model(args.out, config, state, dtype=args.dtype))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def new_model(out: epath.PathLike) -> Iterator[None]:
    """Holds a folder for the model that is to be written to it; in a bucket it only looks.

    Raises:
      FileExistsError: there is a model.
      ModelInUseError: another process writes one.
    """
    _refuse_model(out)
    if is_remote(absolute_path(out)):
        yield
        return

    def in_use(by: str) -> UserError:
        return ModelInUseError(
            f"{out} is being written{by}; wait until it ends, or name another folder"
        )

    with one_process(pathlib.Path(out) / RUN_LOCK, in_use):
        _refuse_model(out)
        yield


def _refuse_model(out: epath.PathLike) -> None:
    there = absolute_path(out) / _MODEL
    is_there = (there / _MARK).exists() if is_remote(there) else there.exists()
    if is_there:
        raise FileExistsError(f"{there} exists; name another folder")


def write_model(
    out: epath.PathLike, config: TrainConfig, state: EncoderState, *, dtype: str = "float16"
) -> str:
    """Writes OUT/checkpoint, an encoder for inference, whole or not at all; returns what was
    written, in words.

    Raises:
      FileExistsError: there is a model.
    """
    _refuse_model(out)
    config = dataclasses.replace(
        config, init_from="", teacher="", data=dataclasses.replace(config.data, dir="")
    )
    with written_there(out, last=_MARK) as folder:
        for left in folder.glob(f"{_UNFINISHED}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        num_bytes = _write(folder / _UNFINISHED, config, state, dtype)
        (folder / _UNFINISHED).rename(folder / _MODEL)
    config, state = load_trained_encoder(absolute_path(out) / _MODEL)
    weights_hash = hash_weights(config.model, state)
    return f"{out}: {config.name}, {num_bytes / 1e6:.1f} MB, weights hash {weights_hash}"


def _write(target: pathlib.Path, config: TrainConfig, state: EncoderState, dtype: str) -> int:
    save_encoder(target, config, state, dtype=dtype)
    # Orbax writes the folder's name into it and asks only whether it is there: no path of this
    # machine travels with a model.
    (target / _MARK).write_text("Checkpoint commit was successful.\n")
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
