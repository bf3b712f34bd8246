"""An encoder is loaded from whatever holds one; what holds none is refused in a sentence."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from confp_jax.config import TrainConfig
from confp_jax.model.checksums import checksums
from confp_jax.model.inference import embed
from confp_jax.model.shipped import shipped_folder
from confp_jax.model.weights import (
    CheckpointError,
    EncoderState,
    absolute_path,
    hash_weights,
    load_encoder_state,
    load_trained_encoder,
    read_metadata,
    save_encoder,
)
from confp_jax.training.mesh import make_mesh
from confp_jax.training.step import build_state


@pytest.fixture
def workdir(uninterrupted: pathlib.Path) -> pathlib.Path:
    """A run with checkpoints of steps 9 and 12."""
    return uninterrupted


def _assert_equal(found: EncoderState, expected: EncoderState, *, rtol: float = 0.0) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol and 1e-7)


def test_from_a_run_a_step_and_an_export(
    tiny: Callable[..., TrainConfig], workdir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config, newest = load_trained_encoder(workdir)
    assert config == tiny()
    for folder in (workdir / "checkpoints", workdir / "checkpoints" / "12", str(workdir)):
        again_config, again = load_trained_encoder(folder)
        assert again_config == config
        _assert_equal(again, newest)
    older = load_encoder_state(workdir / "checkpoints" / "9")[1]
    assert (
        hash_weights(config.model, older)
        != hash_weights(config.model, newest)
        == hash_weights(config.model, again)
    )
    for dtype, rtol in (("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)):
        save_encoder(tmp_path / dtype, config, newest, dtype=dtype)
        exported_config, exported = load_trained_encoder(tmp_path / dtype)
        assert exported_config == config
        _assert_equal(exported, newest, rtol=rtol)
    power = np.random.default_rng(0).uniform(size=(4, 118, 20)).astype(np.float32)
    exact, rounded = (
        np.asarray(embed(*state, power, config=config.model))
        for state in (newest, load_encoder_state(tmp_path / "float16")[1])
    )
    assert (np.sum(exact * rounded, axis=1) > 0.999).all()


def test_float16_is_half_as_large(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config, state = load_trained_encoder(workdir)
    rng = np.random.default_rng(0)
    wide = EncoderState(
        *jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=(256, *leaf.shape))), tuple(state))
    )
    sizes = {}
    for dtype in ("float32", "float16"):
        save_encoder(tmp_path / dtype, config, wide, dtype=dtype)
        sizes[dtype] = sum(
            path.stat().st_size for path in (tmp_path / dtype).rglob("*") if path.is_file()
        )
    assert sizes["float16"] < 0.6 * sizes["float32"]


def test_a_moved_checkpoint_still_loads(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(workdir, tmp_path / "elsewhere")
    _assert_equal(load_encoder_state(tmp_path / "elsewhere")[1], load_encoder_state(workdir)[1])


def test_identity_sees_weights_and_settings(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny()
    with jax.set_mesh(make_mesh()):
        state = build_state(config, optax.identity())
    encoder = EncoderState(state.params, state.statistics)
    name = hash_weights(config.model, encoder)
    assert len(name) == 16
    assert name == hash_weights(dataclasses.replace(config, num_epochs=9).model, encoder), (
        "how it was trained does not matter"
    )
    assert name != hash_weights(
        dataclasses.replace(config, mel=dataclasses.replace(config.mel, floor=1e-5)).model,
        encoder,
    )
    nudged = EncoderState(
        jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-6), encoder.params),
        encoder.statistics,
    )
    assert name != hash_weights(config.model, nudged)


def test_folders_that_hold_no_encoder(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_encoder_state(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        load_encoder_state(empty)
    other = tmp_path / "other"
    ocp.save_checkpointables(other, {"encoder": {"w": jnp.zeros(3)}})
    with pytest.raises(CheckpointError, match="other"):
        load_encoder_state(other)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_encoder_state(tmp_path / "file")


def _damage(checkpoint: pathlib.Path, lost: str) -> None:
    if lost == "encoder":
        shutil.rmtree(checkpoint / "encoder")
    elif lost == "metadata":
        for path in checkpoint.rglob("*METADATA*"):
            path.unlink()
    else:
        for path in (checkpoint / "encoder").rglob("*"):
            if path.is_file() and "METADATA" not in path.name and path.stat().st_size > 2000:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_LOAD = """
import sys
from confp_jax.model.weights import CheckpointError, load_encoder_state
for folder in sys.argv[1:]:
    try:
        load_encoder_state(folder)
    except CheckpointError as error:
        print(error)
"""


def test_damaged_checkpoints(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """In a process of its own: when a read fails, Orbax leaves tasks behind, which complain
    whenever they are collected.
    """
    folders = [tmp_path / lost for lost in ("encoder", "metadata", "data")]
    for folder in folders:
        shutil.copytree(workdir / "checkpoints" / "12", folder)
        _damage(folder, folder.name)
    command = [sys.executable, "-c", _LOAD, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    told = done.stdout.splitlines()
    assert len(told) == 3
    for folder, line in zip(folders, told, strict=True):
        assert line.startswith(f"{folder}: no confp_jax encoder could be read")


def test_an_unfinished_save_is_not_taken(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Killed while it saved step 15: the folder has Orbax's temporary name."""
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    shutil.copytree(
        copy / "checkpoints" / "9",
        copy / "checkpoints" / "15.orbax-checkpoint-tmp-1700000000000000",
    )
    newest = load_encoder_state(workdir / "checkpoints" / "12")[1]
    _assert_equal(load_encoder_state(copy)[1], newest)


def _largest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _flip(path: pathlib.Path, part: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(part * len(data))] ^= 1 << 6
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["exported", "run"])
def test_changed_arrays_are_refused(
    workdir: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    """As a flipped bit in Orbax's data does, where it decodes: other weights, the same metadata."""
    config, state = load_trained_encoder(workdir)
    folder = tmp_path / "exported"
    save_encoder(folder, config, state, dtype="float16")
    if name == "run":
        folder = tmp_path / "12"
        shutil.copytree(workdir / "checkpoints" / "12", folder)
    load_encoder_state(folder)
    metadata = next(folder.glob("_CHECKPOINT_METADATA"))
    content = json.loads(metadata.read_text())
    stored = content["custom_metadata"]["checksums"]
    for changed in ({**stored, "encoder": "00000000"}, {**stored, "config": "0"}, "", {}):
        content["custom_metadata"]["checksums"] = changed
        metadata.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=f"{folder} is damaged"):
            load_encoder_state(folder)
    content["custom_metadata"]["checksums"] = stored
    config_text = content["custom_metadata"]["config"]
    content["custom_metadata"]["config"] = config_text.replace('"seed"', '"seeb"')
    metadata.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{folder} is damaged: config differ"):
        load_encoder_state(folder)
    content["custom_metadata"]["config"] = config_text
    del content["custom_metadata"]["checksums"]  # as of an earlier version
    metadata.write_text(json.dumps(content))
    load_encoder_state(folder)


@pytest.mark.parametrize("name", ["edge", "edge2", "edge2-64", "edge2-96", "small"])
def test_shipped_models_carry_checksums(name: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shipped_folder(name) / "checkpoint", folder)
    assert set(read_metadata(absolute_path(folder))["checksums"]) == {"encoder", "config"}


def test_one_flipped_bit_in_a_model(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shipped_folder("edge"), folder)
    for part in (0.3, 0.6):
        _flip(_largest(folder / "checkpoint"), part)
        with pytest.raises(CheckpointError):
            load_encoder_state(folder)
        _flip(_largest(folder / "checkpoint"), part)
    load_encoder_state(folder)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_a_checksum_sees_every_element_and_its_place(dtype: str) -> None:
    values = jnp.arange(24).reshape(2, 3, 4).astype(dtype)
    found = checksums({"x": {"a": values}}, config="")["x"]
    assert found == checksums({"x": {"a": values + 0}}, config="")["x"]
    others = [values.at[1, 2, 3].set(values[0, 0, 0]), values[::-1]]
    for other in others:
        assert found != checksums({"x": {"a": other}}, config="")["x"]
    assert found != checksums({"x": {"b": values}}, config="")["x"]
