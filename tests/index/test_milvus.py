"""Milvus against local search, with the real milvus-lite."""

import importlib.util

import numpy as np
import pytest
from sample_tracks import DIM, STAMP, track
from unit_vectors import unit_rows

from confp_jax.cli import main
from confp_jax.database import Database, DatabaseError, ModelId
from confp_jax.index import ExactIndex, on_disk
from confp_jax.index.approximate import ApproximateIndex
from confp_jax.index.on_disk import open_index, rebuild, stale_share

pytestmark = [
    pytest.mark.skipif(not importlib.util.find_spec("milvus_lite"), reason="the extra `milvus`"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def uri(tmp_path) -> str:
    return f"milvus://{tmp_path / 'rows.db'}"


@pytest.fixture
def database(tmp_path, uri) -> Database:
    """60 tracks of 50 rows, mirrored."""
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(number, 50) for number in range(60)])
        on_disk.choose(database, kind=uri)
        rebuild(database)
    return database


def check(database: Database, k: int = 20) -> ApproximateIndex:
    """The same rows and scores as exact search."""
    snapshot = database.snapshot()
    index = open_index(database, snapshot)
    assert isinstance(index, ApproximateIndex)
    vectors = np.asarray(snapshot.vectors)
    queries = vectors[::97] + 0.1 * unit_rows(1, len(vectors[::97]), DIM)
    found, expected = index.search(queries, k=k), ExactIndex(vectors).search(queries, k=k)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert np.mean(found.rows == expected.rows) > 0.99
    index._coarse.close()
    return index


def test_the_same_answers_as_local_search(database):
    index = check(database)
    assert index._tail is None
    assert stale_share(database, database.snapshot()) == 0.0


def test_added_and_removed_tracks_show_at_once_and_are_synced(database):
    with database.writing():
        database.add([track(100, 70)])
        database.remove([t.id for t in database.tracks()[10:20]])
    index = check(database)
    assert len(index._tail_rows) == 70
    assert stale_share(database, database.snapshot()) == pytest.approx((70 + 500) / (2500 + 70))
    with database.writing():
        rebuild(database)
    assert stale_share(database, database.snapshot()) == 0.0
    index = check(database)
    assert len(index._tail_rows) == 0


def test_a_sync_that_was_interrupted_goes_on(database, monkeypatch):
    """In the middle of a track of several batches: it counts only when its first row is there."""
    from confp_jax.index import milvus

    monkeypatch.setattr(milvus, "_BATCH_ROWS", 20)
    with database.writing():
        database.add([track(100, 70)])
        upsert = milvus.MilvusClient.upsert
        calls: list[int] = []

        def fail_at_the_third(self, *arguments, **options):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return upsert(self, *arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(milvus.MilvusClient, "upsert", fail_at_the_third)
            rebuild(database)
    index = check(database)
    assert len(index._tail_rows) == 70
    with database.writing():
        rebuild(database)
    assert len(check(database)._tail_rows) == 0


def test_each_model_has_a_collection_of_its_own(database, tmp_path, uri):
    other = Database.create(tmp_path / "other", ModelId("m", "feed", 0.3))
    with other.writing():
        other.add([track(7, 40)])
        on_disk.choose(other, kind=uri)
        rebuild(other)
    check(other)
    check(database)


def test_one_that_cannot_be_reached(database, tmp_path, capsys):
    with database.writing():
        on_disk.choose(database, kind=f"milvus://{tmp_path}/none/at/all/rows.db")
    with pytest.raises(DatabaseError, match=r"none/at/all/rows.db cannot be used"):
        open_index(database, database.snapshot())
    with pytest.raises(SystemExit):
        main(["compact", str(database.folder), "--index", "pinecone"])
    assert "milvus://HOST:PORT" in capsys.readouterr().err
    assert main(["compact", str(database.folder), "--index", "exact"]) == 0
    assert isinstance(open_index(database, database.snapshot()), ExactIndex)
