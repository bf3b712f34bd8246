"""What the retrieval tests share: music, and an untrained encoder: it tells clean copies apart,
which plumbing needs.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
import soundfile
from sample_tracks import STAMP, track

from confp_jax.audio.decode import decode
from confp_jax.cli import main
from confp_jax.database import Database, ModelId
from confp_jax.library.add import add_paths

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples" / "music"


def save_untrained(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """A `tiny` encoder with its initial weights, saved by `save_encoder`."""
    nnx = pytest.importorskip("flax.nnx")  # the base installation has no JAX

    from configs.fma import get_config
    from confp_jax.config import TrainConfig
    from confp_jax.model.encoder import Encoder
    from confp_jax.model.weights import EncoderState, save_encoder
    from confp_jax.typed_config import from_mapping

    config = from_mapping(TrainConfig, get_config("tiny"))
    encoder = Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(seed))
    _, params, statistics = nnx.split(encoder, nnx.Param, ...)
    save_encoder(folder, config, EncoderState(params, statistics))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An untrained `tiny` encoder."""
    return save_untrained(tmp_path_factory.mktemp("model") / "untrained", 7)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Other weights: fingerprints that cannot be compared."""
    return save_untrained(tmp_path_factory.mktemp("model") / "other", 8)


@pytest.fixture(scope="session")
def embedder(checkpoint: pathlib.Path):
    """In float32 on every machine: oracles are exact."""
    from confp_jax.fingerprint import jax_engine
    from confp_jax.fingerprint.embedder import load_encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax_engine, "has_fast_bfloat16", lambda: False)
        return load_encoder(checkpoint)


@pytest.fixture(scope="session")
def music() -> np.ndarray:
    """30 s of real music at 16 kHz."""
    return decode(EXAMPLES / "jordan-trudgett_battle2.mp3", sample_rate_hz=16_000).samples


@pytest.fixture
def files(music, tmp_path) -> list[pathlib.Path]:
    """Five different tracks of 5 s."""
    paths = [tmp_path / "music" / f"{i}.wav" for i in range(5)]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        soundfile.write(path, music[i * 5 * 16_000 : (i + 1) * 5 * 16_000], 16_000)
    return paths


@pytest.fixture
def database(embedder, tmp_path) -> Database:
    """An empty one, for the untrained encoder."""
    return Database.create(
        tmp_path / "music.db", ModelId(embedder.name, embedder.weights_hash, 0.3)
    )


@pytest.fixture
def filled(tmp_path) -> Database:
    """Two shards: tracks 0 and 1, then track 2."""
    database = Database.create(tmp_path / "music.db", STAMP)
    with database.writing():
        database.add([track(0, 3), track(1, 4)])
        database.add([track(2, 6)])
    return database


@pytest.fixture(scope="session")
def originals(music, tmp_path_factory) -> pathlib.Path:
    """Four tracks of 5 s with tags, one name among them twice."""
    folder = tmp_path_factory.mktemp("music")
    for i, name in enumerate(("one.flac", "two.flac", "sub/one.flac", "Björk.flac")):
        (folder / name).parent.mkdir(exist_ok=True)
        with soundfile.SoundFile(folder / name, "w", 16_000, 1) as file:
            file.title = f"Title {i}"
            file.artist = ("Ann", "Bob")[i % 2]
            file.album = "Álbum"
            file.write(music[i * 5 * 16_000 : (i + 1) * 5 * 16_000])
    return folder


@pytest.fixture
def tagged(originals, tmp_path) -> pathlib.Path:
    return shutil.copytree(originals, tmp_path / "music")


@pytest.fixture
def db(embedder, tagged, tmp_path) -> Database:
    database = Database.create(
        tmp_path / "music.db", ModelId(embedder.name, embedder.weights_hash, 0.3)
    )
    assert all(r.status == "added" for r in add_paths(database, embedder, [tagged]))
    return database


@pytest.fixture
def confp(capsys):
    """Runs a command; returns (status, stdout, stderr), stdout parsed where --json was asked
    for.
    """

    def run(*arguments: object):
        status = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return status, json.loads(out) if "--json" in arguments else out, err

    return run
