"""Tracks that are made when they are asked for, and the questions that do not make them all."""

import pytest
from sample_tracks import STAMP, track

from confp_jax.database import Database, StoredTrack, catalogue
from confp_jax.database.tracks import Tracks, TracksById, track_numbers


@pytest.fixture
def database(tmp_path) -> Database:
    """Five tracks, of which the second is removed."""
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(n, n + 1, artist="Björk" if n % 2 else "x") for n in range(5)])
        database.remove([2])
    return database


def test_they_are_a_sequence_that_makes_only_what_is_asked_for(database, monkeypatch):
    everything = database.tracks()
    made: list[int] = []
    monkeypatch.setattr(
        "confp_jax.database.tracks.StoredTrack",
        lambda *values: made.append(values[6]) or StoredTrack(*values),
    )
    tracks = database.snapshot().tracks
    assert isinstance(tracks, Tracks) and len(tracks) == 4 and not made
    assert tracks[2] == everything[2] and tracks[-1:] == everything[-1:] and made == [4, 5]
    by_id = TracksById(tracks)
    assert list(by_id) == [1, 3, 4, 5] and made == [4, 5]
    assert by_id[3] == everything[1] and by_id.get(2) is None and 6 not in by_id
    assert tracks == everything
    for numbers in (track_numbers(tracks), track_numbers(everything)):
        assert [list(column) for column in numbers] == [
            [1, 3, 4, 5],
            [0, 1, 4, 8],
            [1, 3, 4, 5],
        ]


def test_a_page_of_them(database):
    assert database.num_tracks() == 4
    assert database.duration_s() == sum(one.duration_s for one in database.tracks())
    page, total = database.page(offset=1, limit=2)
    assert [one.id for one in page] == [3, 4] and total == 4
    page, total = database.page(search="BJÖRK", limit=1)
    assert [one.id for one in page] == [4] and total == 1
    assert [one.id for one in database.page(search="müsic/4")[0]] == [5]


def test_one_of_them(database):
    found = database.track(4)
    assert found is not None and found.name == "Träck 3" and database.track(2) is None
    assert database.ids_of(["3", "1", "none"]) == {"3": 4}
    assert [one.id for one in database.find("/müsic/3 'x'.wav")] == [4]
    assert [one.id for one in database.find("5")] == [5]


def test_who_watches_sees_what_others_commit(database):
    watch = catalogue.ChangeWatch(database.catalogue)
    assert watch.has_changed() and not watch.has_changed()
    with database.writing():
        database.remove([5])
    assert watch.has_changed() and not watch.has_changed()
    watch.close()
