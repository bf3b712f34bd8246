"""NT-Xent (paper, eq. 1) over 2B embeddings and both directions; one visible all-gather."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from confp_jax.training.mesh import AXIS, is_sharded, replicate

# Logits that a device may hold: 1 GiB in float32. From B = 16,384 on one device the block of all
# rows would be 4 GiB.
_MAX_LOGITS = 1 << 28


class Contrast(NamedTuple):
    """The loss, and how the embeddings lie."""

    loss: Float[Array, ""]
    top1: Float[Array, ""]  # share of embeddings whose nearest other embedding is their partner
    alignment: Float[Array, ""]  # mean squared distance of partners (Wang and Isola, 2020, eq. 2)
    uniformity: Float[
        Array, ""
    ]  # log of the mean of exp(-2 d^2) over all other pairs (eq. 3); lower is more even


def nt_xent(
    embeddings: Float[Array, "2B E"], *, temperature: float, rows_per_chunk: int | None = None
) -> Contrast:
    """Returns NT-Xent: rows 2i and 2i + 1 are a pair (so a shard of the batch holds whole pairs),
    and all other rows are negatives.

    Equal to `optax.losses.ntxent` with labels 0, 0, 1, 1, ... Every device compares its rows with
    everyone's: 4 B^2 / n logits. In chunks of `rows_per_chunk` of its rows (a divisor of their
    number) where given or where they would be over 1 GiB; the backward pass then computes them
    again, so that the block of all rows never exists.
    """
    everyone = replicate(embeddings)  # the only all-gather of the step
    compare = functools.partial(
        _compare_rows, temperature=temperature, rows_per_chunk=rows_per_chunk
    )
    if is_sharded():
        rows = PartitionSpec(AXIS)
        whole = PartitionSpec()
        sums = jax.shard_map(
            lambda mine, all_: compare(mine, all_, jax.lax.axis_index(AXIS) * len(mine)),
            in_specs=(rows, whole),
            out_specs=rows,
        )(embeddings, everyone)
    else:
        sums = compare(embeddings, everyone, jnp.int32(0))
    num = len(everyone)
    return Contrast(
        jnp.mean(sums.loss),
        jnp.mean(sums.is_hit),
        jnp.mean(2 - 2 * sums.partner),
        jnp.log(
            jnp.sum(sums.potential) / (num * (num - 1.0))
        ),  # as floats: of 46,341 rows and more int32 is too small
    )


def teacher_loss(
    embeddings: Float[Array, "2B E"], targets: Float[Array, "B E"], *, temperature: float
) -> Float[Array, ""]:
    """Returns the mean distance, 1 - cosine, of both rows of each pair to a trained encoder's
    fingerprint of its anchor (SimReg: Navaneet et al., 2021), over the temperature: the scale of
    NT-Xent's logits, so that neither drowns the other.
    """
    cosine = jnp.einsum(
        "bvd,bd->bv",
        embeddings.reshape(len(targets), 2, -1),
        targets,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.mean(1 - cosine) / temperature


class _Rows(NamedTuple):
    """What every row gives: its loss, whether its partner is nearest, the partner's cosine, and its
    sum of exp(-2 d^2).
    """

    loss: Float[Array, " n"]
    is_hit: Float[Array, " n"]
    partner: Float[Array, " n"]
    potential: Float[Array, " n"]


def _compare_rows(
    mine: Float[Array, "n E"],
    everyone: Float[Array, "2B E"],
    first_row: Int[Array, ""],
    *,
    temperature: float,
    rows_per_chunk: int | None,
) -> _Rows:
    """`mine` are the rows of `everyone` from `first_row` on."""
    num = len(mine)
    chunk = rows_per_chunk or num
    while rows_per_chunk is None and chunk * len(everyone) > _MAX_LOGITS and chunk % 2 == 0:
        chunk //= 2
    compare = functools.partial(_compare, everyone=everyone, temperature=temperature)
    numbers = first_row + jnp.arange(num)
    if chunk == num:
        return compare((mine, numbers))
    chunks = jax.lax.map(
        jax.checkpoint(compare),
        (mine.reshape(-1, chunk, mine.shape[1]), numbers.reshape(-1, chunk)),
    )
    return jax.tree.map(lambda rows: rows.reshape(num), chunks)


def _compare(
    rows: tuple[jax.Array, jax.Array], *, everyone: Float[Array, "2B E"], temperature: float
) -> _Rows:
    mine, numbers = rows
    # In float32 everywhere: TPUs would round the embeddings to bfloat16, GPUs to TF32, and a
    # temperature of 0.07 shows it.
    cosine = jnp.einsum("id,jd->ij", mine, everyone, precision=jax.lax.Precision.HIGHEST)
    others = jnp.arange(len(everyone))[None, :]
    is_self = numbers[:, None] == others
    is_partner = (numbers ^ 1)[:, None] == others
    logits = jnp.where(is_self, -jnp.inf, cosine / temperature)  # nobody is compared to itself
    partner = jnp.sum(jnp.where(is_partner, cosine, 0.0), axis=1)
    loss = jax.nn.logsumexp(logits, axis=1) - partner / temperature
    is_hit = partner / temperature >= jnp.max(logits, axis=1)
    potential = jnp.sum(
        jnp.where(is_self, 0.0, jnp.exp(4 * jax.lax.stop_gradient(cosine) - 4)), axis=1
    )
    return _Rows(loss, is_hit.astype(jnp.float32), partner, potential)
