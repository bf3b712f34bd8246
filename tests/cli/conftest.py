"""One small database, made once, and a command line to run on copies of it."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from user_files import EXAMPLES, OTHERS, RATE, SOURCE, save_untrained

from confp_jax.audio.decode import decode
from confp_jax.cli import main
from confp_jax.matching.decision import Decision


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> pathlib.Path:
    """An untrained `tiny` model with a decision: clean copies exceed it, white noise does not."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    weights_hash = save_untrained(folder / "checkpoint", seed=7)
    weights = np.tile([-12.0, 0.0, 160.0, 0.0], (2, 1, 1, 1))  # a margin of 0.075 is even odds
    tails = np.tile([-6.0, 0.5], (2, 1, 1, 1))
    (folder / "decision.json").write_text(
        Decision((3.0,), (1,), weights, tails, weights_hash=weights_hash).to_json()
    )
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> pathlib.Path:
    """Other weights: fingerprints that cannot be compared."""
    folder = tmp_path_factory.mktemp("other") / "tiny"
    save_untrained(folder, seed=8)
    return folder


@pytest.fixture(scope="session")
def music(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("music")
    for name in (SOURCE, *OTHERS):
        shutil.copy(EXAMPLES / f"{name}.mp3", folder)
    return folder


@pytest.fixture(scope="session")
def made(model, music) -> pathlib.Path:
    """A database of 7 tracks; tests that write take a copy (`database`)."""
    folder = music.parent / "made.db"
    assert main(["add", str(folder), str(music), "--model", str(model), "--json"]) == 0
    return folder


@pytest.fixture(scope="session")
def answering(music) -> pathlib.Path:
    """The same tracks in a database of the model that ships, for what is said of places: an
    untrained one knows them roughly.
    """
    folder = music.parent / "answering.db"
    assert main(["add", str(folder), str(music), "--model", "edge", "--json"]) == 0
    return folder


@pytest.fixture
def database(made, tmp_path) -> pathlib.Path:
    return shutil.copytree(made, tmp_path / "music.db")


@pytest.fixture(scope="session")
def source() -> np.ndarray:
    return decode(EXAMPLES / f"{SOURCE}.mp3", sample_rate_hz=RATE).samples


@pytest.fixture(scope="session")
def clip(source) -> np.ndarray:
    """5 s from 7.35 s on: between two fingerprints."""
    return source[round(7.35 * RATE) : round(12.35 * RATE)]


@pytest.fixture
def confp(capsys):
    """Runs a command; returns (status, stdout, stderr), stdout parsed where --json was asked
    for.
    """

    def run(*arguments: str | pathlib.Path):
        status = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return (
            status,
            json.loads(out, parse_constant=pytest.fail) if "--json" in arguments else out,
            err,
        )

    return run
