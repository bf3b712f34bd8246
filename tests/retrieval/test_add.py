"""Adding from Python: commits, interruptions. Files of every kind: tests/test_cli.py."""

import pathlib

import numpy as np
import pytest
import soundfile

from confp_jax.retrieval import add
from confp_jax.retrieval.add import Added, add_paths
from confp_jax.retrieval.database import Database, ModelStamp

RATE = 16_000


@pytest.fixture
def files(music, tmp_path) -> list[pathlib.Path]:
    """Five different tracks of 5 s."""
    paths = [tmp_path / "music" / f"{i}.wav" for i in range(5)]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        soundfile.write(path, music[i * 5 * RATE : (i + 1) * 5 * RATE], RATE)
    return paths


@pytest.fixture
def database(embedder, tmp_path) -> Database:
    return Database.create(tmp_path / "music.db", ModelStamp(embedder.name, embedder.identity, 0.3))


def test_every_file_is_reported_as_it_is_done(database, embedder, files):
    seen: list[tuple[Added, int]] = []
    results = add_paths(database, embedder, files, report=lambda added, total: seen.append((added, total)))
    assert [added for added, _ in seen] == results
    assert {total for _, total in seen} == {5}
    assert [r.path for r in results] == list(map(str, files))
    assert [t.name for t in database.tracks()] == ["0", "1", "2", "3", "4"]


def test_the_stored_vectors_are_the_embedders(database, embedder, files, music):
    add_paths(database, embedder, files[:2])
    snapshot = database.snapshot()
    for i in range(2):
        expected = embedder.fingerprint(soundfile.read(files[i], dtype="float32")[0]).vectors
        np.testing.assert_allclose(snapshot.vectors[snapshot.row_tracks == i], expected, atol=2**-11)


def test_long_adds_are_committed_on_the_way(database, embedder, files, monkeypatch):
    monkeypatch.setattr(add, "_COMMIT_SECONDS", 9.0)
    held: list[int] = []
    add_paths(database, embedder, files, report=lambda *_: held.append(len(database.tracks())))
    assert held == [0, 0, 2, 2, 4]  # as of the moment before each commit
    assert len(database.tracks()) == 5
    assert len(list((database.folder / "vectors").iterdir())) == 3


def test_an_interrupted_add_keeps_what_was_done_and_goes_on(database, embedder, files):
    """Ctrl-C after minutes of work must not throw them away; the same command then goes on."""

    def interrupt(added: Added, _total: int) -> None:
        if added.path == str(files[3]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_paths(database, embedder, files, report=interrupt)
    assert len(database.tracks()) >= 3
    statuses = [r.status for r in add_paths(database, embedder, files)]
    assert statuses[:3] == ["unchanged"] * 3 and statuses[4] == "added"
    assert [t.name for t in database.tracks()] == ["0", "1", "2", "3", "4"]


def test_a_file_that_vanishes_and_one_that_cannot_be_read(database, embedder, files):
    def vanish(added: Added, _total: int) -> None:
        if added.path == str(files[0]):
            files[1].unlink()

    results = add_paths(database, embedder, [*files, files[0].parent], report=vanish)
    assert [r.status for r in results] == ["added", "failed", "added", "added", "added"]
    assert "no such file" in results[1].error and str(files[1]) in results[1].error
