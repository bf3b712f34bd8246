"""Grain: shards to {anchor, replica} batches, a slice for each process, resumable to the bit.

Nothing here may import JAX: Grain's worker processes import it.
"""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32

from confp_jax.audio.mel import mel_power
from confp_jax.audio.segments import PairCrop, draw_pair_crops
from confp_jax.config import TrainConfig
from confp_jax.data.records import Clip, ClipSource, DatasetError

_NUM_THREADS = 4  # and as many batches read ahead


class PairCutter(grain.transforms.RandomMap):
    """A track number to `crops_per_track` pairs: {"anchor", "replica"}, each [crops, samples] int16 or [crops, T, F] float32.

    Raises:
      DatasetError: the shards' order or rate is not what the configuration needs.
    """

    def __init__(self, source: ClipSource, config: TrainConfig):
        summary = source.summary
        if summary.sample_rate_hz != config.audio.sample_rate_hz:
            raise DatasetError(
                f"{source.folder} holds audio at {summary.sample_rate_hz} Hz, the model wants {config.audio.sample_rate_hz}; "
                "prepare it again with --config.sample_rate_hz"
            )
        if summary.num_replicas < 1:
            raise DatasetError(f"{source.folder} holds no replicas; prepare it again with --config.num_replicas=4")
        self._source, self._config = source, config

    def random_map(  # pyrefly: ignore[bad-override]
        self, element: Any, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Grain's hook: the same (element, rng) gives the same pairs."""
        config = self._config
        group = 1 + self._source.summary.num_replicas
        clean = self._source[int(element) * group]
        replica = self._source[int(element) * group + int(rng.integers(1, group))]
        if clean.replica != 0 or replica.track_id != clean.track_id:
            raise DatasetError(f"{self._source.folder}: record {element * group} is not the clean clip of its replica")
        data, rate_hz = config.data, config.audio.sample_rate_hz
        crops = draw_pair_crops(
            rng,
            num_crops=data.crops_per_track,
            spacing_s=data.crop_spacing_s,
            clean_s=len(clean.samples) / rate_hz,
            replica_s=len(replica.samples) / rate_hz,
            rate=replica.rate,
            segment_s=config.audio.segment_s,
            shift=(data.shift_alpha, data.shift_beta, data.max_shift_s),
        )
        pairs = [self._cut(clean, replica, crop) for crop in crops]
        return {name: np.stack([pair[i] for pair in pairs]) for i, name in enumerate(("anchor", "replica"))}

    def _cut(self, clean: Clip, replica: Clip, crop: PairCrop) -> tuple[np.ndarray, np.ndarray]:
        audio = self._config.audio
        windows = []
        for clip, start_s in ((clean, crop.anchor_start_s), (replica, crop.replica_start_s)):
            start = min(max(round(start_s * audio.sample_rate_hz), 0), len(clip.samples) - audio.segment_samples)
            windows.append(clip.samples[start : start + audio.segment_samples])
        if self._config.data.mel_on == "device":
            return windows[0], windows[1]
        return self._mel(windows[0]), self._mel(windows[1])

    def _mel(self, samples: np.ndarray) -> Float32[np.ndarray, "T F"]:
        as_float = samples.astype(np.float32) / 32768
        return mel_power(as_float, self._config.mel, sample_rate_hz=self._config.audio.sample_rate_hz)


def train_batches(config: TrainConfig, *, process: int = 0, num_processes: int = 1) -> grain.DatasetIterator:
    """This process's share of the endless, shuffled stream of batches; every epoch holds each track once.

    Raises:
      DatasetError: no dataset, too few tracks for a batch.
    """
    source = ClipSource(config.data.dir, config.data.split)
    tracks_per_batch = config.data.batch_size // config.data.crops_per_track
    if source.num_tracks < tracks_per_batch:
        raise DatasetError(
            f"{source.folder} has {source.num_tracks} {config.data.split} tracks, a batch needs {tracks_per_batch} different "
            f"ones; use --config.data.batch_size={source.num_tracks * config.data.crops_per_track} or less, or more music"
        )
    if tracks_per_batch % num_processes:
        raise DatasetError(f"{tracks_per_batch} tracks a batch do not divide over {num_processes} processes")
    dataset = grain.MapDataset.range(source.num_tracks).seed(config.seed).shuffle().repeat()
    dataset = dataset[process::num_processes].random_map(PairCutter(source, config))
    dataset = dataset.batch(tracks_per_batch // num_processes, drop_remainder=True, batch_fn=_join)
    options = grain.ReadOptions(num_threads=_NUM_THREADS, prefetch_buffer_size=_NUM_THREADS)
    iterable = dataset.to_iter_dataset(options)
    if config.data.num_workers:
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.data.num_workers))
    return iter(iterable)


def steps_per_epoch(config: TrainConfig) -> int:
    """Batches in which every track of the split occurs about once."""
    tracks = ClipSource(config.data.dir, config.data.split).num_tracks
    return max(1, tracks // (config.data.batch_size // config.data.crops_per_track))


def _join(elements: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """[crops, ...] of every track to one [pairs, ...]."""
    return {name: np.concatenate([element[name] for element in elements]) for name in elements[0]}
