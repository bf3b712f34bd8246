"""NT-Xent (paper, eq. 1) over 2B embeddings and both directions; one visible all-gather."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from confp_jax.training.mesh import replicate


class Contrast(NamedTuple):
    """The loss, and the share of embeddings whose nearest other embedding is their partner."""

    loss: Float[Array, ""]
    top1: Float[Array, ""]


def nt_xent(embeddings: Float[Array, "2B E"], *, temperature: float) -> Contrast:
    """Rows 2i and 2i + 1 are a pair (so a shard of the batch holds whole pairs); all other rows are negatives.

    Equal to `optax.losses.ntxent` with labels 0, 0, 1, 1, ...
    """
    everyone = replicate(embeddings)  # the only all-gather of the step
    logits = jnp.einsum("id,jd->ij", embeddings, everyone) / temperature
    rows = jnp.arange(logits.shape[0])
    logits = jnp.where(rows[:, None] == rows[None, :], -jnp.inf, logits)  # nobody is compared to itself
    is_partner = (rows ^ 1)[:, None] == rows[None, :]
    partner = jnp.sum(jnp.where(is_partner, logits, 0.0), axis=1)
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - partner)
    return Contrast(loss, jnp.mean(partner >= jnp.max(logits, axis=1)))
