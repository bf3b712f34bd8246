"""Segments a second of our encoder and of its PyTorch twin, in turn on the same machine, batch and
threads.

    python -m benchmarks.train_step --model small --batch 32 --compile

forward: eval mode, the twin's batch in one, ours in the small batches beside each other that
fingerprinting has. forward+backward: training mode with the config's dropout, NT-Xent over the
batch, every parameter's gradient. Every system has a process of its own; rounds alternate between
them, so that a disturbance meets all; medians are reported. Our weights are the twin's, and the
forward outputs are compared before anything is timed.

Ours keeps freed memory, as training does (confp_jax/model/compiler.py). "twin" is PyTorch as it
comes, "twin, memory kept" is PyTorch under the same setting.
"""

import argparse
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from flax import nnx

from benchmarks.torch_twin import TorchEncoder, compute_nt_xent
from configs.fma import get_config
from confp_jax.config import TrainConfig
from confp_jax.fingerprint.windows import batch_shapes, batch_sizes
from confp_jax.model.compiler import compiler_options, keep_freed_memory
from confp_jax.model.encoder import Encoder
from confp_jax.model.from_torch import map_torch_names
from confp_jax.training.losses import nt_xent
from confp_jax.typed_config import from_mapping

Run = Callable[[], object]
OURS = "ours"
TWIN = "twin"
KEPT = "twin, memory kept"
COMPILED = "twin, compiled"


class Times(NamedTuple):
    """Seconds of one run: by the clock, and of processor time over all threads, which a busy
    machine disturbs less.
    """

    wall_s: float
    cpu_s: float


class System:
    """One system in a process of its own, which runs a pass when it is asked to."""

    def __init__(self, name: str, options: argparse.Namespace):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, options, theirs), daemon=True)
        self._process.start()

    def run(self, name: str) -> tuple[np.ndarray | None, Times]:
        """The pass's output (of the forward pass alone) and its times."""
        self._pipe.send(name)
        return self._pipe.recv()

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()


def _serve(
    name: str, options: argparse.Namespace, pipe: multiprocessing.connection.Connection
) -> None:
    if name in (OURS, KEPT):
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    passes = _build_passes(name, options)
    while True:
        asked = pipe.recv()
        run = passes[asked]
        start = time.perf_counter()
        start_cpu = time.process_time()
        result = run()
        times = Times(time.perf_counter() - start, time.process_time() - start_cpu)
        pipe.send((np.asarray(result) if asked == "forward" else None, times))


def _build_passes(name: str, options: argparse.Namespace) -> dict[str, Run]:
    """Returns what a system times: pass -> a call that returns when the result is there."""
    config = from_mapping(TrainConfig, get_config(options.model))
    num_frames = config.mel.num_frames(config.audio.segment_samples)
    frames = np.random.default_rng(0).standard_normal(
        (options.batch, num_frames, config.mel.num_mels), np.float32
    )
    torch.manual_seed(0)
    twin = TorchEncoder(config.encoder, num_mels=config.mel.num_mels, num_frames=num_frames)
    if name != OURS:
        return _twin_passes(twin, torch.compile(twin) if name == COMPILED else twin, config, frames)
    encoder = Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(0))
    _take_weights(encoder, twin, config)
    return _our_passes(encoder, config, frames, xla_defaults=options.xla_defaults)


def _take_weights(encoder: Encoder, twin: TorchEncoder, config: TrainConfig) -> None:
    """The twin's weights into ours, also where ours has what from_torch does not read: parts,
    stacked frames, another norm.
    """
    weights = {name: weight.numpy().copy() for name, weight in twin.state_dict().items()}
    flat = dict(nnx.to_flat_state(nnx.state(encoder)))
    for name, (path, arrange) in map_torch_names(config.encoder.num_layers).items():
        if name in weights:  # a LayerNorm has no running statistics
            place = tuple(
                "layer_norm"
                if part == "batch_norm" and config.encoder.conv_norm == "layer"
                else part
                for part in path
            )
            flat[place] = flat[place].replace(jax.numpy.asarray(arrange(weights[name])))
    nnx.update(encoder, nnx.from_flat_state(flat))


def _our_passes(
    encoder: Encoder, config: TrainConfig, frames: np.ndarray, *, xla_defaults: bool
) -> dict[str, Run]:
    graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)
    batch = jax.device_put(frames)
    keys = iter(range(1 << 30))

    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    num_tokens = (
        config.mel.num_frames(config.audio.segment_samples) // config.encoder.frames_per_token
    )
    sizes = batch_sizes(len(frames), batch_shapes(num_tokens, on_cpu=True))
    parts = np.split(frames, np.cumsum(sizes)[:-1])

    @jax.jit
    def encode(params: nnx.State, rest: nnx.State, batch: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, rest)(batch)

    def forward() -> np.ndarray:
        return np.concatenate(
            list(threads.map(lambda part: np.asarray(encode(params, rest, part)), parts))
        )

    @functools.partial(jax.jit, compiler_options={} if xla_defaults else compiler_options())
    def backward(params: nnx.State, rest: nnx.State, batch: jax.Array, step: int) -> object:
        key = jax.random.fold_in(jax.random.key(config.seed), step)

        def loss(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            model = nnx.merge(graphdef, params, rest, copy=True)
            value = nt_xent(model(batch, train=True, key=key), temperature=config.temperature).loss
            return value, nnx.state(model, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return {
        "forward": forward,
        "forward+backward": lambda: jax.block_until_ready(
            backward(params, rest, batch, next(keys))
        ),
    }


def _twin_passes(
    twin: TorchEncoder, call: Callable[..., Any], config: TrainConfig, frames: np.ndarray
) -> dict[str, Run]:
    """`call` is the twin, or what torch.compile made of it."""
    batch = torch.from_numpy(frames)

    def forward() -> torch.Tensor:
        twin.eval()
        with torch.inference_mode():
            return call(batch)

    def backward() -> None:
        twin.train()
        twin.zero_grad(set_to_none=True)
        compute_nt_xent(call(batch), config.temperature).backward()

    return {"forward": forward, "forward+backward": backward}


def measure(systems: dict[str, System], name: str, *, num_rounds: int) -> dict[str, list[Times]]:
    """The times of every round and system for one pass; the order of the systems turns round after
    each.
    """
    for system in systems.values():  # compiles, and warms the caches
        system.run(name)
        system.run(name)
    times: dict[str, list[Times]] = {system: [] for system in systems}
    for round_ in range(num_rounds):
        for system in list(systems)[:: 1 if round_ % 2 == 0 else -1]:
            times[system].append(systems[system].run(name)[1])
    return times


def check_same(systems: dict[str, System]) -> None:
    """Ends the program unless all systems embed the same frames alike."""
    outputs = {name: np.asarray(system.run("forward")[0]) for name, system in systems.items()}
    for name, output in outputs.items():
        difference = np.abs(output - outputs[OURS]).max()
        if not difference <= 2e-5:
            raise SystemExit(
                f"ours and {name} disagree by {difference:.2g}: they are not the same model"
            )


def summarize(times: dict[str, list[Times]], batch: int) -> dict[str, Any]:
    """Medians: segments a second of each system with their range, and how much faster ours is by
    the clock and by CPU time.
    """
    wall = {system: statistics.median(t.wall_s for t in runs) for system, runs in times.items()}
    cpu = {system: statistics.median(t.cpu_s for t in runs) for system, runs in times.items()}
    spread = {
        s: [batch / max(t.wall_s for t in runs), batch / min(t.wall_s for t in runs)]
        for s, runs in times.items()
    }
    return {
        "segments_per_s": {system: batch / seconds for system, seconds in wall.items()},
        "range": spread,
        "ratio": {system: seconds / wall[OURS] for system, seconds in wall.items()},
        "ratio_cpu": {system: seconds / cpu[OURS] for system, seconds in cpu.items()},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="small",
        choices=("small", "medium", "large", "edge"),
        help="one of configs/fma.py",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=32,
        help="segments of 3 s, an even number (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="timed runs of each system and pass (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="for PyTorch (default: all cores)",
    )
    parser.add_argument(
        "--xla-defaults",
        action="store_true",
        help="train without the options of confp_jax/model/compiler.py",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="the twin under torch.compile as well (needs a C++ compiler)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    return parser


def _print_table(about: dict[str, object], results: dict[str, dict[str, Any]]) -> None:
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(
        f"{'segments/s, median (range)':28}{'':>18}{'':>20}"
        f"{'ours faster by':>16}{'by CPU time':>13}"
    )
    for name, result in results.items():
        for system, rate in result["segments_per_s"].items():
            low, high = result["range"][system]
            cell = f"{rate:.1f} ({low:.1f}-{high:.1f})"
            print(
                f"{name:28}{system:>18}{cell:>20}{result['ratio'][system]:16.2f}"
                f"{result['ratio_cpu'][system]:13.2f}"
            )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.batch < 2 or options.batch % 2 or options.rounds < 1:
        parser.error("--batch must be even and at least 2, --rounds at least 1")
    if options.threads != len(os.sched_getaffinity(0)):  # XLA takes one thread a core it may run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    names = [OURS, TWIN, KEPT] + [COMPILED] * options.compile
    systems = {name: System(name, options) for name in names}
    check_same(systems)
    results = {}
    for name in ("forward", "forward+backward"):
        results[name] = summarize(measure(systems, name, num_rounds=options.rounds), options.batch)
    for system in systems.values():
        system.stop()
    about = {
        "model": options.model,
        "batch": options.batch,
        "threads": options.threads,
        "rounds": options.rounds,
    }
    about |= {
        "jax": jax.__version__,
        "torch": torch.__version__,
        "xla_defaults": options.xla_defaults,
    }
    if options.json:
        print(json.dumps(about | {"passes": results}))
        return
    _print_table(about, results)


if __name__ == "__main__":
    main()
