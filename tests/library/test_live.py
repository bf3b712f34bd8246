"""A database that changes while it is searched: what the view holds then. No model is needed."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from sample_tracks import STAMP, track

from confp_jax.database import Database, DatabaseError, OtherModelError
from confp_jax.library import live as live_module
from confp_jax.library.live import LiveDatabase, live_moments
from confp_jax.library.monitor import Moment
from confp_jax.library.searcher import Match


@pytest.fixture
def folder(tmp_path):
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(0), track(1)])
    return database.folder


@pytest.fixture
def live(folder, monkeypatch) -> LiveDatabase:
    def searcher(database, _embedder, **_options):
        return SimpleNamespace(reference=SimpleNamespace(snapshot=database.snapshot()))

    monkeypatch.setattr(live_module, "Searcher", searcher)
    monkeypatch.setattr(live_module, "_LOOK_S", 0.01)
    return LiveDatabase(Database(folder), SimpleNamespace(sample_rate_hz=1))


def names(live: LiveDatabase) -> set[str]:
    return {found.name for found in live.view.tracks.values()}


def add_elsewhere(folder, number: int) -> None:
    other = Database(folder)
    with other.writing():
        other.add([track(number)])


def test_after_a_change_it_is_in_the_view(live):
    before = live.view
    with live.changing(), live.database.writing():
        live.database.add([track(2)])
    assert names(live) == {"Träck 0", "Träck 1", "Träck 2"}
    assert len(before.tracks) == 2, "a search keeps the view that it began with"


def test_after_a_change_that_failed_the_view_is_of_now_as_well(live, folder):
    with pytest.raises(KeyError), live.changing():
        add_elsewhere(folder, 3)
        raise KeyError
    assert "Träck 3" in names(live)


def test_a_look_loads_only_what_has_changed(live, folder):
    before = live.view
    live.look()
    assert live.view is before
    add_elsewhere(folder, 3)
    live.look()
    assert "Träck 3" in names(live)


def test_a_view_that_cannot_be_had_is_tried_again(live, folder, monkeypatch):
    load = live.load
    before = live.view
    add_elsewhere(folder, 3)

    def fails(**_):
        raise DatabaseError("a shard is missing")

    monkeypatch.setattr(live, "load", fails)
    with pytest.raises(DatabaseError, match="a shard is missing"):
        live.look()
    assert live.view is before
    monkeypatch.setattr(live, "load", load)
    live.look()
    assert "Träck 3" in names(live)


def test_another_models_database_ends_it(live, folder, monkeypatch, caplog):
    before = live.view
    add_elsewhere(folder, 3)

    def other(**_):
        raise OtherModelError("reindexed with another model")

    monkeypatch.setattr(live, "load", other)
    live.follow(threading.Event())  # returns, though nobody stops it
    assert live.outdated is not None
    assert live.view is before
    assert "reindexed with another model" in caplog.text


def test_it_follows_until_it_is_stopped(live, folder):
    stop = threading.Event()
    following = threading.Thread(target=live.follow, args=(stop,), daemon=True)
    following.start()
    add_elsewhere(folder, 3)
    for _ in range(6000):
        if "Träck 3" in names(live):
            break
        stop.wait(0.01)
    assert "Träck 3" in names(live)
    stop.set()
    following.join(60)
    assert not following.is_alive()


def test_the_index_is_built_beside_changes(live, monkeypatch):
    """By one thread at a time; what goes wrong is a warning."""
    builds = []

    def is_due(_database):
        builds.append(threading.current_thread().name)
        raise OSError("disk full")

    monkeypatch.setattr(live_module, "is_due", is_due)
    live.settle()
    with live.changing():
        live.build_index()
        live.build_index()
    live.settle()
    assert builds == ["build index"] * 2


def match(number: int, begin_s: float) -> Match:
    return Match("t", "/t", 0.0, 0.9, 0.99, begin_s, 5.0, 1.0, number, "", "", "")


def test_a_stream_goes_on_with_the_tracks_of_now(live, folder, monkeypatch):
    """A part ends no sooner than after 30 s; places are of the whole stream, and a track that has
    gone is not reported.
    """
    kept, gone = sorted(live.view.tracks)
    parts = []

    def moments(searcher, blocks, *, alarms_per_hour):
        assert alarms_per_hour == 7
        heard_s = 0.0
        for block in blocks:
            heard_s += len(block)
            known = sorted(track.id for track in searcher.reference.snapshot.tracks)
            found = [match(number, heard_s - 1) for number in known]
            parts.append(searcher)
            yield Moment(heard_s, found, found, found)

    monkeypatch.setattr(live_module, "moments", moments)
    told = []
    blocks = [np.zeros(20, np.float32)] * 4
    for moment in live_moments(live, blocks, alarms_per_hour=7):
        told.append(moment)
        if len(told) == 1:
            with live.changing(), live.database.writing():
                live.database.remove([gone])
    assert [moment.heard_s for moment in told] == [20, 40, 60, 80]
    assert parts[0] is parts[1] is not parts[2] is parts[3]
    assert [[one.query_offset_s for one in moment.finished] for moment in told] == [
        [19, 19],
        [39],
        [59],
        [79],
    ]
    assert [[one.id for one in moment.playing] for moment in told][1:] == [[kept]] * 3
