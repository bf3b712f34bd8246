"""Tracks that are made when they are asked for, and the questions that do not make them all."""

import pytest
from sample_tracks import DIM, STAMP, track

from confp_jax.database import Database, StoredTrack, catalogue
from confp_jax.database.questions import next_used_shard
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


@pytest.mark.parametrize(
    "change",
    [
        "name = x'ff00'",
        "path = x'2f'",
        "duration_s = 'long'",
        "num_rows = 'x'",
        "shard = -3",
        "shard = 4611686018427387904",
        "num_rows = 9223372036854775807",
        "first_row = 9223372036854775807",
        "first_row = -9223372036854775808",
        "title = CAST(x'41ff42' AS TEXT), artist = x'00'",
    ],
)
def test_a_damaged_one_costs_no_other_and_none_is_made(database, monkeypatch, change):
    with database.connect() as connection:
        connection.execute(f"UPDATE tracks SET {change} WHERE id = 4")
    made: list[int] = []
    monkeypatch.setattr(
        "confp_jax.database.tracks.StoredTrack",
        lambda *values: made.append(values[6]) or StoredTrack(*values),
    )
    snapshot = database.snapshot()
    assert set(made) <= {4}  # which the warning names
    assert [one.id for one in snapshot.tracks] == [1, 3, 5]
    assert len(snapshot.vectors) == 1 + 3 + 5
    assert snapshot.row_tracks.tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2]


def test_a_damaged_letter_or_value_breaks_no_question(database):
    with database.connect() as connection:
        connection.execute("UPDATE tracks SET title = CAST(x'41ff42' AS TEXT) WHERE id = 3")
        connection.execute("UPDATE tracks SET name = x'312e35', album = x'ff' WHERE id = 4")
    damaged = "A\N{REPLACEMENT CHARACTER}B"
    assert [one.title for one in database.snapshot().tracks] == ["", damaged, ""]
    assert [one.id for one in database.page(search="a\N{REPLACEMENT CHARACTER}b")[0]] == [3]
    assert [one.id for one in database.page()[0]] == [1, 3, 5] and database.page()[1] == 3
    assert [one.id for one in database.page(search="träck")[0]] == [1, 3, 5]
    assert [one.id for one in database.find("Träck 2")] == [3] and not database.find("1.5")
    assert database.num_tracks() == 3 and database.track(4) is None
    assert database.duration_s() == sum(one.duration_s for one in database.tracks())


def test_the_length_of_vectors_is_known_without_reading_the_tracks(tmp_path):
    """It is asked at every commit: of a thousand tracks and shards one is looked at."""
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(0)])
        database.add([track(1)])
        database.remove([1])
        with database.connect() as connection:
            columns = "path, duration_s, shard, first_row, num_rows, added_at"
            connection.executemany(
                f"INSERT INTO tracks (name, sha256, {columns}) "
                f"SELECT name, ? || sha256, {columns} FROM tracks WHERE id = 2",
                [(str(number),) for number in range(1_000)],
            )
            steps = []
            connection.set_progress_handler(lambda: steps.append(0), 1)
            assert next_used_shard(connection, -1) == (2, "000002.npy", 5)
            connection.set_progress_handler(None, 1)
            assert next_used_shard(connection, 2) is None
    assert len(steps) < 200
    assert database.dim() == DIM
