"""What the commands say of damaged files, of a full disk, and of names that steer a terminal."""

import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import DecodeError, decode
from confp_jax.cli import main

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
