"""Retrieval on held-out tracks as a plain matmul: distorted excerpts against an index of clean windows."""

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.mel import mel_power
from confp_jax.audio.segments import num_windows, replica_start_s, spaced_starts_s
from confp_jax.config import TrainConfig
from confp_jax.data.records import Clip, ClipSource, read_splits
from confp_jax.metrics import HitRates, hit_rates
from confp_jax.training.step import TrainState, embed

_BATCH = 64


def validate(state: TrainState, config: TrainConfig) -> HitRates | None:
    """Top-1 hit rates of `queries_per_track` replica excerpts of every validation track; None if the set has no such split."""
    if config.validation.split not in read_splits(config.data.dir):
        return None
    source = ClipSource(config.data.dir, config.validation.split)
    group = 1 + source.summary.num_replicas
    index, index_tracks, index_s, queries, truth, truth_s = [], [], [], [], [], []
    for number in range(source.num_tracks):
        clean = source[number * group]
        hop = round(config.validation.index_hop_s * config.audio.sample_rate_hz)
        windows = num_windows(len(clean.samples), segment_samples=config.audio.segment_samples, hop_samples=hop)
        index.append(_embed(state, config, clean, np.arange(windows) * hop))
        index_tracks += [number] * windows
        index_s += [i * config.validation.index_hop_s for i in range(windows)]
        starts_s = _query_starts_s(clean, config)
        for i, start_s in enumerate(starts_s):
            replica = source[number * group + 1 + i % source.summary.num_replicas]
            begin_s = replica_start_s(start_s, shift_s=0.0, rate=replica.rate, segment_s=config.audio.segment_s)
            last = len(replica.samples) - config.audio.segment_samples
            begin = int(np.clip(round(begin_s * config.audio.sample_rate_hz), 0, last))
            queries.append(_embed(state, config, replica, np.array([begin])))
            truth.append(number)
            truth_s.append(start_s)
    scores = np.concatenate(queries) @ np.concatenate(index).T
    best = scores.argmax(axis=1)[:, None]
    return hit_rates(np.array(index_tracks)[best], np.array(index_s)[best], np.array(truth), np.array(truth_s))


def _query_starts_s(clean: Clip, config: TrainConfig) -> list[float]:
    """Spaced starts away from the edges, where a stretched replica has no whole window."""
    rate_hz, segment_s = config.audio.sample_rate_hz, config.audio.segment_s
    starts = spaced_starts_s(len(clean.samples) / rate_hz, segment_s=segment_s, num=config.validation.queries_per_track + 2)
    return [float(start) for start in starts[1:-1]]


def _embed(state: TrainState, config: TrainConfig, clip: Clip, starts: np.ndarray) -> Float32[np.ndarray, "n E"]:
    """Fingerprints of the windows of a clip, padded to full batches so that nothing recompiles."""
    samples = clip.samples.astype(np.float32) / 32768
    length, rate_hz = config.audio.segment_samples, config.audio.sample_rate_hz
    powers = [mel_power(samples[s : s + length], config.mel, sample_rate_hz=rate_hz) for s in starts]
    batch = 1 if len(powers) == 1 else _BATCH
    out = []
    for first in range(0, len(powers), batch):
        part = np.stack(powers[first : first + batch])
        padded = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.float32)])
        out.append(np.asarray(embed(state.params, state.statistics, padded, config=config))[: len(part)])
    return np.concatenate(out)
