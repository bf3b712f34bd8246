"""A database of somebody else names no server of ours, and gets no secret."""

import pytest
from sample_tracks import STAMP, track

from confp_jax.database import Database
from confp_jax.index import ExactIndex, external, milvus_sync, on_disk

URI = "milvus://203.0.113.7:19530"


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> Database:
    """A database whose catalogue names a search server; connecting to it would fail the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CONFP_MILVUS", raising=False)
    monkeypatch.setattr(milvus_sync, "connect", lambda *_: pytest.fail("it was contacted"))
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(0)])
        database.set_setting("index", URI)
    return database


def test_an_address_that_only_the_database_names_is_not_used(foreign, caplog):
    assert isinstance(on_disk.open_index(foreign, foreign.snapshot()), ExactIndex)
    assert on_disk.stale_share(foreign, foreign.snapshot()) == 0.0
    with foreign.writing():
        on_disk.rebuild(foreign)
        on_disk.rebuild_if_due(foreign)
    assert URI in caplog.text and "did not name" in caplog.text


def test_the_option_and_the_environment_name_it(foreign, monkeypatch, tmp_path):
    assert on_disk.wanted_kind(foreign, foreign.snapshot()) == ""
    with monkeypatch.context() as patch:
        patch.setenv("CONFP_MILVUS", URI)
        assert on_disk.wanted_kind(foreign, foreign.snapshot()) == URI
    assert on_disk.wanted_kind(foreign, foreign.snapshot()) == ""
    with foreign.writing():
        on_disk.choose(foreign, kind=URI)
    assert on_disk.wanted_kind(foreign, foreign.snapshot()) == URI
    assert not external.is_named(f"{URI}0")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user's"))
    assert on_disk.wanted_kind(foreign, foreign.snapshot()) == ""


def test_a_secret_goes_to_its_own_address(monkeypatch, caplog):
    monkeypatch.setenv("CONFP_MILVUS", URI)
    monkeypatch.setenv("CONFP_MILVUS_TOKEN", "secret")
    assert external.token_for(URI) == "secret"
    assert external.token_for("milvus://elsewhere:19530") == ""
    assert "not sent" in caplog.text and "secret" not in caplog.text


def test_without_a_home(monkeypatch, caplog):
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("CONFP_MILVUS", raising=False)
    monkeypatch.setattr(external.pathlib.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    external.remember(URI)
    assert not external.is_named(URI) and "CONFP_MILVUS" in caplog.text


def test_an_option_is_no_part_of_the_place_that_is_named(foreign, monkeypatch):
    monkeypatch.setenv("CONFP_MILVUS", URI)
    monkeypatch.setenv("CONFP_MILVUS_TOKEN", "secret")
    assert external.is_named(f"{URI}?fallback=exact") and not external.is_named("")
    assert external.token_for(f"{URI}?fallback=exact") == "secret"
    for text in ("milvus://", f"{URI}?other=1", "milvus://[", "hnsw"):
        with foreign.writing():
            foreign.set_setting("index", text)
        assert on_disk.wanted_kind(foreign, foreign.snapshot()) == ""
