"""Compiles the real training step for TPUs that are not here, and says what it needs of each chip
and how long it will take.

    python -m confp_jax.training.compile_for --config=configs/fma.py:large --topology=v5e:2x4 \\
        --config.data.batch_size=512

With data.residency=device and data.dir the set's own bytes on each chip are counted too.

Needs the extra `tpu` (libtpu compiles on any Linux host) and no TPU. With --largest it searches
the largest batch whose step fits and checks the forecast by compiling that as well; --json prints
numbers for programs.
"""

import os

# Before JAX: the host's own devices are not asked, and libtpu looks for no TPU around it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
)  # any other process that uses JAX on this host may have locked it
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import contextlib
import dataclasses
import functools
import inspect
import json
import re
import time
from typing import Any, cast

import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from confp_jax import command_line
from confp_jax.config import TrainConfig
from confp_jax.training.accelerators import CHIPS, find_chip
from confp_jax.training.device_dataset import resident_bytes
from confp_jax.training.mesh import AXIS, check_divides
from confp_jax.training.optim import make_optimizer, plan_stages
from confp_jax.training.step import build_state, train_step
from confp_jax.training.step_cost import StepCost, count_collectives, forecast_largest
from confp_jax.typed_config import ConfigError, from_mapping


def open_topology(name: str) -> Mesh:
    """Returns a mesh of described chips: "v5e:2x4", "v6e:16x16", "v4:2x2x1", or "v5e:1x1" for a
    single one.

    Raises:
      ConfigError: libtpu is not installed or knows no such topology.
    """
    sides = [int(side) for side in re.findall(r"\d+", name.partition(":")[2])]
    options: dict[str, Any] = (
        {"chips_per_host_bounds": (1, 1, 1)} if sides and max(sides) == 1 else {}
    )
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except (RuntimeError, ValueError, jax.errors.JaxRuntimeError) as error:
        raise ConfigError(
            f"--topology={name}: {' '.join(str(error).split())[:200]}; write it as v5e:2x4, and "
            "install the extra: "
            'pip install -c requirements.lock -e ".[tpu]"'
        ) from error
    return Mesh(topology.devices, (AXIS,), axis_types=(AxisType.Explicit,))


def compile_step(config: TrainConfig, mesh: Mesh) -> StepCost:
    """Compiles the step of the configuration's batch for the mesh.

    Raises:
      ConfigError: the batch does not divide over the chips, or the step does not fit their memory.
    """
    check_divides(config.data.batch_size, mesh, num_parts=config.microbatches)
    if config.compute_dtype == "auto":  # what it means there, not on this host
        config = dataclasses.replace(config, compute_dtype="bfloat16")
    optimizer = make_optimizer(
        config.optimizer, plan_stages(config.all_phases, [1000] * len(config.all_phases))
    )
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(AXIS))
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        state = jax.eval_shape(functools.partial(build_state, config, optimizer))
        state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), state
        )
        step = jax.jit(
            inspect.unwrap(train_step), static_argnames=("config", "optimizer"), donate_argnums=0
        )
        batch = {
            name: jax.ShapeDtypeStruct(*shape, sharding=rows)
            for name, shape in _pair_shapes(config).items()
        }
        lowered = step.lower(state, batch, config=config, optimizer=optimizer)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            raise ConfigError(_why_not(error, config)) from error
    memory = cast(Any, compiled.memory_analysis())
    cost = cast(Any, compiled.cost_analysis())
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    audio_bytes = resident_bytes(config, mesh)
    return StepCost(
        num_chips=mesh.devices.size,
        batch_size=config.data.batch_size,
        state_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        audio_bytes=audio_bytes,
        peak_bytes=audio_bytes + peak + memory.generated_code_size_in_bytes,
        flops=cost["flops"],
        bytes_moved=cost["bytes accessed"],
        collectives=count_collectives(compiled.as_text() or ""),
        compile_s=time.perf_counter() - start,
    )


def _pair_shapes(config: TrainConfig) -> dict[str, tuple[tuple[int, ...], jnp.dtype]]:
    """Returns the shapes that the input pipeline, or the device with the audio, makes."""
    samples = config.audio.segment_samples
    batch_size = config.data.batch_size
    audio = (batch_size, samples), jnp.dtype("int16")
    power = (batch_size, config.mel.num_frames(samples), config.mel.num_mels), jnp.dtype("float32")
    is_mixed = config.data.residency == "device" and config.data.mix.is_on
    anchor = audio if config.data.mel_on == "device" else power
    return {"anchor": anchor, "replica": power if is_mixed else anchor}


def _why_not(error: Exception, config: TrainConfig) -> str:
    found = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", str(error))
    size = f"{found[1]} of {found[2]}" if found else " ".join(str(error).split())[:200]
    return (
        f"a step of {config.data.batch_size} pairs does not fit: {size}; take fewer pairs "
        "(data.batch_size), more chips, rematerialise=True, or microbatches=4"
    )


def find_largest(config: TrainConfig, mesh: Mesh) -> StepCost:
    """Returns the compiled step of the largest batch that the forecast says fits (a tenth less,
    where it was too hopeful).

    Raises:
      ConfigError: the chip is unknown, or not even the smallest batch fits.
    """
    chip = find_chip(mesh.devices.flat[0].device_kind)
    chips = mesh.devices.size
    if chip is None:
        raise ConfigError(
            f"nothing is known of {mesh.devices.flat[0].device_kind}; known: "
            f"{', '.join(c.name for c in CHIPS)}"
        )
    per_chip = (8, 16)
    small, large = (compile_step(_with_batch(config, n * chips), mesh) for n in per_chip)
    batch = forecast_largest(small, large, chip.memory_bytes)
    grain = 8 * chips
    while batch > 0:
        with contextlib.suppress(ConfigError):
            cost = compile_step(_with_batch(config, batch), mesh)
            if (
                cost.peak_bytes <= chip.memory_bytes
            ):  # the compiler knows nothing of the set's audio
                return cost
        batch = min(batch - grain, round(0.9 * batch) // grain * grain)
    raise ConfigError(
        f"not even {grain} pairs fit {chips} x {chip.name}; set rematerialise=True or "
        "microbatches=4"
    )


def _with_batch(config: TrainConfig, batch_size: int) -> TrainConfig:
    return dataclasses.replace(
        config, phases=(), data=dataclasses.replace(config.data, batch_size=batch_size)
    )


def describe(cost: StepCost, config: TrainConfig, topology: str) -> str:
    """Returns the report, for people."""
    gib = 1024**3
    kinds = ", ".join(
        f"{n.num} {kind} ({n.num_bytes / 1e6:.1f} MB)"
        for kind, n in sorted(cost.collectives.items())
    )
    audio = f", audio {cost.audio_bytes / gib:.2f}" if cost.audio_bytes else ""
    lines = [
        f"{config.name} on {topology} ({cost.num_chips} chips), {cost.batch_size} pairs "
        f"(compiled in {cost.compile_s:.0f} s)",
        f"  memory of a chip    {cost.peak_bytes / gib:.2f} GiB, of which state "
        f"{cost.state_bytes / gib:.2f}{audio}",
        f"  work of a chip      {cost.flops / 1e12:.3f} TFLOP, {cost.bytes_moved / 1e9:.2f} "
        "GB moved",
        f"  collectives         {kinds or 'none'}",
    ]
    if config.microbatches > 1:
        lines.append(
            f"  work and collectives count one of the {config.microbatches} microbatches: the "
            "times below are too short"
        )
    for chip in (chip for chip in CHIPS if chip.name.startswith("v")):
        fits = "" if cost.peak_bytes <= chip.memory_bytes else "; does not fit its memory"
        step_s = cost.step_s(chip)
        rate = 2 * cost.batch_size / step_s
        lines.append(
            f"  roofline {chip.name:10} {1000 * step_s:.2f} ms a step, {rate:,.0f} segments/s{fits}"
        )
    return "\n".join(lines)


def main(config: ConfigDict, values: flags.FlagValues) -> None:
    """Compiles and reports."""
    built = from_mapping(TrainConfig, config)
    mesh = open_topology(values.topology)
    cost = find_largest(built, mesh) if values.largest else compile_step(built, mesh)
    if values.json:
        times = {chip.name: cost.step_s(chip) for chip in CHIPS}
        print(
            json.dumps(
                {"model": built.name, "topology": values.topology, "step_s": times}
                | dataclasses.asdict(cost)
            )
        )
    else:
        print(describe(cost, built, values.topology))


if __name__ == "__main__":
    flags.DEFINE_string(
        "topology",
        "v5e:2x4",
        "Chips and their arrangement: v5e:1x1, v5e:2x4, v6e:16x16, v4:2x2x1, ...",
    )
    flags.DEFINE_boolean(
        "largest", False, "Search the largest batch that fits instead of taking data.batch_size."
    )
    flags.DEFINE_boolean("json", False, "One JSON object.")
    command_line.run(main, config_file="configs/fma.py:small")
