"""On eight forced CPU devices as on one: the loss, the step and its options, batches of device
memory.
"""

import numpy as np
import pytest


def test_eight_devices_and_chunks_give_the_same(devices):
    """Value, gradient and all that is reported."""
    found = devices["loss"]
    assert found["eight"] < 1e-6
    assert found["chunked"] < 1e-6
    assert found["chunked_eight"] < 1e-6
    assert "data" in found["gradient_spec"]  # each device keeps the gradient of its own rows


def test_there_is_exactly_one_all_gather(devices):
    assert devices["loss"]["collectives"]["all-gather"] == 1


def test_memory_of_the_loss_is_shared_by_the_devices(devices):
    """4 B^2 / n logits each."""
    memory = {int(num): size for num, size in devices["loss"]["memory_of_devices"].items()}
    for num, size in memory.items():
        assert 1 / 1.3 < num * size / memory[1] < 1.3, memory


def test_chunks_never_hold_all_rows(devices):
    """2,048 rows: the block is 16 MiB, a chunk of 64 rows 0.5 MiB."""
    plain, chunked = devices["loss"]["memory"]
    assert plain > 2048 * 2048 * 4
    assert chunked < 2048 * 2048 * 4 / 4


def test_eight_devices_train_as_one(devices: dict) -> None:
    """Twenty steps with dropout, masks and BatchNorm. Float32 sums in another order: 2e-5 of the
    loss, 1e-4 of the way moved.
    """
    one = devices["steps"]["1"]
    eight = devices["steps"]["8"]
    assert devices["devices"] == 8
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=2e-5)
    np.testing.assert_array_equal(eight["top1"], one["top1"])
    assert one["moved"] > 1e-3, "the steps were no steps"
    assert eight["difference"] < 1e-4 * one["moved"] + 1e-6


def test_the_step_gathers_the_embeddings_once_and_reduces_the_gradient_once(devices: dict) -> None:
    """Every collective of the compiled step, by its bytes: there is no other.

    One all-gather: the embeddings. One all-reduce: the gradient of all weights, and with it the
    sums of loss, top-1, alignment and uniformity. What else is reduced belongs to the model, not
    to the weights: the gathered embeddings' gradient, which every device has a part of for
    everyone's rows, and BatchNorm's two sums over the global batch, forward and backward (of which
    XLA takes the gradient of its offset or scale as well, and does not reduce it again).
    """
    eight = devices["steps"]["8"]
    num_norms = 1
    dim = 32
    embeddings_bytes = 16 * 128 * 4
    scalars_bytes = 4 * 4
    sums_bytes = 2 * dim * 4
    assert eight["collectives"] == {"all-gather": 1, "all-reduce": 2 + 2 * num_norms}
    assert eight["gathered_bytes"] == embeddings_bytes
    *others, of_weights = eight["reduced_bytes"]
    assert others == [sums_bytes] * 2 * num_norms + [embeddings_bytes]
    all_weights = eight["weight_bytes"] + scalars_bytes
    assert all_weights - num_norms * sums_bytes <= of_weights <= all_weights


def test_options_that_save_memory_change_nothing(devices: dict) -> None:
    """Microbatches and rematerialised blocks."""
    found = devices["options"]["saved_memory"]
    assert found["loss"] < 5e-6
    assert found["state"] < 1e-4 * found["moved"] + 1e-7


def test_parts_of_a_batch_are_exact_with_frozen_statistics(devices: dict) -> None:
    found = devices["options"]["frozen"]
    assert found["loss"] < 1e-6
    assert found["state"] < 1e-4 * found["moved"] + 1e-7


def test_a_taught_step_is_the_same_in_parts_and_on_more_devices(devices: dict) -> None:
    taught = devices["options"]["taught"]
    assert taught["loss"] < 2e-5
    assert taught["state"] < 1e-4 * taught["moved"] + 1e-6
    assert taught["added"] == pytest.approx(1 / 0.05, rel=0.1), (
        "random fingerprints are at right angles to any other"
    )


def test_bfloat16_is_nearly_float32(devices: dict) -> None:
    found = devices["options"]["bfloat16"]
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
