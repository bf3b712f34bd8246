"""Retrieval on held-out tracks as a plain matmul: excerpts distorted as in training against an
index of clean windows.
"""

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.mel import mel_power
from confp_jax.audio.segments import num_windows, spaced_starts_s
from confp_jax.config import TrainConfig
from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.input import PairCutter
from confp_jax.metrics import HitRates, hit_rates
from confp_jax.model.inference import embed
from confp_jax.training.step import TrainState

_BATCH = 64
_SEED = 0  # of the draws, whatever the run's is


def validate(state: TrainState, config: TrainConfig) -> HitRates | None:
    """Returns Top-1 hit rates of `queries_per_track` replica excerpts of every validation track;
    None if the set has no such split.

    The same draws every time and in every run: two validations differ by the weights alone.
    """
    if config.validation.split not in read_splits(config.data.dir):
        return None
    source = ClipSource(config.data.dir, config.validation.split)
    cutter = PairCutter(source, config)
    group = 1 + source.summary.num_replicas
    index = []
    index_tracks = []
    index_s = []
    queries = []
    truth = []
    truth_s = []
    for number in range(source.num_tracks):
        first, samples = _middle(source, number * group, config)
        hop = round(config.validation.index_hop_s * config.audio.sample_rate_hz)
        windows = num_windows(
            len(samples), segment_samples=config.audio.segment_samples, hop_samples=hop
        )
        powers = [
            _power(samples[i * hop : i * hop + config.audio.segment_samples], config)
            for i in range(windows)
        ]
        index.append(_embed(state, config, powers))
        index_tracks += [number] * windows
        first_s = first / config.audio.sample_rate_hz
        index_s += [first_s + i * config.validation.index_hop_s for i in range(windows)]
        for i, start_s in enumerate(_query_starts_s(len(samples), config)):
            rng = np.random.default_rng((_SEED, number, i))
            replica = cutter.cut_replica(number, first_s + start_s, rng)
            queries.append(_power(replica, config) if replica.ndim == 1 else replica)
            truth.append(number)
            truth_s.append(first_s + start_s)
    scores = _embed(state, config, queries) @ np.concatenate(index).T
    best = scores.argmax(axis=1)[:, None]
    return hit_rates(
        np.array(index_tracks)[best], np.array(index_s)[best], np.array(truth), np.array(truth_s)
    )


def _middle(source: ClipSource, clip: int, config: TrainConfig) -> tuple[int, np.ndarray]:
    """Returns the middle `max_track_s` of a clip, and the number of its first sample."""
    whole = source.row(clip).num_samples
    length = min(whole, round(config.validation.max_track_s * config.audio.sample_rate_hz))
    first = (whole - length) // 2
    return first, source.crop(clip, first, first + length)


def _query_starts_s(num_samples: int, config: TrainConfig) -> list[float]:
    """Returns spaced starts away from the edges, where a stretched replica has no whole window."""
    rate_hz = config.audio.sample_rate_hz
    segment_s = config.audio.segment_s
    starts = spaced_starts_s(
        num_samples / rate_hz, segment_s=segment_s, num=config.validation.queries_per_track + 2
    )
    return [float(start) for start in starts[1:-1]]


def _power(samples: np.ndarray, config: TrainConfig) -> Float32[np.ndarray, "T F"]:
    return mel_power(
        samples.astype(np.float32) / 32768, config.mel, sample_rate_hz=config.audio.sample_rate_hz
    )


def _embed(
    state: TrainState, config: TrainConfig, powers: list[np.ndarray]
) -> Float32[np.ndarray, "n E"]:
    """Returns fingerprints by the averaged weights, in full batches so that nothing recompiles."""
    out = []
    for first in range(0, len(powers), _BATCH):
        part = np.stack(powers[first : first + _BATCH])
        padded = np.concatenate([part, np.zeros((_BATCH - len(part), *part.shape[1:]), np.float32)])
        out.append(
            np.asarray(embed(state.average, state.statistics, padded, config=config.model))[
                : len(part)
            ]
        )
    return np.concatenate(out)
