"""Fits the linear part of an encoder in closed form, and puts a trained conformer beside it.

    python -m confp_jax.training.fit_projection prepared/fma my_model --beside edge
    confp add music.db ~/Music --model my_model

The projection keeps those directions of a segment's local contrast in which clean music varies
most, compared with what changes when it is played by a loudspeaker and recorded in a room
(`data/replay.py`): the eigenvectors of clean covariance over the covariance of (clean minus
replayed). Nothing is trained step by step: 700 tracks take five minutes on two cores.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.linalg
from flax import nnx
from jaxtyping import Float32, Float64
from rich.console import Console
from rich.progress import track as progress

from confp_jax.audio.contrast import clip_contrast
from confp_jax.config import AudioConfig, EncoderConfig, ModelConfig, ProjectionConfig, TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.mixing import SOUNDS_FOLDER, repeated_crop
from confp_jax.data.records import DatasetError
from confp_jax.data.replay import ReplayConfig, draw_replay, replay
from confp_jax.model.encoder import Encoder
from confp_jax.model.weights import EncoderState, load_encoder_state
from confp_jax.training.export import new_model, write_model
from confp_jax.training.fine_tune import source_folder

_SEGMENTS = 30  # of each clip and copy
_JITTER_FRAMES = 2  # by which a replayed segment may begin earlier or later
_MOST_S = 60.0  # of a track
_RIDGE = 1e-2  # of the mean variance, added to every direction's noise
_EMPHASIS = 0.1  # a direction counts (1 - noise / signal) to this power
_ROWS_AT_ONCE = 2_000
_THREADS = 2
# Louder surroundings than a conformer is trained with: a projection that is fitted to them finds
# more of real recordings (docs/research/experiments.md).
_REPLAY = ReplayConfig(ambience_snr_db=(-20.0, 8.0), noise_p=0.7, noise_snr_db=(-12.0, 12.0))


@dataclasses.dataclass(frozen=True)
class Directions:
    """Directions of local contrast, best first: `kernel` [values, dims] projects a centred segment
    less `mean`.
    """

    kernel: Float32[np.ndarray, "V D"]
    mean: Float32[np.ndarray, " V"]
    ratios: Float64[
        np.ndarray, " D"
    ]  # variance of clean music over half that of what replaying changes


class Covariances:
    """Sums over pairs of clean and replayed segments."""

    def __init__(self, num_values: int):
        self._clean = np.zeros((num_values, num_values), np.float32)
        self._noise = np.zeros((num_values, num_values), np.float32)
        self._sum = np.zeros(num_values)
        self._num = 0

    def add(self, clean: Float32[np.ndarray, "n V"], replayed: Float32[np.ndarray, "n V"]) -> None:
        """Counts pairs of segments."""
        changed = clean - replayed
        self._clean += clean.T @ clean
        self._noise += changed.T @ changed
        self._sum += clean.sum(axis=0, dtype=np.float64)
        self._num += len(clean)

    def directions(self, dims: int) -> Directions:
        """The `dims` directions of greatest clean variance over half the variance of the change.

        Raises:
          ValueError: there are fewer values than directions, or no pairs.
        """
        num_values = len(self._sum)
        if not self._num or dims > num_values:
            raise ValueError(
                f"{dims} directions of {num_values} values from {self._num} pairs: expected pairs, "
                "and fewer"
            )
        mean = self._sum / self._num
        clean = self._clean.astype(np.float64) / self._num - np.outer(mean, mean)
        noise = self._noise.astype(np.float64) / (2 * self._num)
        noise += _RIDGE * np.trace(noise) / num_values * np.eye(num_values)
        found = scipy.linalg.eigh(clean, noise, subset_by_index=(num_values - dims, num_values - 1))
        ratios = np.flip(found[0])
        vectors = np.flip(found[1], axis=1)
        emphasis = np.maximum(1 - 1 / np.maximum(ratios, 1.0001), 1e-3) ** _EMPHASIS
        return Directions((vectors * emphasis).astype(np.float32), mean.astype(np.float32), ratios)


def fit_directions(
    source: ClipSource,
    config: ProjectionConfig,
    *,
    dims: int,
    num_copies: int,
    seed: int,
    console: Console,
) -> Directions:
    """Fits directions to the clean clips of a prepared split and to replayed copies of them.

    Args:
      source: the split; its dataset's sounds are the noise and the rooms.
      config: the features.
      dims: how many directions.
      num_copies: replayed copies of each clip.
      seed: of the draws.
      console: for progress.

    Raises:
      DatasetError: the dataset has no sounds.
    """
    sums = Covariances(config.num_frames * config.mel.num_mels)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        pairs = pool.map(
            lambda number: list(_pairs(source, number, config, num_copies, seed)),
            range(source.num_tracks),
        )
        for of_clip in progress(pairs, "replaying", total=source.num_tracks, console=console):
            waiting += of_clip
            if sum(len(clean) for clean, _ in waiting) >= _ROWS_AT_ONCE:
                sums.add(*(np.concatenate(side) for side in zip(*waiting, strict=True)))
                waiting = []
    if waiting:
        sums.add(*(np.concatenate(side) for side in zip(*waiting, strict=True)))
    console.print(f"{dims} directions of {config.num_frames} x {config.mel.num_mels} values ...")
    return sums.directions(dims)


def _pairs(
    source: ClipSource, number: int, config: ProjectionConfig, num_copies: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Centred segments of a track, and of replayed copies of it."""
    sounds = source.folder / SOUNDS_FOLDER
    rate_hz = source.summary.sample_rate_hz
    noises = ClipSource(sounds, "noise")
    rooms = ClipSource(sounds, "ir")
    record = number * (1 + source.summary.num_replicas)
    num_samples = source.row(record).num_samples
    first = max(0, (num_samples - round(_MOST_S * rate_hz)) // 2)
    samples = source.crop(record, first, num_samples - first).astype(np.float32) / 32768
    clean = clip_contrast(samples, config, sample_rate_hz=rate_hz)
    last = len(clean) - config.num_frames - _JITTER_FRAMES
    if last <= _JITTER_FRAMES:
        return
    for copy in range(num_copies):
        rng = np.random.default_rng((seed, number, copy))

        def noise(num: int, rng: np.random.Generator = rng) -> np.ndarray:
            chosen = int(rng.integers(len(noises)))
            start = int(rng.integers(noises.row(chosen).num_samples))
            return repeated_crop(noises, chosen, start, num).astype(np.float32)

        room = rooms[int(rng.integers(len(rooms)))].samples.astype(np.float32) / 32768
        heard = replay(
            samples,
            draw_replay(rng, _REPLAY),
            sample_rate_hz=rate_hz,
            room=room,
            noise=noise,
        )
        replayed = clip_contrast(heard, config, sample_rate_hz=rate_hz)
        starts = rng.integers(_JITTER_FRAMES, last, _SEGMENTS)
        moved = starts + rng.integers(-_JITTER_FRAMES, _JITTER_FRAMES + 1, _SEGMENTS)
        yield _segments(clean, starts, config), _segments(replayed, moved, config)


def _segments(
    contrast: Float32[np.ndarray, "T F"], starts: np.ndarray, config: ProjectionConfig
) -> Float32[np.ndarray, "n V"]:
    """Segments as rows of values, each less its mean (as `model/projection.py` has them)."""
    rows = np.stack([contrast[start : start + config.num_frames] for start in starts]).reshape(
        len(starts), -1
    )
    return rows - rows.mean(axis=1, keepdims=True)


def with_conformer(
    directions: Directions,
    config: ProjectionConfig,
    beside: tuple[ModelConfig, EncoderState] | None,
    *,
    segment_s: float,
    seed: int,
) -> tuple[TrainConfig, EncoderState]:
    """Returns the encoder of a projection, alone or with a trained conformer beside it.

    Each part has dimensions of its own, turned together at random: so all dimensions tell alike,
    and their signs alone are nearly as good (`--precision binary`).
    """
    dims = directions.kernel.shape[1]
    source, state = beside or (
        ModelConfig(encoder=EncoderConfig(embedding_dim=1, conv_norm="layer", dropout=0.0)),
        None,
    )
    num_conformer_dims = source.encoder.embedding_dim if beside else 0
    total = dims + num_conformer_dims
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(total, total)))[0].astype(
        np.float32
    )
    encoder_config = dataclasses.replace(source.encoder, embedding_dim=total, projection=config)
    context_s = source.audio.segment_s if beside else 0.0
    audio = AudioConfig(source.audio.sample_rate_hz, segment_s, context_s)
    made = TrainConfig(audio=audio, mel=source.mel, encoder=encoder_config)
    _, params, statistics = nnx.split(
        Encoder(encoder_config, num_mels=source.mel.num_mels, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    kernel = directions.kernel @ turned[:dims]
    values: dict[tuple[Any, ...], np.ndarray] = {("projection", "kernel"): kernel}
    values["projection", "bias"] = -directions.mean @ kernel
    if state is not None:
        old = {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state.params)}
        for name in ("kernel", "bias"):
            old["output", name] = old["output", name] @ turned[dims:]
        values = values | old
        statistics = state.statistics
    flat = [(path, leaf.replace(values[path])) for path, leaf in nnx.to_flat_state(params)]
    return made, EncoderState(nnx.from_flat_state(flat), statistics)


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(
        "python -m confp_jax.training.fit_projection", description=lines[0]
    )
    parser.add_argument(
        "data",
        type=pathlib.Path,
        help="a data set made by data_prep.make_train, with noise and rooms",
    )
    parser.add_argument(
        "out", type=pathlib.Path, help="folder for the model; --model OUT then uses it"
    )
    parser.add_argument(
        "--beside",
        default="",
        metavar="MODEL",
        help="a shipped model or checkpoint: its conformer is added",
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.8,
        help="of the projection beside a conformer (default: %(default)s)",
    )
    parser.add_argument(
        "--dims", type=int, default=512, help="of the projection (default: %(default)s)"
    )
    parser.add_argument(
        "--split", default="training", help="of the data set (default: %(default)s)"
    )
    parser.add_argument(
        "--copies", type=int, default=2, help="replayed copies of each clip (default: %(default)s)"
    )
    parser.add_argument("--name", default="", help="of the model (default: OUT's)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    return parser


def fit_model(args: argparse.Namespace, console: Console) -> tuple[TrainConfig, EncoderState]:
    """Returns the encoder that the command's arguments ask for.

    Raises:
      DatasetError, CheckpointError: the data set or the model beside cannot be used.
      ValueError: there are too few values or pairs.
    """
    beside = load_encoder_state(source_folder(args.beside)) if args.beside else None
    config = ProjectionConfig(share=args.share if beside else 1.0)
    source = ClipSource(args.data, args.split)
    rate_hz = beside[0].audio.sample_rate_hz if beside else AudioConfig().sample_rate_hz
    if source.summary.sample_rate_hz != rate_hz:
        raise DatasetError(
            f"{args.data} holds {source.summary.sample_rate_hz} Hz, the model hears {rate_hz} Hz"
        )
    directions = fit_directions(
        source, config, dims=args.dims, num_copies=args.copies, seed=args.seed, console=console
    )
    segment_s = config.num_frames * config.mel.hop_samples / rate_hz
    made, state = with_conformer(directions, config, beside, segment_s=segment_s, seed=args.seed)
    return dataclasses.replace(made, name=args.name or args.out.name), state


def main(argv: Sequence[str] | None = None) -> int:
    """Writes OUT/checkpoint; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.beside and not 0 < args.share < 1:
        parser.error(f"--share {args.share} must lie between 0 and 1")
    try:
        with new_model(args.out):
            print(write_model(args.out, *fit_model(args, Console(stderr=True))))
    except (ValueError, OSError) as error:  # a UserError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
