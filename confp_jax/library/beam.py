"""Fingerprints of a huge collection by an Apache Beam pipeline: audio files in, Parquet files out,
which `confp import` reads.

    python -m confp_jax.library.beam /mnt/music --out /mnt/fingerprints \\
        --beam=--runner=DataflowRunner --beam=--project=...
    confp import music.db /mnt/fingerprints

The folders must be seen under the same names by all workers (a shared or mounted file system).
Here, with two processes:

    --beam=--runner=FnApiRunner --beam=--direct_num_workers=2
    --beam=--direct_running_mode=multi_processing

An element is a shard: some files, whose fingerprints become one Parquet file named after their
paths. Interrupted, the same command continues with the shards that are not there.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from confp_jax.audio.folders import find_audio
from confp_jax.database import DatabaseError, NewTrack
from confp_jax.files import RUN_LOCK, one_process
from confp_jax.fingerprint.embedder import DEFAULT_MODEL, Embedder, load_encoder
from confp_jax.fingerprint.files import read_files
from confp_jax.library.parquet import file_stamp, write_fingerprints
from confp_jax.texts import parse_json

Shard = tuple[str, ...]  # absolute paths


def fingerprint_all(
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    model: str,
    files_per_shard: int,
    beam: Sequence[str],
) -> list[dict[str, str]]:
    """Fingerprints files and the audio files of folders into `out`; what failed, as {"path",
    "error"}.

    Args:
      model: a shipped model, or a checkpoint folder that all workers see.
      beam: options of Beam's pipeline (`--runner=...` and its fellows).

    Raises:
      DatabaseError: `out` holds another model's fingerprints, or another run writes to it.
    """
    with one_process(out / RUN_LOCK, functools.partial(_in_use, out)):
        return _fingerprint_all(paths, out, model, files_per_shard, beam)


def _in_use(out: pathlib.Path, by: str) -> DatabaseError:
    return DatabaseError(
        f"{out} is being written to{by}; wait until that run ends, stop it, or name another folder"
    )


def _fingerprint_all(
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    model: str,
    files_per_shard: int,
    beam: Sequence[str],
) -> list[dict[str, str]]:
    _check_model(out, model)
    files = sorted(str(path.absolute()) for path in find_audio(paths).files)
    shards = [
        tuple(files[first : first + files_per_shard])
        for first in range(0, len(files), files_per_shard)
    ]
    todo = [shard for shard in shards if _failures(out, shard) is None]
    if todo:
        with apache_beam.Pipeline(options=PipelineOptions(list(beam))) as pipeline:
            elements = pipeline | "Shards" >> apache_beam.Create(todo) | apache_beam.Reshuffle()
            _ = elements | "Fingerprint" >> apache_beam.Map(
                functools.partial(write_shard, out=str(out.absolute()), model=model)
            )
    return [failure for shard in shards for failure in _failures(out, shard) or ()]


def write_shard(shard: Shard, *, out: str, model: str) -> str:
    """Writes one shard's fingerprints and then, which makes it complete, the list of its files that
    failed.
    """
    embedder = _encoder(model)
    folder = pathlib.Path(out)
    failures: list[dict[str, str]] = []
    path = folder / f"{_name(shard)}.parquet"
    write_fingerprints(
        path,
        embedder.model_id,
        _tracks(shard, embedder, failures),
        dim=embedder.config.encoder.embedding_dim,
    )
    partial = _failures_file(folder, shard).with_suffix(".part")
    partial.write_text("".join(json.dumps(failure) + "\n" for failure in failures))
    partial.replace(_failures_file(folder, shard))
    return str(path)


def _failures(out: pathlib.Path, shard: Shard) -> list[dict[str, str]] | None:
    """Returns a shard's files that failed, None where it is not complete or the list is damaged."""
    try:
        lines = _failures_file(out, shard).read_text().splitlines()
        found = [parse_json(line) for line in lines]
        return [{"path": str(one["path"]), "error": str(one["error"])} for one in found]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_model(out: pathlib.Path, model: str) -> None:
    """Checks that the folder holds fingerprints of this model alone: a run with other weights
    cannot continue one that was interrupted.
    """
    earlier = next(out.glob("*.parquet"), None)
    model_id = _encoder(model).model_id
    if earlier and file_stamp(earlier).weights_hash != model_id.weights_hash:
        raise DatabaseError(
            f"{out} holds fingerprints of model {file_stamp(earlier).weights_hash}, not of "
            f"{model_id.name} ({model_id.weights_hash}): name another folder, or remove this one"
        )


@functools.lru_cache(maxsize=1)
def _encoder(model: str) -> Embedder:
    """Loads the model once in each worker process."""
    return load_encoder(model)


def _tracks(shard: Shard, embedder: Embedder, failures: list[dict[str, str]]) -> Iterator[NewTrack]:
    seen: set[str] = set()
    for read in read_files(
        embedder, map(pathlib.Path, shard), wanted=lambda file: file.sha256 not in seen
    ):
        if read.error:
            failures.append({"path": str(read.path), "error": read.error})
        if read.track:
            seen.add(read.track.sha256)
            yield read.track


def _name(shard: Shard) -> str:
    return hashlib.sha256(json.dumps(shard).encode()).hexdigest()[:16]


def _failures_file(out: pathlib.Path, shard: Shard) -> pathlib.Path:
    return out / f"{_name(shard)}.failures.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if a file failed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths", type=pathlib.Path, nargs="+", metavar="PATH", help="audio files or folders of them"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="the folder for the Parquet files"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a shipped model or a checkpoint folder (default: %(default)s)",
    )
    parser.add_argument(
        "--files-per-shard",
        type=int,
        default=256,
        help="what one element is (default: %(default)s)",
    )
    parser.add_argument(
        "--beam",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option of Beam's pipeline, repeatable",
    )
    options = parser.parse_args(arguments)
    if options.files_per_shard < 1:
        parser.error("--files-per-shard must be at least 1")
    try:
        failures = fingerprint_all(
            options.paths,
            options.out,
            model=options.model,
            files_per_shard=options.files_per_shard,
            beam=options.beam,
        )
    except (DatabaseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for failure in failures:
        print(f"failed {failure['error']}", file=sys.stderr)
    print(f"{len(failures)} failed; the rest is in {options.out}: `confp import DB {options.out}`")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
