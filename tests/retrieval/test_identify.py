"""Identifying from Python: the order of answers, the verdict, the model's stamp. Files of every kind: tests/test_cli.py."""

import pathlib

import pytest
import soundfile

from confp_jax.retrieval.add import add_paths
from confp_jax.retrieval.database import Database, DatabaseError, ModelStamp
from confp_jax.retrieval.identify import identify_files, open_database, open_or_create

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


def test_queries_are_answered_one_by_one_in_order(database, embedder, files):
    add_paths(database, embedder, files)
    answers = identify_files(database, embedder, [files[3], pathlib.Path("missing"), files[1]])
    first = next(answers)
    assert (first.matches[0].track, first.matches[0].offset_s) == ("3", 0.0)
    assert first.matches[0].score == pytest.approx(1.0, abs=2e-4)
    rest = list(answers)
    assert [a.query for a in rest] == ["missing", str(files[1])]
    assert rest[0].error and rest[1].matches[0].track == "1"


def test_the_verdict_is_the_margin_against_the_decision(database, embedder, files):
    from confp_jax.retrieval.embed import Decision, Embedder

    add_paths(database, embedder, files)
    margin = next(identify_files(database, embedder, [files[2]])).margin
    assert margin > 0
    for threshold, verdict in ((margin - 0.01, "match"), (margin + 0.01, "unknown")):
        decided = Embedder(embedder.name, embedder.config, embedder._state, Decision(margin=threshold))
        answer = next(identify_files(database, decided, [files[2]]))
        assert (answer.verdict, answer.margin, answer.matches[0].track) == (verdict, margin, "2")


def test_a_database_opens_with_its_model_and_no_other(checkpoint, embedder, tmp_path):
    database, found = open_or_create(tmp_path / "db", str(checkpoint))
    assert database.stamp == ModelStamp(str(checkpoint), embedder.identity, 0.3) and found.identity == embedder.identity
    for model in (None, str(checkpoint)):
        assert open_database(tmp_path / "db", model)[1].identity == embedder.identity
        assert open_or_create(tmp_path / "db", model)[0].stamp == database.stamp
    with database.connect() as connection:
        connection.execute("UPDATE settings SET value = 'fedcba' WHERE key = 'identity'")
    for model in (None, str(checkpoint)):
        with pytest.raises(DatabaseError, match=r"made with model .*fedcba.* cannot be compared"):
            open_database(tmp_path / "db", model)
