"""The training step: pure functions of the state."""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from confp_jax.config import TrainConfig
from confp_jax.model.compiler import fast_jit
from confp_jax.model.inference import batch_features, build_encoder, encoder_graph
from confp_jax.model.spec_augment import spec_augment
from confp_jax.training.losses import Contrast, nt_xent, teacher_loss
from confp_jax.training.mesh import join_rows, split_rows


class TrainState(NamedTuple):
    """Everything that changes from step to step.

    The key of a step is folded from the seed, so it needs no place here.
    """

    params: nnx.State
    average: (
        nnx.State
    )  # moving average of the params: what is validated, saved as the encoder and shipped
    statistics: nnx.State  # BatchNorm's running mean and variance
    optimizer: optax.OptState
    step: jax.Array


class Metrics(NamedTuple):
    """What a step reports, still on the device."""

    loss: jax.Array
    top1: jax.Array
    gradient_norm: jax.Array
    alignment: jax.Array
    uniformity: jax.Array
    is_finite: jax.Array


@functools.partial(jax.jit, static_argnames=("config", "optimizer"))
def build_state(config: TrainConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state of step 0, built inside one jit: every leaf lies on the whole mesh."""
    _, params, statistics = nnx.split(build_encoder(config.model, seed=config.seed), nnx.Param, ...)
    return TrainState(params, params, statistics, optimizer.init(params), jnp.zeros((), jnp.int32))


@fast_jit(static_argnames=("config", "optimizer"), donated=(0,))
def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """Makes one step of NT-Xent.

    Args:
      state: weights, statistics, optimizer and count of steps.
      batch: {"anchor", "replica"}: samples [B, n] int16, or mel power [B, T, F] made on the host.
      config: the run's.
      optimizer: what `state` was built with.

    Returns:
      The next state, and what is logged.

    With "target" [B, E], a teacher's fingerprints of the anchors, their distance is added to the
    loss (`load_teacher`).

    A step whose loss or gradient is not finite changes nothing but the count: the run can be
    resumed from any checkpoint.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    feature_key, dropout_key = jax.random.split(key)
    frames = pair_features(batch, feature_key, config)
    differentiate = _contrast_gradient if config.microbatches == 1 else _cached_gradient
    judge = functools.partial(_judge, targets=batch.get("target"), temperature=config.temperature)
    contrast, statistics, gradient = differentiate(state, frames, judge, dropout_key, config)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = cast(nnx.State, optax.apply_updates(state.params, updates))
    average = _averaged(state, params, config.optimizer.average_decay)
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(contrast.loss) & jnp.isfinite(norm)
    new = TrainState(params, average, statistics, optimizer_state, state.step)
    kept = jax.tree.map(functools.partial(jnp.where, is_finite), new, state)
    metrics = Metrics(
        contrast.loss, contrast.top1, norm, contrast.alignment, contrast.uniformity, is_finite
    )
    return kept._replace(step=state.step + 1), metrics


_Judge = Callable[[Array], Contrast]  # of the embeddings [2B, E]
_Gradient = tuple[
    Contrast, nnx.State, nnx.State
]  # and the new statistics, and the gradient of the params


def _judge(
    embeddings: Float[Array, "2B E"], *, targets: Float[Array, "B E"] | None, temperature: float
) -> Contrast:
    contrast = nt_xent(embeddings, temperature=temperature)
    if targets is None:
        return contrast
    return contrast._replace(
        loss=contrast.loss + teacher_loss(embeddings, targets, temperature=temperature)
    )


def _contrast_gradient(
    state: TrainState,
    frames: Float[Array, "2B T F"],
    judge: _Judge,
    key: PRNGKeyArray,
    config: TrainConfig,
) -> _Gradient:
    def loss_of(params: nnx.State) -> tuple[Float[Array, ""], tuple[nnx.State, Contrast]]:
        embeddings, statistics = _encode(params, state.statistics, frames, key, config)
        contrast = judge(embeddings)
        return contrast.loss, (statistics, contrast)

    (_, (statistics, contrast)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return contrast, statistics, gradient


def _cached_gradient(
    state: TrainState,
    frames: Float[Array, "2B T F"],
    judge: _Judge,
    key: PRNGKeyArray,
    config: TrainConfig,
) -> _Gradient:
    """Returns the gradient of the whole batch's loss, its rows encoded in `microbatches` parts
    (GradCache: Gao et al., 2021).

    All parts are embedded first without keeping anything, the loss of all embeddings gives their
    gradients, and each part is embedded again to pass its own on. Exact with LayerNorm or frozen
    statistics; live BatchNorm takes those of each part.
    """
    parts = split_rows(frames, config.microbatches), jax.random.split(key, config.microbatches)
    # BatchNorm's running statistics play no part in training: every part may begin with the same.
    embedded = jax.lax.map(
        lambda part: _encode(state.params, state.statistics, part[0], part[1], config)[0], parts
    )

    def loss_of(embedded: Float[Array, "p m E"]) -> tuple[Float[Array, ""], Contrast]:
        contrast = judge(join_rows(embedded))
        return contrast.loss, contrast

    cotangents, contrast = jax.grad(loss_of, has_aux=True)(embedded)

    def add(
        carry: tuple[nnx.State, nnx.State], part: tuple[Array, Array, Array]
    ) -> tuple[tuple[nnx.State, nnx.State], None]:
        frames, key, cotangent = part
        gradient, statistics = carry
        encode = lambda params: _encode(params, statistics, frames, key, config)  # noqa: E731
        _, pull, statistics = jax.vjp(encode, state.params, has_aux=True)
        return (jax.tree.map(jnp.add, gradient, pull(cotangent)[0]), statistics), None

    start = jax.tree.map(jnp.zeros_like, state.params), state.statistics
    (gradient, statistics), _ = jax.lax.scan(add, start, (*parts, cotangents))
    return contrast, statistics, gradient


def _encode(
    params: nnx.State,
    statistics: nnx.State,
    frames: Float[Array, "n T F"],
    key: PRNGKeyArray,
    config: TrainConfig,
) -> tuple[Float[Array, "n E"], nnx.State]:
    """Embeddings in training mode, and BatchNorm's new running statistics.

    Weights, their gradient and the loss are float32.
    """
    dtype = compute_dtype(config)
    encoder = nnx.merge(
        encoder_graph(config.model),
        jax.tree.map(lambda leaf: leaf.astype(dtype), params),
        statistics,
        copy=True,
    )
    options = {"rematerialise": config.rematerialise, "freeze_statistics": config.freeze_statistics}
    embeddings = encoder(frames.astype(dtype), train=True, key=key, **options)
    _, _, statistics = nnx.split(encoder, nnx.Param, ...)
    return embeddings, statistics


def compute_dtype(config: TrainConfig) -> jnp.dtype:
    """Returns what the encoder's layers compute in.

    bfloat16 is slower than float32 on a CPU (docs/develop/facts.md), and twice as fast elsewhere.
    """
    if config.compute_dtype != "auto":
        return jnp.dtype(config.compute_dtype)
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def _averaged(state: TrainState, params: nnx.State, decay: float) -> nnx.State:
    """Returns the moving average, with a short memory at first: the random start must not linger in
    it.
    """
    if not decay:
        return params
    step = state.step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old * kept + new * (1 - kept), state.average, params)


def pair_features(
    batch: dict[str, Array], key: PRNGKeyArray, config: TrainConfig
) -> Float[Array, "2B T F"]:
    """Returns log-mel with SpecAugment; rows 2i and 2i + 1 are anchor and replica i, so that a
    shard holds whole pairs.

    A share of `data.short_p` of the replicas shows only a part, `data.short_s` long.
    """
    anchor_key, replica_key = jax.random.split(key)
    anchor = spec_augment(
        batch_features(batch["anchor"], config.model),
        anchor_key,
        config.spec_augment,
        strength=config.spec_augment.anchor_fraction,
    )
    seen = (
        _draw_seen(jax.random.fold_in(key, 2), len(batch["replica"]), config)
        if config.data.short_p
        else None
    )
    replica = spec_augment(
        batch_features(batch["replica"], config.model, seen), replica_key, config.spec_augment
    )
    stacked = jnp.stack([anchor, replica], axis=1)
    return stacked.reshape(-1, *anchor.shape[1:])


def _draw_seen(key: PRNGKeyArray, num: int, config: TrainConfig) -> Int[Array, "n 2"]:
    """Returns the first frame of each replica that is seen, and the first one behind: of most
    replicas all, else a part anywhere.
    """
    which, length, place = jax.random.split(key, 3)
    samples = [
        round(seconds * config.audio.sample_rate_hz)
        for seconds in (*config.data.short_s, config.audio.segment_s)
    ]
    low, high, whole = (config.mel.num_frames(n) for n in samples)
    is_short = jax.random.bernoulli(which, config.data.short_p, (num,))
    num_seen = jnp.where(is_short, jax.random.randint(length, (num,), low, high + 1), whole)
    first = jnp.floor(jax.random.uniform(place, (num,)) * (whole - num_seen + 1)).astype(jnp.int32)
    return jnp.stack([first, first + num_seen], axis=1)
