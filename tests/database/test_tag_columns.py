"""The tags of tracks in the catalogue, and databases from before it had them."""

import contextlib
import sqlite3
import stat

import pytest
from sample_tracks import STAMP, check_filled, track

from confp_jax.database import Database, TrackTags, catalogue
from confp_jax.database.merge import merge_databases
from confp_jax.database.records import TAG_NAMES
from confp_jax.database.verify import verify

TAGS = TrackTags("Various", "7", "1994", "Läbel", "DEABC9400001", "1" * 36, "2" * 36)


@pytest.fixture
def before(tmp_path) -> Database:
    """Three tracks, as format 2 stored them."""
    database = Database.create(tmp_path / "before.db", STAMP)
    with database.writing():
        database.add([track(number, rows) for number, rows in enumerate((3, 4, 6))])
    with contextlib.closing(sqlite3.connect(database.catalogue)) as connection, connection:
        for name in TAG_NAMES:
            connection.execute(f"ALTER TABLE tracks DROP COLUMN {name}")
        connection.execute("DROP TABLE blocks")
        catalogue.put_setting(connection, "format", "2")
    return Database(database.folder)


def test_format_2_is_read_as_it_is(before):
    check_filled(before)
    assert before.setting("format") == "2" and verify(before) == []
    assert [one.tags for one in before.tracks()] == [None] * 3


def test_format_2_is_read_where_nobody_may_write(before):
    before.folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        check_filled(Database(before.folder))
    finally:
        before.folder.chmod(stat.S_IRWXU)


def test_a_writer_gives_format_2_its_columns(before):
    with before.writing():
        before.add([track(3, tags=TAGS)])
        before.tag({1: TrackTags(isrc="GBAAA0000001")})
    again = Database(before.folder)
    assert again.setting("format") == "3" and verify(again) == []
    assert [one.tags for one in again.tracks()] == [
        TrackTags(isrc="GBAAA0000001"), None, None, TAGS
    ]  # fmt: skip


def test_a_kill_leaves_all_columns_or_none(before):
    with pytest.raises(RuntimeError), before.connect() as connection:
        catalogue.complete(connection)
        raise RuntimeError
    check_filled(Database(before.folder))
    with before.writing():
        pass
    assert Database(before.folder).setting("format") == "3"


def test_a_changed_tag_is_damage_that_verify_sees(tmp_path):
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(0, tags=TAGS)])
    with contextlib.closing(sqlite3.connect(database.catalogue)) as connection, connection:
        connection.execute("UPDATE tracks SET isrc = 'DEABC9400002'")
    assert verify(Database(database.folder))


def test_a_merge_keeps_tags_and_that_nobody_has_read_them(before, tmp_path):
    whole = Database.create(tmp_path / "whole.db", STAMP)
    with whole.writing():
        whole.add([track(9, tags=TAGS)])
    merge_databases(whole, before)
    assert {one.name: one.tags for one in whole.tracks()} == {
        "Träck 9": TAGS, "Träck 0": None, "Träck 1": None, "Träck 2": None
    }  # fmt: skip


def test_a_search_looks_through_tags_where_there_are_any(before):
    assert before.page(search="läbel") == ([], 0)
    assert [one.id for one in before.page(search="träck 1")[0]] == [2]
    with before.writing():
        before.tag({3: TAGS})
    page, total = Database(before.folder).page(search="LÄBEL")
    assert [(one.id, one.tags) for one in page] == [(3, TAGS)] and total == 1
    assert before.track(3) == page[0] and before.ordered_tracks()[2].tags == TAGS


def test_a_tag_that_is_no_text_any_more_is_read_again(tmp_path):
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(0, tags=TAGS)])
    with contextlib.closing(sqlite3.connect(database.catalogue)) as connection, connection:
        connection.execute("UPDATE tracks SET year = x'ff'")
    assert [one.tags for one in Database(database.folder).tracks()] == [None]
