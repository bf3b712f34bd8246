"""Pairs a second that one core cuts from a prepared dataset in the page cache, without and with
the online stage.

    python benchmarks/input_pairs.py prepared/fma [--pairs 3000] [--minutes 0]

CPU seconds of one thread are counted. A pair is two 3 s crops of 16-bit PCM (without the online
stage), or two log-mel inputs with all that configs/fma.py:edge draws (with it). With --minutes the
whole pipeline runs that long, and its memory is printed.
"""

import argparse
import dataclasses
import resource
import time

import numpy as np

from configs.fma import get_config
from confp_jax.config import MixConfig, TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.input import PairCutter, train_batches
from confp_jax.typed_config import from_mapping


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=0.0)
    arguments = parser.parse_args()
    edge = from_mapping(TrainConfig, get_config("edge").to_dict())
    edge = dataclasses.replace(
        edge, data=dataclasses.replace(edge.data, dir=arguments.dataset, crops_per_track=1)
    )
    stored = dataclasses.replace(edge.data, mix=MixConfig(), mel_on="device")
    samples = dataclasses.replace(edge.data.mix, tempo_p=0.0, pitch_p=0.0, colour_p=0.0)
    data = {
        "stored replicas": stored,
        "online stage, samples": dataclasses.replace(stored, mix=samples),
        "online stage, all of it, with mel power of both": edge.data,
    }
    for name, of_config in data.items():
        rates = [
            _pairs_per_s(dataclasses.replace(edge, data=of_config), arguments.pairs // 3)
            for _ in range(3)
        ]
        print(
            f"{name}: {np.median(rates):.0f} pairs a second and core ({min(rates):.0f} to "
            f"{max(rates):.0f})"
        )
    if arguments.minutes:
        _watch_memory(
            dataclasses.replace(edge, data=dataclasses.replace(stored, batch_size=64)),
            60 * arguments.minutes,
        )


def _pairs_per_s(config: TrainConfig, num_pairs: int) -> float:
    source = ClipSource(config.data.dir, config.data.split)
    cutter = PairCutter(source, config)
    tracks = np.random.default_rng(0).integers(source.num_tracks, size=num_pairs)
    for track in range(source.num_tracks):  # into the page cache
        cutter.random_map(track, np.random.default_rng(track))
    start_s = time.process_time()
    for number, track in enumerate(tracks):
        cutter.random_map(int(track), np.random.default_rng(number))
    return num_pairs / (time.process_time() - start_s)


def _watch_memory(config: TrainConfig, seconds: float) -> None:
    batches = train_batches(config)
    start_s = time.monotonic()
    num_batches = 0
    while (elapsed_s := time.monotonic() - start_s) < seconds:
        next(batches)
        num_batches += 1
        if num_batches in (100, 1000) or num_batches % 5000 == 0:
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{elapsed_s:5.0f} s, {num_batches} batches: at most {peak_mb:.0f} MB so far")
    print(
        f"{num_batches * config.data.batch_size / seconds:.0f} pairs a second by "
        f"{config.data.num_workers or 1} process(es)"
    )


if __name__ == "__main__":
    main()
