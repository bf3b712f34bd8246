"""Hosts and the mesh: batch over "data", parameters replicated."""

import os
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from confp_jax.typed_config import ConfigError

AXIS = "data"
_JOIN_S = 300.0  # as long as JAX itself would wait


def join_hosts() -> None:
    """Makes this process one of several. Call it before anything touches a device.

    TPU pods and Slurm say themselves who is who. Elsewhere the environment does:
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. Where
    others do not come in time the process ends with a reason and status 1: at the next start they
    may.

    Raises:
      ConfigError: nothing says how many processes there are, or they did not come together.
    """
    num = os.environ.get("JAX_NUM_PROCESSES")
    number = os.environ.get("JAX_PROCESS_ID")
    if (num is None) != (number is None) or not all(
        value is None or value.isdecimal() for value in (num, number)
    ):
        raise ConfigError(
            f"JAX_NUM_PROCESSES={num} and JAX_PROCESS_ID={number} must both be numbers, or both be "
            "unset"
        )
    patience = threading.Timer(_JOIN_S, _give_up)
    patience.start()
    try:
        jax.distributed.initialize(
            num_processes=None if num is None else int(num),
            process_id=None if number is None else int(number),
            initialization_timeout=round(2 * _JOIN_S),
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            "--distributed: the processes did not come together "
            f"({' '.join(str(error).split())[:300]}); on a TPU pod start the "
            "command on every worker, elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID for each"
        ) from error
    finally:
        patience.cancel()


def _give_up() -> None:
    """Before JAX does: it aborts the process from C++, with a stack of its own and no word of what
    to do.
    """
    print(
        f"error: --distributed: not all processes came within {_JOIN_S:.0f} s; start the command "
        "on every host, with the same JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES (how many "
        "there are) where these are set",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def make_mesh(num_devices: int | None = None) -> jax.sharding.Mesh:
    """Returns one axis, "data", over all devices (or the first `num_devices`), explicit: a hidden
    collective is a type error.
    """
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Explicit,), devices=devices)


def is_sharded() -> bool:
    """Returns whether a mesh is set (`jax.set_mesh`)."""
    return not jax.sharding.get_abstract_mesh().empty


def replicate(x: jax.Array) -> jax.Array:
    """Returns all shards on every device; outside a mesh, x itself."""
    return jax.reshard(x, PartitionSpec(*[None] * x.ndim)) if is_sharded() else x


def split_rows(x: Shaped[Array, "n ..."], num_parts: int) -> Shaped[Array, "p m ..."]:
    """Returns rows in `num_parts` parts, each spread over all devices: part k takes rows k, k + p,
    ...

    so that no row moves.
    """
    return jnp.moveaxis(x.reshape(len(x) // num_parts, num_parts, *x.shape[1:]), 1, 0)


def join_rows(parts: Shaped[Array, "p m ..."]) -> Shaped[Array, "n ..."]:
    """Returns the inverse of `split_rows`."""
    return jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])


def check_divides(num_pairs: int, mesh: jax.sharding.Mesh, *, num_parts: int = 1) -> None:
    """Raises ConfigError where a batch of pairs does not divide over the devices, or a device's
    rows not into `num_parts`.
    """
    devices = mesh.devices.size
    if num_pairs % devices:
        raise ConfigError(
            f"a batch of {num_pairs} pairs does not divide over {devices} devices; set "
            "data.batch_size (or that of the phase) to a multiple"
        )
    if 2 * num_pairs // devices % num_parts:
        raise ConfigError(
            f"{2 * num_pairs // devices} segments a device do not divide into "
            f"microbatches={num_parts}"
        )


def global_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Returns every process's rows as one array over the mesh, split by rows."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def on_any_process(here: bool) -> bool:
    """Returns whether it is so on any process. All must decide alike: one that judged alone would
    leave the rest waiting.
    """
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.array(here))))
