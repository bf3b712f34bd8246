"""The step learns, does the same on any number of devices, and its options change nothing but
cost.
"""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from confp_jax.config import OptimizerConfig, Phase, TrainConfig
from confp_jax.data.input import train_batches
from confp_jax.training.mesh import global_batch, make_mesh
from confp_jax.training.optim import make_optimizer, plan_stages
from confp_jax.training.step import build_state, pair_features, train_step


@pytest.fixture(scope="module")
def problem(tiny: Callable[..., TrainConfig]):
    """One configuration and one batch for the whole module, so that the step is compiled once;
    dropout and masks are on.
    """
    config = tiny(optimizer=OptimizerConfig(learning_rate=3e-3))
    mesh, optimizer = (
        make_mesh(),
        make_optimizer(config.optimizer, plan_stages([Phase(60, 3e-3, 4)], [1])),
    )
    return config, mesh, optimizer, global_batch(next(train_batches(config)), mesh)


def test_it_can_learn_one_batch_by_heart(problem) -> None:
    config, mesh, optimizer, batch = problem
    losses, top1 = [], []
    with jax.set_mesh(mesh):
        state = build_state(config, optimizer)
        for _ in range(120):
            state, metrics = train_step(state, batch, config=config, optimizer=optimizer)
            losses.append(float(metrics.loss))
            top1.append(float(metrics.top1))
    assert int(state.step) == 120
    assert np.log(7) * 0.5 < losses[0], "8 embeddings: chance is log 7"
    assert np.mean(losses[-10:]) < 0.3 * losses[0]  # masks and dropout go on
    assert np.mean(top1[-10:]) > 0.9


def test_seed_and_step_decide_the_draws(problem) -> None:
    """Same seed and step, same bits; SpecAugment and dropout draw anew at every step."""
    config, mesh, optimizer, batch = problem
    with jax.set_mesh(mesh):
        first, again = (build_state(config, optimizer) for _ in range(2))
        later = first._replace(step=first.step + 1)
        losses = [
            float(train_step(s, batch, config=config, optimizer=optimizer)[1].loss)
            for s in (first, again, first, later)
        ]
    assert losses[0] == losses[1] == losses[2] != losses[3]


def test_short_replicas_show_a_part_and_anchors_all(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny(
        audio={"segment_s": 3.0},
        data={"short_p": 0.4, "short_s": (1.0, 2.0)},
        spec_augment={"num_frequency_masks": 0, "num_time_masks": 0},
    )
    power = (
        np.random.default_rng(0)
        .uniform(1, 5, (2, 400, 368, config.mel.num_mels))
        .astype(np.float32)
    )
    frames = np.asarray(
        pair_features({"anchor": power[0], "replica": power[1]}, jax.random.key(0), config)
    )
    seen = (frames != 0).any(axis=2)
    assert seen[::2].all()
    assert (
        np.abs(np.diff(seen[1::2].astype(int), axis=1)).sum(axis=1) <= 2
    ).all()  # one run of frames
    num, is_short = seen[1::2].sum(axis=1), ~seen[1::2].all(axis=1)
    assert 0.3 < is_short.mean() < 0.5
    assert (
        118 <= num[is_short].min() < 130 and 235 < num[is_short].max() <= 243
    )  # frames in 1 and 2 s
    first = seen[1::2].argmax(axis=1)[is_short] / (368 - num[is_short])
    assert first.min() < 0.05 and first.max() > 0.95 and 0.45 < first.mean() < 0.55


@pytest.mark.parametrize("num", ["2", "4", "8"])
def test_any_number_of_devices_trains_alike(devices: dict, num: str) -> None:
    """Twenty steps with dropout, masks and BatchNorm. Float32 sums in another order: 2e-5 of the
    loss, 1e-4 of the way moved.
    """
    one, many = devices["steps"]["1"], devices["steps"][num]
    assert devices["devices"] == 8
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=2e-5)
    np.testing.assert_array_equal(many["top1"], one["top1"])
    assert one["moved"] > 1e-3, "the steps were no steps"
    assert many["difference"] < 1e-4 * one["moved"] + 1e-6


def test_the_step_gathers_the_embeddings_once_and_reduces_the_gradient_once(devices: dict) -> None:
    """Every collective of the compiled step, by its bytes: there is no other.

    One all-gather: the embeddings. One all-reduce: the gradient of all weights, and with it the
    sums of loss, top-1, alignment and uniformity. What else is reduced belongs to the model, not
    to the weights: the gathered embeddings' gradient, which every device has a part of for
    everyone's rows, and BatchNorm's two sums over the global batch, forward and backward (of which
    XLA takes the gradient of its offset or scale as well, and does not reduce it again).
    """
    eight, num_norms, dim = devices["steps"]["8"], 1, 32
    embeddings_bytes, scalars_bytes, sums_bytes = 16 * 128 * 4, 4 * 4, 2 * dim * 4
    assert eight["collectives"] == {"all-gather": 1, "all-reduce": 2 + 2 * num_norms}
    assert eight["gathered_bytes"] == embeddings_bytes
    *others, of_weights = eight["reduced_bytes"]
    assert others == [sums_bytes] * 2 * num_norms + [embeddings_bytes]
    all_weights = eight["weight_bytes"] + scalars_bytes
    assert all_weights - num_norms * sums_bytes <= of_weights <= all_weights


@pytest.mark.parametrize(
    ("option", "loss", "state"), [("microbatches", 5e-6, 1e-4), ("rematerialise", 5e-6, 1e-4)]
)
def test_options_that_save_memory_change_nothing(
    devices: dict, option: str, loss: float, state: float
) -> None:
    found = devices["options"][option]
    assert found["loss"] < loss
    assert found["state"] < state * found["moved"] + 1e-7


def test_parts_of_a_batch_are_exact_with_frozen_statistics(devices: dict) -> None:
    """As BatchNorm's own are of each part: another loss."""
    frozen, live = (devices["options"][name]["microbatches"] for name in ("frozen", "live"))
    assert frozen["loss"] < 1e-6
    assert frozen["state"] < 1e-4 * frozen["moved"] + 1e-7
    assert live["loss"] > 1e-4


def test_a_taught_step_is_the_same_in_parts_and_on_more_devices(devices: dict) -> None:
    taught = devices["options"]["taught"]
    for found in (taught["microbatches"], taught["devices"]):
        assert found["loss"] < 2e-5
        assert found["state"] < 1e-4 * found["moved"] + 1e-6
    assert taught["added"] == pytest.approx(1 / 0.05, rel=0.1), (
        "random fingerprints are at right angles to any other"
    )


def test_bfloat16_is_nearly_float32(devices: dict) -> None:
    found = devices["options"]["compute_dtype"]
    assert 0 < found["loss"] < 0.05, "8 bits of mantissa: not equal, and not far"
    assert 0 < found["state"] < 0.3 * found["moved"]


def test_a_batch_that_does_not_divide(devices: dict) -> None:
    """Six pairs on eight devices: the user's mistake, so one of the errors that the command line
    turns into a sentence.
    """
    assert devices["refusal"].startswith("ConfigError"), devices["refusal"]
    assert "does not divide over 8 devices" in devices["refusal"]


def test_crops_from_device_memory_are_those_of_the_input_pipeline(devices: dict) -> None:
    found = devices["resident"]
    assert found["plain"] == {"1": 0.0, "4": 0.0}
    assert max(found["mixed"].values()) < 1e-3, (
        "the same draws make the same sound, on the host and on a device"
    )
    assert 0.5 < found["changed"] <= 1


def test_a_device_cuts_its_share_of_the_batch(devices: dict) -> None:
    """Whoever holds the crops, also where half of them lie on one device and a single exchange does
    not do.
    """
    cut = devices["cut"]
    assert [cut[num]["wrong"] for num in ("1", "2", "4", "8")] == [0, 0, 0, 0]
    assert cut["8"]["bytes"] < cut["batch_bytes"], (
        "each of the two exchanges has about an eighth of the batch, not all of it"
    )
