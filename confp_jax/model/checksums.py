"""Checksums of a checkpoint's arrays: Orbax's data files carry none."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32


def checksums(trees: Mapping[str, Any], *, config: str) -> dict[str, str]:
    """Returns 8 hex digits for each tree of arrays, and for the text of the configuration.

    Every process of a run must call it, with the same trees.
    """
    found = {name: _of_tree(tree) for name, tree in trees.items()}
    return found | {"config": f"{zlib.crc32(config.encode()):08x}"}


def differing(found: Mapping[str, str], stored: Any) -> list[str]:
    """Returns the names whose checksum is not the stored one.

    Checkpoints of earlier versions store none: nothing differs from them.
    """
    if stored is None:
        return []
    if not isinstance(stored, Mapping):
        return list(found)
    return [name for name, value in found.items() if stored.get(name) != value]


def _of_tree(tree: Any) -> str:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    sums = np.array([_sum(leaf) for leaf in jax.tree.leaves(tree)], np.uint32)
    return f"{zlib.crc32(sums.tobytes(), zlib.crc32(' '.join(paths).encode())):08x}"


def _sum(leaf: Any) -> np.ndarray:
    """An array on one device is summed here: under a mesh of several, `jit` would refuse it."""
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
        return np.asarray(_of_leaf(leaf))
    values = np.asarray(leaf)
    bits = np.atleast_1d(values).ravel(order="F").view(f"u{values.dtype.itemsize}")
    place = np.arange(bits.size, dtype=np.uint32)
    return (bits.astype(np.uint32) * (2 * place + 1)).sum(dtype=np.uint32)


@jax.jit
def _of_leaf(leaf: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Returns the sum of the elements' bits, each times an odd number that its place decides:
    whatever single element changes, the sum does.
    """
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for size in leaf.shape[::-1]:
        place = jnp.arange(size, dtype=jnp.uint32).reshape(-1, *[1] * place.ndim) + size * place
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
