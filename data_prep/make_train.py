"""Tracks to clean clips and precomputed replicas.

    python -m data_prep.make_train --config=configs/prepare.py:full \\
        --config.music_dir=fma_full ... --config.out=DIR

Killed or interrupted, start it again: complete shards stay. With --verify it reads everything
again instead.
"""

import contextlib
import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from confp_jax import command_line
from confp_jax.audio.decode import DecodeError
from confp_jax.data.mixing import SOUNDS_FOLDER
from confp_jax.data.records import (
    Clip,
    Credits,
    DatasetSummary,
    WrittenShard,
    shard_path,
    to_int16,
    write_dataset_metadata,
    write_shard,
)
from confp_jax.typed_config import ConfigError, from_mapping
from data_prep.augment import Chain, check_sources
from data_prep.config import PrepareConfig
from data_prep.parts import count_samples, read_middle
from data_prep.shards import (
    Runner,
    Shard,
    claim_folder,
    explains_a_full_disk,
    plan_shards,
    report_failures,
    write_manifest,
    write_shards,
)
from data_prep.sounds import Sounds, check_sounds, prepare_sounds, read_sound
from data_prep.sources import (
    check_present,
    credits,
    known_bad,
    one_run,
    output_folder,
    read_tracks,
    settings_json,
    sound_part,
)
from data_prep.tracks import Outcome, SourceError, Track, UnfitError
from data_prep.verify import verify

_NUM_MEASURED = 8  # tracks decoded for the forecast


def main(config: ConfigDict, values: flags.FlagValues) -> int:
    """Prepares the dataset that the configuration describes, or reads one again."""
    chosen = from_mapping(PrepareConfig, config)
    console = Console(stderr=True)
    of_chain = sorted(n for n in command_line.overridden(values) if n.startswith("chain."))
    if of_chain and not chosen.num_replicas:
        raise ConfigError(
            f"--config.{of_chain[0]} has no effect with num_replicas=0: set num_replicas, or draw "
            "while training (--config.data.mix of confp_jax.training.train)"
        )
    if values.verify:
        verify(pathlib.Path(chosen.out), console)
        return 0
    return prepare(chosen, console).exit_status


def prepare(config: PrepareConfig, console: Console, run: Runner | None = None) -> Outcome:
    """Writes the TFDS dataset `config.out`: for every track its clean clip and `num_replicas`
    replicas. Nothing is written before all that it reads was found.

    Raises:
      SourceError: a source cannot be used, the folder holds something else, or the disk is full.
    """
    tracks = [track for track in read_tracks(config) if track.split in config.splits]
    if not tracks:
        raise SourceError(
            f"{config.music_dir}: no track belongs to {', '.join(config.splits)}; add music, or "
            "set --config.splits"
        )
    check_present(tracks, config)
    if config.num_replicas:
        check_sources(config.chain, noise=bool(config.noise_dir), rooms=bool(config.ir_dir))
    check_sounds(config.noise_dir, config.ir_dir, {sound_part(split) for split in config.splits})
    out = output_folder(config.out)
    with explains_a_full_disk(out), one_run(out):
        return _prepare(config, tracks, out, console, run)


def _prepare(
    config: PrepareConfig,
    tracks: list[Track],
    out: pathlib.Path,
    console: Console,
    run: Runner | None,
) -> Outcome:
    sounds = {
        part: prepare_sounds(
            config.noise_dir,
            config.ir_dir,
            part,
            cache=out / ".sounds",
            sample_rate_hz=config.sample_rate_hz,
        )
        for part in sorted({sound_part(split) for split in config.splits})
    }
    settings = settings_json(config, tracks, [*sounds.values()])
    claim_folder(out, settings)
    shards = _plan(config, tracks, out, console)
    make = functools.partial(make_clips, config=config, sounds=sounds)
    splits, failures = write_shards(
        shards,
        make,
        sample_rate_hz=config.sample_rate_hz,
        bytes_per_track=expected_clip_s(tracks, config)
        * 2
        * config.sample_rate_hz
        * (1 + config.num_replicas),
        num_workers=config.num_workers,
        console=console,
        run=run,
    )
    outcome = report_failures([*known_bad(config), *failures], splits, out, console)
    if not outcome.num_clips:
        return outcome
    if "train" in sounds:
        write_sounds(sounds["train"], out / SOUNDS_FOLDER, sample_rate_hz=config.sample_rate_hz)
    write_manifest(out, shards, splits)
    _describe(config, tracks, settings, splits, out)
    written = [shard for shards in splits.values() for shard in shards]
    total_gb = sum(shard.num_bytes for shard in written) / 1e9
    console.print(f"{out}: {outcome.num_clips} clips, {total_gb:.2f} GB")
    return outcome


def _plan(
    config: PrepareConfig, tracks: list[Track], out: pathlib.Path, console: Console
) -> list[Shard]:
    """Returns the shards of all splits, and which tracks go into which."""
    shards: list[Shard] = []
    for split in config.splits:
        members = [track for track in tracks if track.split == split]
        console.print(f"{split}: {len(members)} tracks")
        shards += plan_shards(
            members, out, config.name, split, tracks_per_shard=config.tracks_per_shard
        )
    return shards


def _describe(
    config: PrepareConfig,
    tracks: list[Track],
    settings: str,
    splits: Mapping[str, Sequence[WrittenShard]],
    out: pathlib.Path,
) -> None:
    """Writes what TFDS and confp_jax know the data set by."""
    names = {str(track.track_id): track.name for track in tracks}
    albums = {str(track.track_id): track.album for track in tracks if track.album}
    subsets = {str(track.track_id): track.subset for track in tracks if track.subset}
    summary = DatasetSummary(
        config.name, config.sample_rate_hz, config.num_replicas, settings, names, albums, subsets
    )
    description = (
        f"Clean clips and {config.num_replicas} distorted replicas of each, for contrastive audio "
        "fingerprinting."
    )
    write_dataset_metadata(out, summary, splits, credits=credits(config, description))


def write_sounds(sounds: Sounds, folder: pathlib.Path, *, sample_rate_hz: int) -> None:
    """The training part's noise and impulse responses as a dataset of its own, for
    `confp_jax.data.mixing`.
    """
    folder.mkdir(exist_ok=True)
    splits = {}
    names = [*sounds.noise, *sounds.impulse_responses]
    for split, paths in (("noise", sounds.noise), ("ir", sounds.impulse_responses)):
        clips = (Clip(names.index(path), 0, 1.0, 0.0, to_int16(read_sound(path))) for path in paths)
        splits[split] = [
            write_shard(
                shard_path(folder, "sounds", split, 0, 1), clips, sample_rate_hz=sample_rate_hz
            )
        ]
    track_names = {
        str(i): "/".join(pathlib.PurePath(name).parts[-3:]) for i, name in enumerate(names)
    }
    summary = DatasetSummary("sounds", sample_rate_hz, 0, "{}", track_names)
    about = Credits(
        "Noise and impulse responses to mix in while training.",
        licence="As each sound's source says.",
    )
    write_dataset_metadata(folder, summary, splits, credits=about)


def make_clips(
    track: Track, split: str, *, config: PrepareConfig, sounds: dict[str, Sounds]
) -> list[Clip]:
    """Returns the clean clip (replica 0) and its replicas.

    Raises:
      UnfitError: the track is silent or too short.
      DecodeError: the file cannot be used; the caller lists it.
    """
    middle = read_middle(track.path, config.max_clip_s, sample_rate_hz=config.sample_rate_hz)
    if middle.whole_s < config.min_clip_s:
        raise UnfitError(
            f"{track.path}: {middle.whole_s:.1f} s is shorter than min_clip_s={config.min_clip_s}"
        )
    if middle.peak < 1e-4:
        raise UnfitError(f"{track.path}: is silent")
    samples = middle.samples
    start_s = middle.start_s
    clips = [Clip(track.track_id, 0, 1.0, start_s, to_int16(samples))]
    for replica in range(1, config.num_replicas + 1):
        seed = (config.seed, track.track_id, replica)
        chain = _chain(config, sounds[sound_part(split)])
        distorted = chain.apply(samples, sample_rate_hz=config.sample_rate_hz, seed=seed)
        clips.append(
            Clip(
                track.track_id,
                replica,
                distorted.tempo,
                start_s,
                to_int16(distorted.samples),
                distorted.draws,
            )
        )
    return clips


def expected_clip_s(tracks: Sequence[Track], config: PrepareConfig) -> float:
    """Returns the mean length of a clip by a few tracks spread over all; 0 where none of them can
    be read.
    """
    lengths_s = []
    for track in tracks[:: max(1, len(tracks) // _NUM_MEASURED)]:
        with contextlib.suppress(DecodeError):  # the run itself lists it
            num_samples = count_samples(track.path, sample_rate_hz=config.sample_rate_hz)
            lengths_s.append(min(num_samples / config.sample_rate_hz, config.max_clip_s))
    return float(np.mean(lengths_s)) if lengths_s else 0.0


@functools.lru_cache(maxsize=4)
def _chain(config: PrepareConfig, sounds: Sounds) -> Chain:
    return Chain(config.chain, sounds)


if __name__ == "__main__":
    flags.DEFINE_bool(
        "verify",
        False,
        "Write nothing: read all of --config.out again and compare it with its checksums.",
    )
    command_line.run(main, config_file="configs/prepare.py")
