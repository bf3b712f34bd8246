"""How fast one core prepares: clean clips a second, replicas a second through the full chain, and
what each transform costs.

    python benchmarks/prepare.py MUSIC_DIR NOISE_DIR IR_DIR [--tracks 40] [--cores 96]

CPU seconds of this one process are counted, so that what else the machine does disturbs little.
Ends with the forecast for FMA-large (106,574 clips of 30 s) with 4 replicas.
"""

import argparse
import collections
import functools
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from configs.prepare import get_config
from confp_jax.audio.decode import decode
from confp_jax.audio.folders import find_audio
from confp_jax.data.records import Clip, shard_path, to_int16, write_shard
from confp_jax.typed_config import from_mapping
from data_prep import augment
from data_prep.config import ChainConfig
from data_prep.sounds import prepare_sounds

_RATE_HZ = 16_000
_FMA_CLIPS = 106_574
_FMA_REPLICAS = 4


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("music", type=pathlib.Path)
    parser.add_argument("noise")
    parser.add_argument("ir")
    parser.add_argument("--tracks", type=int, default=40)
    parser.add_argument("--cores", type=int, default=96)
    arguments = parser.parse_args()
    paths = find_audio([arguments.music]).files
    paths = paths[:: max(1, len(paths) // arguments.tracks)][: arguments.tracks]
    with tempfile.TemporaryDirectory() as folder:
        clean_s, clips = _clean(paths, pathlib.Path(folder))
        sounds = prepare_sounds(
            arguments.noise,
            arguments.ir,
            "train",
            cache=pathlib.Path(folder),
            sample_rate_hz=_RATE_HZ,
        )
        replica_s = _replicas(
            clips,
            augment.Chain(from_mapping(ChainConfig, get_config().to_dict()["chain"]), sounds),
            folder,
        )
    mean_s = np.mean([len(clip) for clip in clips]) / _RATE_HZ
    print(f"clean clips: {len(clips) / clean_s:.1f} a second and core (mean length {mean_s:.1f} s)")
    print(f"replicas: {len(clips) / replica_s:.1f} a second and core")
    total_s = _FMA_CLIPS * (clean_s + _FMA_REPLICAS * replica_s) / len(clips)
    print(
        f"FMA-large, {_FMA_REPLICAS} replicas, {arguments.cores} cores: "
        f"{total_s / arguments.cores / 60:.0f} minutes"
    )


def _clean(paths: list[pathlib.Path], folder: pathlib.Path) -> tuple[float, list[np.ndarray]]:
    decode(paths[0], sample_rate_hz=_RATE_HZ)
    clips = []
    start_s = time.process_time()
    for number, path in enumerate(paths):
        clips.append(decode(path, sample_rate_hz=_RATE_HZ).samples)
        clip = Clip(number, 0, 1.0, 0.0, to_int16(clips[-1]))
        write_shard(
            shard_path(folder, "clean", "all", number, len(paths)), [clip], sample_rate_hz=_RATE_HZ
        )
    return time.process_time() - start_s, clips


def _replicas(clips: list[np.ndarray], chain: augment.Chain, folder: str) -> float:
    spent_s: dict[str, float] = collections.defaultdict(float)
    times: dict[str, int] = collections.defaultdict(int)

    def timed(step: augment.Step, *arguments: Any, **named: Any) -> Any:
        before_s = time.process_time()
        heard = step.apply(*arguments, **named)
        spent_s[step.name] += time.process_time() - before_s
        times[step.name] += 1
        return heard

    chain.apply(clips[0], sample_rate_hz=_RATE_HZ, seed=(0,))
    steps = [
        augment.Step(step.name, step.p, functools.partial(timed, step)) for step in chain.steps
    ]
    chain.steps[:] = steps
    start_s = time.process_time()
    for number, samples in enumerate(clips):
        heard = chain.apply(samples, sample_rate_hz=_RATE_HZ, seed=(1, number))
        clip = Clip(number, 1, heard.tempo, 0.0, to_int16(heard.samples), heard.draws)
        path = shard_path(pathlib.Path(folder), "replica", "all", number, len(clips))
        write_shard(path, [clip], sample_rate_hz=_RATE_HZ)
    total_s = time.process_time() - start_s
    for name, seconds in sorted(spent_s.items(), key=lambda item: -item[1]):
        print(
            f"{name:22s} {1000 * seconds / times[name]:7.1f} ms each, {seconds / total_s:6.1%} of "
            f"all, {times[name]} times"
        )
    return total_s


if __name__ == "__main__":
    main()
