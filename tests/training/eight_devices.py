"""The loss and the step on 1, 2, 4 and 8 forced CPU devices, and the step's options against the
plain step; writes JSON.

Run by the fixture `devices` (conftest.py) in a process of its own: the number of devices is fixed
when JAX starts.
"""

import dataclasses
import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from confp_jax.config import TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.training.device_dataset import Resident, cut_crops, load_resident, resident_layout
from confp_jax.training.losses import nt_xent
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.step import build_state, train_step
from confp_jax.training.step_cost import count_collectives
from confp_jax.training.train import train

# Linear in the gradient, so that rounding stays rounding: Adam turns a gradient of 1e-9 into a step
# of full length.
# Clipped: a first step of full length would throw the weights to where all embeddings are alike.
_OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.01))


def _apart(one: object, other: object) -> float:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
        for a, b in leaves
    )


def _loss() -> dict:
    """NT-Xent of the same rows: plain and in chunks, on one device and on eight."""
    z = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)

    def value(z, rows_per_chunk):
        contrast = nt_xent(z, temperature=0.07, rows_per_chunk=rows_per_chunk)
        return contrast.loss, contrast

    run = jax.jit(jax.value_and_grad(value, has_aux=True), static_argnums=1)
    single = run(z, None)
    with jax.set_mesh(make_mesh(8)):
        sharded = jax.device_put(z, PartitionSpec("data"))
        compiled = run.lower(sharded, None).compile()
        eight = compiled(sharded)
        chunked_eight = run(sharded, 4)
        counts = {name: found.num for name, found in count_collectives(compiled.as_text()).items()}
        spec = str(eight[1].sharding.spec)
    return {
        "eight": _apart(single, eight),
        "chunked": _apart(single, run(z, 16)),
        "chunked_eight": _apart(single, chunked_eight),
        "collectives": counts,
        "gradient_spec": spec,
        "memory": [_temporary_bytes(rows) for rows in (None, 64)],
        "memory_of_devices": {num: _temporary_bytes(None, num) for num in (1, 2, 4, 8)},
    }


def _temporary_bytes(rows_per_chunk: int | None, num_devices: int = 1) -> int:
    mesh = make_mesh(num_devices)
    with jax.set_mesh(mesh):
        z = jax.ShapeDtypeStruct(
            (2048, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
        )
        loss = functools.partial(nt_xent, temperature=0.07, rows_per_chunk=rows_per_chunk)
        return (
            jax.jit(jax.grad(lambda z: loss(z).loss))
            .lower(z)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )


def _steps(config: TrainConfig, batches: list, num_devices: int) -> dict:
    mesh = make_mesh(num_devices)
    losses = []
    top1 = []
    with jax.set_mesh(mesh):
        # of what the state depends on alone: compiled once for the options of a step
        sizes = TrainConfig(audio=config.audio, mel=config.mel, encoder=config.encoder)
        state = build_state(sizes, _OPTIMIZER)
        if config.freeze_statistics:  # not those of step 0, by which nothing is normalised
            state = state._replace(
                statistics=jax.tree.map(lambda leaf: leaf + 0.25, state.statistics)
            )
        start = state
        for batch in batches:
            state, metrics = train_step(
                state, global_batch(batch, mesh), config=config, optimizer=_OPTIMIZER
            )
            losses.append(float(metrics.loss))
            top1.append(float(metrics.top1))
        assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == num_devices
        found = {"losses": losses, "top1": top1, "moved": _apart(state.params, start.params)}
        if num_devices == 8:
            step = train_step.jitted().lower(
                start, global_batch(batches[0], mesh), config=config, optimizer=_OPTIMIZER
            )
            program = step.compile().as_text()
            counts = count_collectives(program)
            lines = program.splitlines()
            weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(start.params))
            found |= {
                "collectives": {name: found.num for name, found in counts.items()},
                "weight_bytes": weights,
            }
            found |= {"gathered_bytes": counts["all-gather"].num_bytes}
            each = [count_collectives(line).get("all-reduce") for line in lines]
            found |= {"reduced_bytes": sorted(one.num_bytes for one in each if one)}
        return found | {
            "state": [
                np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.statistics))
            ]
        }


def _options(config: TrainConfig, batches: list) -> dict:
    """One step with each option against the same step without, on four devices; nothing is drawn.

    LayerNorm normalises, or BatchNorm by frozen statistics.
    """
    config = dataclasses.replace(
        config,
        spec_augment=dataclasses.replace(
            config.spec_augment, num_frequency_masks=0, num_time_masks=0
        ),
    )
    layer, batch = (
        dataclasses.replace(
            config, encoder=dataclasses.replace(config.encoder, dropout=0.0, conv_norm=norm)
        )
        for norm in ("layer", "batch")
    )
    plain = _steps(layer, batches[:1], 4)
    found = {
        "saved_memory": _option(layer, batches, plain, microbatches=2, rematerialise=True),
        "bfloat16": _option(layer, batches, plain, compute_dtype="bfloat16"),
    }
    frozen = dataclasses.replace(batch, freeze_statistics=True, init_from="another")
    found["frozen"] = _option(frozen, batches, _steps(frozen, batches[:1], 4), microbatches=2)
    return found | {"taught": _taught(layer, batches[0], plain)}


def _taught(config: TrainConfig, batch: dict, plain: dict) -> dict:
    """One step with a teacher's fingerprints in the batch: on four devices and in two parts against
    one device and whole.
    """
    targets = (
        np.random.default_rng(0)
        .normal(size=(len(batch["anchor"]), config.encoder.embedding_dim))
        .astype(np.float32)
    )
    batches = [batch | {"target": targets / np.linalg.norm(targets, axis=1, keepdims=True)}]
    one = _steps(config, batches, 1)
    return _option(config, batches, one, microbatches=2) | {
        "added": one["losses"][0] - plain["losses"][0]
    }


def _option(config: TrainConfig, batches: list, plain: dict, **options: object) -> dict:
    """How far one step with these options, on four devices, is from `plain`."""
    other = _steps(dataclasses.replace(config, **options), batches[:1], 4)
    return {
        "loss": abs(other["losses"][0] - plain["losses"][0]),
        "state": _apart(other["state"], plain["state"]),
        "moved": plain["moved"],
    }


def _resident(config: TrainConfig) -> dict:
    """Batches of device memory, on one device and on four, against those that Grain cuts and (on
    four) mixes: how far they differ.
    """
    plain = dataclasses.replace(config, data=dataclasses.replace(config.data, mel_on="device"))
    mix = dataclasses.replace(
        config.data.mix, tempo_p=0.5, pitch_p=0.5, room_p=0.5, synthetic_rooms=0.0, noise_p=0.7,
        second_noise_p=0.5, tanh_p=0.3, overlay_p=0.5,
        colour_p=0.5, coloured_p=0.0, clean_p=0.5,
    )  # fmt: skip
    mixed = dataclasses.replace(
        config, data=dataclasses.replace(config.data, mel_on="host", mix=mix)
    )
    stored = next(
        train_batches(
            dataclasses.replace(config, data=dataclasses.replace(config.data, mel_on="host"))
        )
    )
    changed = float(
        (stored["replica"] != next(train_batches(mixed))["replica"]).any(axis=(1, 2)).mean()
    )
    return {
        "plain": _resident_batches(plain, (1, 4)),
        "mixed": _resident_batches(mixed, (4,)),
        "changed": changed,
    }


def _resident_batches(config: TrainConfig, numbers: tuple[int, ...]) -> dict:
    """How far replicas differ on average, in 16-bit steps or as a share of their mel power, by
    number of devices.
    """
    expected = train_batches(config)
    found = {}
    expected = [next(expected)["replica"].astype(np.float64) for _ in range(3)]
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, mel_on="device", residency="device")
    )
    for num in numbers:
        mesh = make_mesh(num)
        places = train_batches(config, layout=resident_layout(config, mesh))
        with jax.set_mesh(mesh):
            resident = load_resident(config, mesh)
            batches = [
                cut_crops(resident, global_batch(next(places), mesh), config=config)
                for _ in range(3)
            ]
        apart = [
            np.abs(mine["replica"] - theirs).mean() / theirs.mean()
            for mine, theirs in zip(batches, expected, strict=True)
        ]
        found[num] = float(max(apart))
        assert (
            batches[0]["anchor"].dtype == np.int16
            and len(batches[0]["replica"].sharding.device_set) == num
        )
    return found


def _cut_anywhere(config: TrainConfig) -> dict:
    """Crops of random audio against numpy's, drawn evenly and half of them from one device; memory
    by number of devices.
    """
    rng = np.random.default_rng(0)
    found = {}
    num_rows = 20
    length = 500
    num_crops = 256
    for num in (1, 2, 4, 8):
        audio = rng.integers(-9000, 9000, (num, num_rows, length)).astype(np.int16)
        mesh = make_mesh(num)
        wrong = 0
        with jax.set_mesh(mesh):
            resident = Resident(jax.device_put(audio, PartitionSpec("data")), None)
            for num_on_last in (0, num_crops // 2):
                drawn = [
                    rng.integers(0, most, 2 * num_crops) for most in (num, num_rows - 1, length)
                ]
                even = np.stack(drawn, axis=1).astype(np.int32)
                even[:num_on_last, 0] = num - 1
                places = {"anchor": even[:num_crops], "replica": even[num_crops:]}
                crops = cut_crops(resident, global_batch(places, mesh), config=config)
                for name, where in places.items():
                    wanted = [
                        audio[d].reshape(-1)[row * length + start :][:length]
                        for d, row, start in where
                    ]
                    wrong += int((np.asarray(crops[name]) != np.stack(wanted)).any(axis=1).sum())
            memory = (
                cut_crops.lower(resident, global_batch(places, mesh), config=config)
                .compile()
                .memory_analysis()
            )
        found[num] = {"wrong": wrong, "bytes": memory.temp_size_in_bytes}
    return found | {"batch_bytes": 2 * length * num_crops}


def _refusal(config: TrainConfig, workdir: str) -> str:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=6))
    try:
        train(config, pathlib.Path(workdir))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


if __name__ == "__main__":
    tiny = TrainConfig.from_json(sys.argv[1])
    stream = None
    stream = train_batches(tiny)
    batches = [next(stream) for _ in range(20)]
    steps = {num: _steps(tiny, batches, num) for num in (1, 8)}
    states = {num: found.pop("state") for num, found in steps.items()}
    for num, found in steps.items():
        found["difference"] = _apart(states[1], states[num])
    print(
        json.dumps(
            {
                "devices": jax.device_count(),
                "loss": _loss(),
                "steps": steps,
                "resident": _resident(tiny),
                "cut": _cut_anywhere(tiny),
                "options": _options(tiny, batches),
                "refusal": _refusal(tiny, sys.argv[2]),
            }
        )
    )
