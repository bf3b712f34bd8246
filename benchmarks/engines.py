"""Processor time of a model's conformer in each engine, by the number of windows.

python -m benchmarks.engines --model edge2
"""

import argparse
import os
import sys
import time

import numpy as np

from confp_jax.fingerprint.engine import ENGINES, Engine, EngineError, load_engine
from confp_jax.model.shipped import shipped_folder


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="edge2", help="a shipped model")
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    print("$ python", " ".join(sys.argv))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; least and median milliseconds")
    for name in ENGINES:
        try:
            engine = load_engine(shipped_folder(args.model), name)
        except EngineError as error:
            print(f"{name}: {error}")
            continue
        for num in args.windows:
            times = _times_ms(engine, num, args.repeats)
            print(f"{name}, {num} windows: {min(times):.2f}, {np.median(times):.2f}")


def _times_ms(engine: Engine, num: int, repeats: int) -> list[float]:
    config = engine.config
    frames = config.mel.num_frames(config.audio.context_samples)
    rng = np.random.default_rng(0)
    power = rng.exponential(size=(num, frames, config.mel.num_mels)).astype(np.float32)
    seen = np.tile(np.array([0, frames], np.int32), (num, 1))
    times = []
    for _ in range(repeats + 5):  # the first compile or allocate
        began = time.process_time()
        engine.conform(power, seen)
        times.append(1000 * (time.process_time() - began))
    return times[5:]


if __name__ == "__main__":
    main()
