"""Milvus against local search, with the real milvus-lite."""

import importlib.util
import shutil

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
def uri(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
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
    found = index.search(queries, k=k)
    expected = ExactIndex(vectors).search(queries, k=k)
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

    monkeypatch.setattr(milvus, "_MESSAGE_BYTES", 20 * (4 * 32 + 64))
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


def test_two_databases_of_one_model_have_collections_of_their_own(database, tmp_path, uri):
    other = Database.create(tmp_path / "other", STAMP)
    with other.writing():
        other.add([track(7, 40)])
        on_disk.choose(other, kind=uri)
        rebuild(other)
    check(other)
    assert stale_share(database, database.snapshot()) == stale_share(other, other.snapshot()) == 0.0


def test_a_copied_database_gets_a_collection_of_its_own_when_it_is_written(database, tmp_path):
    copy = Database(shutil.copytree(database.folder, tmp_path / "copy"))
    assert stale_share(copy, copy.snapshot()) == 0.0  # it reads the first one's
    with copy.writing():
        copy.remove([t.id for t in copy.tracks()[:30]])
        rebuild(copy)
    assert stale_share(database, database.snapshot()) == stale_share(copy, copy.snapshot()) == 0.0


def test_compact_says_who_searches(database, uri, capsys):
    assert main(["compact", str(database.folder)]) == 0
    assert f"{uri} holds a copy of all fingerprints" in capsys.readouterr().out


def test_a_server_that_is_away(database, monkeypatch, caplog):
    """A clear answer, or exact search by choice; what is added is safe in both cases."""
    from confp_jax.index import milvus

    monkeypatch.setattr(milvus, "_TIMEOUT_S", 0.5)
    away = "milvus://127.0.0.1:9"
    monkeypatch.setenv("CONFP_MILVUS", away)
    with database.writing():
        database.set_setting("index", away)
        database.add([track(100, 70)])
        on_disk.rebuild_if_due(database)
    assert "with the next `confp add`" in caplog.text
    snapshot = database.snapshot()
    with pytest.raises(DatabaseError, match="127.0.0.1:9 cannot be used .*is Milvus running"):
        open_index(database, snapshot)
    with database.writing():
        database.set_setting("index", f"{away}?fallback=exact")
    queries = np.asarray(snapshot.vectors[:3])
    found = open_index(database, snapshot).search(queries, k=2)
    assert found.rows[:, 0].tolist() == [0, 1, 2] and "searched here" in caplog.text


def test_one_that_goes_away_while_it_is_searched(database, uri, monkeypatch):
    from confp_jax.index import milvus

    def refuse(self, *arguments, **options):
        raise milvus.MilvusException(message="gone")

    snapshot = database.snapshot()
    strict = open_index(database, snapshot)
    with database.writing():
        database.set_setting("index", f"{uri}?fallback=exact")
    lenient = open_index(database, snapshot)
    monkeypatch.setattr(milvus.MilvusClient, "search", refuse)
    queries = np.asarray(snapshot.vectors[:3])
    with pytest.raises(DatabaseError, match="gone"):
        strict.search(queries, k=2)
    assert lenient.search(queries, k=2).rows[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("num_rows", "is_binary", "version", "name"),
    [
        (10**7, False, (0, 0), "AUTOINDEX"),
        (10**4, True, (2, 3), "BIN_FLAT"),
        (10**8, True, (2, 3), "BIN_IVF_FLAT"),
        (10**5, False, (2, 3), "IVF_SQ8"),
        (10**7, False, (2, 3), "SCANN"),
        (10**7, False, (2, 6), "IVF_RABITQ"),
        (10**8, False, (2, 3), "DISKANN"),
    ],
)
def test_the_index_suits_the_size_and_the_server(num_rows, is_binary, version, name):
    from confp_jax.index.milvus import index_type

    assert index_type(num_rows, is_binary=is_binary, version=version).name == name


def test_a_service_needs_the_catalogue_alone(database, uri, tmp_path):
    """Rows and scores are those of the shards, which are not there."""
    from confp_jax.index.remote import open_remote

    vectors = np.asarray(database.snapshot().vectors)
    (tmp_path / "lean").mkdir()
    shutil.copy(database.catalogue, tmp_path / "lean")
    snapshot, index = open_remote(uri, Database(tmp_path / "lean"))
    assert snapshot.vectors.shape == vectors.shape and len(snapshot.tracks) == 60
    np.testing.assert_allclose(
        snapshot.vectors[[[3, 2999], [50, 3]]], vectors[[[3, 2999], [50, 3]]]
    )
    np.testing.assert_allclose(snapshot.vectors[95:105], vectors[95:105])
    queries = vectors[::97] + 0.1 * unit_rows(1, len(vectors[::97]), 32)
    found = index.search(queries, k=20)
    expected = ExactIndex(vectors).search(queries, k=20)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert np.mean(found.rows == expected.rows) > 0.99


@pytest.mark.parametrize("uri", ["milvus://", "milvus://h:1?x=1", "milvus://h:1?fallback=no"])
def test_addresses_that_are_none(uri, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compact", str(tmp_path), "--index", uri])
    assert "expected milvus://HOST:PORT" in capsys.readouterr().err
