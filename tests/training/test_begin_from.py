"""Fine-tuning begins with another encoder's weights, their average is what is kept, a step that
fails changes nothing.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from confp_jax.audio.mel import mel_centres_hz
from confp_jax.config import Phase, TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.model.inference import embed
from confp_jax.model.shipped import shipped_folder
from confp_jax.model.weights import (
    CheckpointError,
    EncoderState,
    load_encoder_state,
    load_trained_encoder,
    save_encoder,
)
from confp_jax.training.fine_tune import warm_start
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.optim import make_optimizer, plan_stages
from confp_jax.training.step import TrainState, build_state, train_step
from confp_jax.training.train import train
from confp_jax.typed_config import ConfigError


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    return make_optimizer(
        config.optimizer, plan_stages([Phase(9, config.optimizer.learning_rate, 4)], [1])
    )


def _build(config: TrainConfig) -> TrainState:
    with jax.set_mesh(make_mesh()):
        return build_state(config, _optimizer(config))


def _shapes(config: TrainConfig) -> TrainState:
    """A state without its arrays, which need not be compiled: enough where all are taken over."""
    return jax.eval_shape(lambda: build_state(config, _optimizer(config)))


@pytest.fixture(scope="module")
def saved(
    tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, TrainState]:
    """An encoder that is not what the seed gives, as a checkpoint folder."""
    config = tiny()
    state = _build(config)
    moved = {
        name: jax.tree.map(lambda leaf: leaf + 0.25, getattr(state, name))
        for name in ("params", "statistics")
    }
    state = state._replace(**moved)
    folder = tmp_path_factory.mktemp("model")
    save_encoder(folder / "checkpoint", config, EncoderState(state.params, state.statistics))
    return folder, state


@pytest.mark.parametrize("conv_norm", ["batch", "layer"])
def test_weights_are_taken_over(tiny, saved, conv_norm: str) -> None:
    """Also where the other kind of normalisation is asked for: its scale and offset have another
    name there.
    """
    folder, source = saved
    config = tiny(init_from=str(folder / "checkpoint"), encoder={"conv_norm": conv_norm})
    begun = warm_start(_build(config), config)
    for taken in (begun.params, begun.average):
        expected = jax.tree.leaves(source.params)
        found = jax.tree.leaves(taken)
        assert len(found) == len(expected)
        assert sorted(float(leaf.sum()) for leaf in found) == pytest.approx(
            sorted(float(leaf.sum()) for leaf in expected)
        )
    expected = source.statistics if conv_norm == "batch" else _build(config).statistics
    for one, other in zip(
        jax.tree.leaves(begun.statistics), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    names = {
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(begun.params)
    }
    assert any("layer_norm" in name for name in names) == (conv_norm == "layer")


def test_a_run_begins_with_it(tiny, saved, tmp_path: pathlib.Path) -> None:
    """The warm-up's first learning rate is 0: after one step the weights are still those taken
    over. Resumed, they and the statistics move.
    """
    folder, source = saved
    config = tiny(init_from=str(folder / "checkpoint"))
    train(config, tmp_path, stop_at_step=1)
    for one, other in zip(
        jax.tree.leaves(load_encoder_state(tmp_path)[1].params),
        jax.tree.leaves(source.params),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    train(dataclasses.replace(config, init_from="gone"), tmp_path, stop_at_step=2)
    assert not _same(load_encoder_state(tmp_path)[1].params, source.params)
    assert not _same(load_encoder_state(tmp_path)[1].statistics, source.statistics)


def _same(one: nnx.State, other: nnx.State) -> bool:
    """Whether any array of theirs is."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(np.array_equal(mine, theirs) for mine, theirs in leaves)


def test_an_exported_models_folder_will_do(tiny, saved, capsys) -> None:
    """As for `--model`; what of it is changed for the run is told."""
    folder, source = saved
    config = tiny(init_from=str(folder), mel={"fmax_hz": 7000.0})
    warm_start(_shapes(config), config)
    assert (
        capsys.readouterr().err
        == f"init_from={folder} is changed for this run: mel.fmax_hz=7000.0 instead of 8000.0\n"
    )
    same = tiny(init_from=str(folder))
    begun = warm_start(_shapes(same), same)
    assert not capsys.readouterr().err
    for one, other in zip(
        jax.tree.leaves(begun.params), jax.tree.leaves(source.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_shipped_model_by_name(tiny, root: pathlib.Path) -> None:
    source, encoder = load_trained_encoder(
        root / "confp_jax" / "pretrained" / "edge" / "checkpoint"
    )
    config = dataclasses.replace(source, init_from="edge", phases=())
    begun = warm_start(_shapes(config), config)
    for one, other in zip(
        jax.tree.leaves(begun.params), jax.tree.leaves(encoder.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("conv_norm", "more"), [("batch", 2), ("layer", 1)])
def test_layers_that_are_added_change_nothing_at_first(
    tiny, tmp_path: pathlib.Path, conv_norm: str, more: int
) -> None:
    """Until they are trained."""
    config = tiny(encoder={"conv_norm": conv_norm})
    state = _build(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32), state.params
    )
    save_encoder(tmp_path / "model", config, EncoderState(params, state.statistics))
    power = rng.uniform(
        0.1, 1, (2, config.mel.num_frames(config.audio.segment_samples), config.mel.num_mels)
    ).astype(np.float32)
    expected = embed(params, state.statistics, power, config=config.model)
    deeper = tiny(
        encoder={"conv_norm": conv_norm, "num_layers": config.encoder.num_layers + more},
        init_from=str(tmp_path / "model"),
    )
    begun = warm_start(_build(deeper), deeper)
    np.testing.assert_allclose(
        embed(begun.params, begun.statistics, power, config=deeper.model), expected, atol=1e-5
    )


def _begun_with(
    state: TrainState, source: TrainConfig, config: TrainConfig, folder: pathlib.Path
) -> TrainState:
    """What `config` begins with where `init_from` is the encoder of `state`."""
    save_encoder(folder / "source", source, EncoderState(state.params, state.statistics))
    begins = dataclasses.replace(config, init_from=str(folder / "source"))
    return warm_start(_shapes(config), begins)


def test_of_more_layers_the_first_and_the_last_are_taken(tiny, tmp_path: pathlib.Path) -> None:
    deep = tiny(encoder={"num_layers": 3})
    state = _build(deep)
    begun = _begun_with(state, deep, tiny(encoder={"num_layers": 2}), tmp_path)
    for layer, origin in enumerate((0, 2)):
        taken, expected = (
            jax.tree.leaves(params["layers"][number])
            for params, number in ((begun.params, layer), (state.params, origin))
        )
        for one, other in zip(taken, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change", [{"frames_per_token": 2}, {"frames_per_token": 1}, {"pool_segments": 1}]
)
def test_shorter_tokens_and_fewer_parts_hear_the_same_of_sound_that_stays(
    tiny, tmp_path: pathlib.Path, change: dict
) -> None:
    """Shorter tokens of four frames that are alike, while a convolution sees one token; one part of
    two that are alike.
    """
    sizes = (
        {"frames_per_token": 4, "pool_segments": 1}
        if "frames_per_token" in change
        else {"pool_segments": 2}
    )
    source = tiny(encoder=sizes)
    state = _build(source)
    for layer in state.params["layers"].values():
        kernel = layer["convolution"]["depthwise_kernel"]
        layer["convolution"]["depthwise_kernel"] = kernel.replace(
            kernel[...].at[jnp.array([0, 1, 3, 4])].set(0)
        )
    num_tokens = source.mel.num_frames(source.audio.segment_samples) // 4
    tokens = (
        np.random.default_rng(0)
        .uniform(0.1, 1, (2, num_tokens, source.mel.num_mels))
        .astype(np.float32)
    )
    power = np.repeat(
        tokens if "frames_per_token" in change else np.broadcast_to(tokens[:, :1], tokens.shape),
        4,
        axis=1,
    )
    config = tiny(encoder=sizes | change)
    begun = _begun_with(state, source, config, tmp_path)
    expected = embed(state.params, state.statistics, power, config=source.model)
    np.testing.assert_allclose(
        embed(begun.params, begun.statistics, power, config=config.model), expected, atol=1e-5
    )


@pytest.mark.parametrize("mel", [{}, {"num_mels": 60}, {"fmin_hz": 20.0, "scale": "htk"}])
def test_other_mel_filters_hear_the_same_of_what_is_straight(
    tiny, tmp_path: pathlib.Path, mel: dict
) -> None:
    """A log-mel that falls evenly with the frequency gives the tokens it did where the new ones
    reach further.
    """
    source = tiny(mel={"fmin_hz": 200.0, "fmax_hz": 5000.0})
    config = tiny(mel=mel)
    state = _build(source)
    begun = _begun_with(state, source, config, tmp_path)
    tokens = []
    for params, hears in ((state.params, source), (begun.params, config)):
        frames = np.tile(1 - 2e-4 * mel_centres_hz(hears.mel), source.encoder.frames_per_token)
        tokens.append(frames @ np.asarray(params["input"]["kernel"][...]))
    np.testing.assert_allclose(tokens[1], tokens[0], atol=1e-5)


def test_what_does_not_fit_is_refused(tiny, saved, tmp_path: pathlib.Path) -> None:
    folder = str(saved[0] / "checkpoint")
    refused = (
        ({"encoder": {"dim": 64}}, r"set --config.encoder.dim=32 \(not 64\)$"),
        (
            {"encoder": {"num_heads": 4}},
            r"set --config.encoder.num_heads=2 \(not 4\)$",
        ),  # its arrays would fit
        (
            {"encoder": {"dim": 64, "dropout": 0.3}, "mel": {"floor": 1e-5}},
            r"mel.floor=1e-06 \(not 1e-05\); set --config.encoder.dim=32",
        ),
        (
            {"encoder": {"frames_per_token": 3}},
            r"set --config.encoder.frames_per_token to a divisor of 8 \(not 3\)$",
        ),
    )
    for change, message in refused:
        config = tiny(init_from=folder, **change)
        with pytest.raises(ConfigError, match=message):
            warm_start(_shapes(config), config)
    config = tiny(init_from="edge", freeze_statistics=True)
    sizes = load_encoder_state(shipped_folder("edge") / "checkpoint")[0]
    config = dataclasses.replace(
        config, mel=sizes.mel, encoder=dataclasses.replace(sizes.encoder, conv_norm="batch")
    )
    with pytest.raises(ConfigError, match="no BatchNorm statistics to keep"):
        warm_start(_shapes(config), config)
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        warm_start(_shapes(tiny()), tiny(init_from=str(tmp_path / "nowhere")))


def test_frozen_statistics_stay_as_they_came(tiny, saved, tmp_path: pathlib.Path) -> None:
    """While the weights move."""
    folder, source = saved
    config = tiny(init_from=str(folder / "checkpoint"), freeze_statistics=True)
    train(config, tmp_path, stop_at_step=2)
    after = load_encoder_state(tmp_path)[1]
    jax.tree.map(np.testing.assert_array_equal, after.statistics, source.statistics)
    assert not _same(after.params, source.params)


def test_the_average_follows_the_weights(tiny) -> None:
    """Oracle: the recursion in numpy."""
    config = tiny(optimizer={"average_decay": 0.4})
    mesh = make_mesh()
    optimizer = _optimizer(config)
    batches = train_batches(config)
    with jax.set_mesh(mesh):
        state = build_state(config, optimizer)
        expected = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
        for step in range(4):
            kept = min(0.4, (1 + step) / (10 + step))
            state, _ = train_step(
                state, global_batch(next(batches), mesh), config=config, optimizer=optimizer
            )
            new = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
            expected = [kept * a + (1 - kept) * b for a, b in zip(expected, new, strict=True)]
    for found, wanted in zip(jax.tree.leaves(state.average), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    assert not np.allclose(jax.tree.leaves(state.average)[0], jax.tree.leaves(state.params)[0])


def test_a_step_that_is_not_finite_changes_nothing(tiny) -> None:
    config = tiny(optimizer={"average_decay": 0.4})  # the program of the test before
    mesh = make_mesh()
    optimizer = _optimizer(config)
    batch = next(train_batches(config))
    broken = batch | {"replica": np.full_like(batch["replica"], np.nan)}
    with jax.set_mesh(mesh):
        state = build_state(config, optimizer)
        after, metrics = train_step(
            state, global_batch(broken, mesh), config=config, optimizer=optimizer
        )
        moved = state
        for _ in range(2):  # the warm-up's first learning rate is 0
            moved, _ = train_step(
                moved, global_batch(batch, mesh), config=config, optimizer=optimizer
            )
    assert not jnp.isfinite(metrics.loss)
    assert int(after.step) == 1
    for one, other in zip(
        jax.tree.leaves(after._replace(step=state.step)), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    pairs = zip(jax.tree.leaves(moved.params), jax.tree.leaves(state.params), strict=True)
    assert any(not np.array_equal(one, other) for one, other in pairs)


def test_the_average_must_be_one(tiny) -> None:
    with pytest.raises(ConfigError, match="average_decay"):
        dataclasses.replace(
            tiny(), optimizer=dataclasses.replace(tiny().optimizer, average_decay=1.0)
        )
