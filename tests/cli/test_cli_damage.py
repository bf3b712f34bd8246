"""What the commands say of damaged files, of a full disk, and of names that steer a terminal."""

import gc
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import DecodeError, decode
from confp_jax.cli import main
from confp_jax.model.weights import CheckpointError, load_encoder_state

RATE = 16_000


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE)
    soundfile.write(path, noise, RATE)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = bytes(30_000)
    path.write_bytes(content)
    return path


def test_every_command_tells_what_was_lost(confp, made, model, damaged, tmp_path):
    with_model = ("--model", model)
    for command in (
        ("identify", made, damaged),
        ("monitor", made, damaged),
        ("compare", damaged, damaged, *with_model),
        ("embed", damaged, "--out", tmp_path / "x.npz", *with_model),
    ):
        status, _, err = confp(*command)
        assert f"note: {damaged}: is damaged: " in err and status == 0, command


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def swapped_for_a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("files", "harm"),
    [
        ("d/*", pathlib.Path.unlink),
        ("ocdbt.process_0/d/*", cut),
        ("manifest.ocdbt", cut),
        ("manifest.ocdbt", swapped_for_a_folder),
        ("array_metadatas/process_0", cut),
        ("_METADATA", cut),
    ],
)
def test_a_damaged_checkpoint_is_an_error_of_a_line(model, tmp_path, capfd, files, harm):
    shutil.copytree(model, tmp_path / "model")
    for file in (tmp_path / "model/checkpoint/encoder").glob(files):
        harm(file)
    with pytest.raises(CheckpointError) as raised:
        load_encoder_state(tmp_path / "model")
    gc.collect()  # of tasks that failed without a word
    assert str(raised.value).startswith(f"{tmp_path / 'model'}: no confp_jax encoder could be read")
    assert "\n" not in str(raised.value) and "Traceback" not in capfd.readouterr().err


def test_an_error_of_the_disk_is_one_of_the_file(damaged, monkeypatch):
    def failing(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("confp_jax.audio.container.check_encryption", failing)
    with pytest.raises(DecodeError, match=r"flac: cannot be read \(Input/output error\)"):
        decode(damaged, sample_rate_hz=RATE)


def test_standard_output_on_a_full_disk_is_an_error_of_a_line(made, monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["list", str(made)]) == 1
    assert capfd.readouterr().err == "error: No space left on device\n"


def test_embed_tries_its_output_first(confp, damaged, model, tmp_path):
    (tmp_path / "x.npz").mkdir()
    out = tmp_path / "x.npz"
    status, _, err = confp("embed", damaged, "--out", out, "--model", model)
    assert (status, err) == (1, f"error: {out}: Is a directory\n")
