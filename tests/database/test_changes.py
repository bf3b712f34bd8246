"""What changes a database: removal, compaction, upgrades, a full disk; and `verify`, which finds
what is wrong with one.
"""

import contextlib
import fcntl
import os
import pathlib
import resource
import sqlite3

import numpy as np
import pytest
from sample_tracks import DIM, STAMP, check_filled, track
from unit_vectors import unit_rows

from confp_jax.database import Database, DatabaseError, snapshots
from confp_jax.database import verify as verifying
from confp_jax.database.compact import compact_shards, merge_small_shards
from confp_jax.database.vectors import decode, encode, stored_dim
from confp_jax.database.verify import verify


class TestRemove:
    def test_it_is_gone_at_once_and_its_rows_when_compacted(self, filled):
        with filled.writing():
            filled.remove([filled.tracks()[1].id])
        for database in (filled, Database(filled.folder)):
            snapshot = database.snapshot()
            assert [t.name for t in snapshot.tracks] == ["Träck 0", "Träck 2"]
            assert [(t.first_row, t.num_rows) for t in snapshot.tracks] == [(0, 3), (3, 6)]
            assert snapshot.row_tracks.tolist() == [0] * 3 + [1] * 6
            expected = np.concatenate([unit_rows(0, 3, DIM), unit_rows(2, 6, DIM)])
            np.testing.assert_allclose(snapshot.vectors, expected, atol=2**-12)
            assert not database.has("1") and database.has("2")
        with filled.writing():
            done = compact_shards(filled)
        assert (done.num_removed_rows, done.num_shards_before, done.num_shards_after) == (4, 2, 1)
        assert [p.name for p in (filled.folder / "vectors").iterdir()] == ["000003.npy"]
        np.testing.assert_array_equal(filled.snapshot().vectors, snapshot.vectors)
        assert [t.id for t in filled.tracks()] == [t.id for t in snapshot.tracks]

    def test_the_same_content_may_come_back_under_a_new_id(self, filled):
        old = filled.tracks()[2].id
        with filled.writing():
            filled.remove([old])
            filled.add([track(2, 6)])
        check_filled(filled)
        assert filled.tracks()[2].id > old

    def test_an_id_is_never_given_twice(self, filled):
        with filled.writing():
            filled.remove([t.id for t in filled.tracks()])
            compact_shards(filled)
            assert filled.snapshot().vectors.shape == (0, 0) and filled.tracks() == []
            filled.add([track(5)])
        assert filled.tracks()[0].id == 4
        assert [p.name for p in (filled.folder / "vectors").iterdir()] == [
            "000003.npy"
        ]  # nor is a shard's number

    def test_one_is_replaced_in_one_commit(self, filled):
        with filled.writing():
            with pytest.raises(DatabaseError):
                filled.add([track(0)], replacing=[filled.tracks()[1].id])  # 0 is there
            check_filled(filled)
            filled.add([track(7)], replacing=[filled.tracks()[1].id])
        assert [t.name for t in filled.tracks()] == ["Träck 0", "Träck 2", "Träck 7"]

    def test_a_reader_goes_on_with_what_it_opened(self, tmp_path):
        """Shards big enough to be mapped, compacted away under a reader; and one that reads the
        catalogue just before.
        """
        database = Database.create(tmp_path / "db", STAMP)
        vectors = unit_rows(0, 20_000, DIM)
        with database.writing():
            database.add([track(0, vectors=vectors), track(1)])
        snapshot = database.snapshot()
        with database.writing():
            database.remove([snapshot.tracks[1].id])
            compact_shards(database)
        assert [p.name for p in (database.folder / "vectors").iterdir()] == ["000002.npy"]
        np.testing.assert_array_equal(
            np.asarray(snapshot.vectors)[:20_000], vectors.astype(np.float16).astype(np.float32)
        )

    def test_a_reader_whose_shard_was_just_compacted_away_looks_again(self, filled, monkeypatch):
        open_shard = snapshots.open_shard
        compacted: list[int] = []

        def compact_first(path: pathlib.Path, num_rows: int):
            if not compacted:
                compacted.append(1)
                with Database(filled.folder).writing():
                    compact_shards(Database(filled.folder))
            return open_shard(path, num_rows)

        monkeypatch.setattr(snapshots, "open_shard", compact_first)
        check_filled(filled)
        assert compacted

    def test_damage_in_a_shard_whose_tracks_were_removed_does_no_harm(self, filled):
        (filled.folder / "vectors" / "000001.npy").write_bytes(b"rubbish")
        assert len(filled.snapshot().damaged) == 2
        with filled.writing():
            filled.remove([t.id for t in filled.tracks()[:2]])
        assert len(filled.snapshot().vectors) == 6


def test_many_small_adds_leave_few_shards(tmp_path):
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        for number in range(70):
            database.add([track(number)])
            merge_small_shards(database)
    assert len(list((database.folder / "vectors").iterdir())) < 8
    np.testing.assert_allclose(
        database.snapshot().vectors,
        np.concatenate([unit_rows(i, 5, DIM) for i in range(70)]),
        atol=2**-12,
    )


class TestPrecision:
    def test_half_the_bytes_for_a_small_error(self, tmp_path):
        vectors = unit_rows(0, 3_000, 128)
        vectors[7] = 0
        sizes = {}
        for precision in ("float16", "int8", "binary"):
            database = Database.create(tmp_path / precision, STAMP, precision=precision)
            with database.writing():
                database.add([track(0, vectors=vectors)])
            assert Database(database.folder).precision == precision
            found = np.asarray(database.snapshot().vectors)
            cosines = np.sum(found * vectors, axis=1) / np.maximum(
                np.linalg.norm(found, axis=1), 1e-9
            )
            least = {"float16": 1 - 1e-6, "int8": 1 - 1e-4, "binary": 0.65}[
                precision
            ]  # of signs sqrt(2 / pi) on average
            assert np.delete(cosines, 7).min() > least
            assert not found[7].any()
            sizes[precision] = next((database.folder / "vectors").iterdir()).stat().st_size
        assert sizes["int8"] < 0.52 * sizes["float16"]
        assert sizes["binary"] < 0.064 * sizes["float16"]
        with database.writing():
            database.add([track(1, vectors=unit_rows(1, 5, 128))])
            compact_shards(database)
        np.testing.assert_array_equal(np.asarray(database.snapshot().vectors)[:3_000], found)

    def test_signs_are_unit_vectors_and_silence_is_none(self):
        vectors = unit_rows(0, 400, 64)
        vectors[3] = 0
        vectors[4] = -np.abs(vectors[4])  # no positive value, and yet no silence
        stored = encode(vectors, "binary")
        assert stored.shape == (400, 8) and stored.dtype == np.uint8 and stored_dim(stored) == 64
        found = decode(stored)
        np.testing.assert_array_equal(found[5:] > 0, vectors[5:] > 0)
        np.testing.assert_allclose(
            np.linalg.norm(np.delete(found, 3, axis=0), axis=1), 1.0, rtol=1e-6
        )
        assert not found[3].any() and found[4].any()
        np.testing.assert_array_equal(encode(found, "binary"), stored)
        with pytest.raises(ValueError, match="signs of 12 values"):
            encode(unit_rows(0, 2, 12), "binary")

    def test_another_precision_is_refused(self, tmp_path):
        with pytest.raises(DatabaseError, match=r"int4.*float16, int8, binary"):
            Database.create(tmp_path / "db", STAMP, precision="int4")


class TestFormat1:
    def old(self, folder: pathlib.Path) -> pathlib.Path:
        """As the first version wrote it."""
        (folder / "vectors").mkdir(parents=True)
        with (
            contextlib.closing(sqlite3.connect(folder / "catalogue.sqlite")) as connection,
            connection,
        ):
            connection.executescript("""
                CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
                CREATE TABLE shards (id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE,
                num_rows INTEGER NOT NULL);
                CREATE TABLE tracks (
                  id INTEGER PRIMARY KEY, name TEXT NOT NULL, path TEXT NOT NULL,
                  sha256 TEXT NOT NULL UNIQUE,
                  duration_s REAL NOT NULL, shard INTEGER NOT NULL REFERENCES shards(id),
                  first_row INTEGER NOT NULL,
                  num_rows INTEGER NOT NULL, added_at REAL NOT NULL);""")
            settings = {
                "format": "1",
                "model": STAMP.name,
                "identity": STAMP.weights_hash,
                "hop_s": "0.3",
            }
            connection.executemany("INSERT INTO settings VALUES (?, ?)", list(settings.items()))
            row = 0
            for number, num_rows, shard in ((0, 3, 1), (1, 4, 1), (2, 6, 2)):
                row = 0 if number in (0, 2) else row
                new = track(number)
                values = (
                    number + 1,
                    new.name,
                    new.path,
                    new.sha256,
                    new.duration_s,
                    shard,
                    row,
                    num_rows,
                    1.7e9,
                )
                connection.execute("INSERT INTO tracks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                row += num_rows
            connection.execute(
                "INSERT INTO shards VALUES (1, '000001.npy', 7), (2, '000002.npy', 6)"
            )
        for file, parts in (("000001", [(0, 3), (1, 4)]), ("000002", [(2, 6)])):
            np.save(
                folder / "vectors" / f"{file}.npy",
                np.concatenate([unit_rows(*p, dim=DIM) for p in parts]).astype(np.float16),
            )
        return folder

    def test_it_is_upgraded_when_it_is_opened(self, tmp_path):
        database = Database(self.old(tmp_path / "db"))
        check_filled(database)
        assert database.setting("format") == "3" and database.precision == "float16"
        assert [t.added_at for t in database.tracks()] == [1.7e9] * 3
        assert verify(database) == []
        with database.writing():
            database.add([track(3)])
            database.remove([1])
            compact_shards(database)
        assert [t.name for t in Database(database.folder).tracks()] == [
            "Träck 1",
            "Träck 2",
            "Träck 3",
        ]

    def test_while_another_process_writes_it_is_refused_and_left_alone(self, tmp_path):
        folder = self.old(tmp_path / "db")
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(DatabaseError, match="another process is writing"):
                Database(folder)
        check_filled(Database(folder))

    def test_a_missing_shard_stops_it_and_changes_nothing(self, tmp_path):
        folder = self.old(tmp_path / "db")
        (folder / "vectors" / "000002.npy").rename(tmp_path / "kept")
        with pytest.raises(DatabaseError, match=r"cannot be upgraded.*000002.npy"):
            Database(folder)
        (tmp_path / "kept").rename(folder / "vectors" / "000002.npy")
        check_filled(Database(folder))


class TestDiskFull:
    """The kernel's own refusal: a limit on the size of files, as a full disk gives one in the
    middle of a write.
    """

    @contextlib.contextmanager
    def limit(self, num_bytes: int):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_in_the_middle_of_an_add(self, filled):
        with filled.writing(), self.limit(100_000):
            with pytest.raises(
                DatabaseError, match=r"disk is full; all that was committed is safe"
            ):
                filled.add([track(3, 5_000)])
            assert len(list((filled.folder / "vectors").iterdir())) == 2
            filled.add([track(4)])  # there is room for a small one
        assert [t.name for t in filled.tracks()][3:] == ["Träck 4"]
        with filled.writing():
            filled.add([track(3, 5_000)])
        assert verify(filled) == []

    def test_in_the_middle_of_a_compaction(self, filled):
        with filled.writing():
            filled.add([track(3, 5_000)])
            filled.remove([1])
            with self.limit(100_000), pytest.raises(DatabaseError, match="disk is full"):
                compact_shards(filled)
        assert [t.name for t in filled.tracks()] == ["Träck 1", "Träck 2", "Träck 3"]
        assert verify(filled) == []

    def test_in_the_middle_of_a_commit(self, filled):
        """The catalogue itself cannot grow."""
        size = (filled.folder / "catalogue.sqlite").stat().st_size
        with (
            filled.writing(),
            self.limit(size // 2),
            pytest.raises(DatabaseError, match=r"disk is full|cannot be read or written"),
        ):
            filled.add([track(number, 1, name="x" * 2_000) for number in range(50, 90)])
        check_filled(Database(filled.folder))


class TestVerify:
    def test_a_sound_database_has_no_problems(self, filled):
        assert verify(filled) == []

    def test_one_changed_bit_in_a_shard(self, filled):
        path = filled.folder / "vectors" / "000001.npy"
        content = bytearray(path.read_bytes())
        content[-7] ^= 4
        path.write_bytes(content)
        (problem,) = verify(filled)
        assert "000001.npy" in problem.what and "checksum" in problem.what
        assert problem.tracks == [1, 2]

    def test_a_missing_shard_and_a_truncated_one(self, filled):
        (filled.folder / "vectors" / "000001.npy").unlink()
        os.truncate(filled.folder / "vectors" / "000002.npy", 100)
        problems = verify(filled)
        assert [p.tracks for p in problems] == [[1, 2], [3]]

    def test_a_compaction_meanwhile_is_no_problem(self, filled, monkeypatch):
        """What was compacted away is checked where it is now, and nothing is called missing."""
        real = verifying.file_sha256
        compacted: list[int] = []

        def compact_first(path: pathlib.Path) -> str:
            if not compacted:
                compacted.append(1)
                with Database(filled.folder).writing():
                    compact_shards(Database(filled.folder))
                flip_last = filled.folder / "vectors" / "000003.npy"
                content = bytearray(flip_last.read_bytes())
                content[-7] ^= 4
                flip_last.write_bytes(content)
            return real(path)

        monkeypatch.setattr(verifying, "file_sha256", compact_first)
        (problem,) = verify(filled)
        assert "000003.npy" in problem.what and "checksum" in problem.what

    def test_tracks_outside_their_shard(self, filled):
        with filled.connect() as connection:
            connection.execute("UPDATE tracks SET first_row = 5 WHERE id = 3")
            connection.execute("UPDATE tracks SET first_row = 1 WHERE id = 2")
        problems = verify(filled)
        assert any("beyond" in p.what and p.tracks == [3] for p in problems)
        assert any("overlap" in p.what and p.tracks == [1, 2] for p in problems)


def test_a_folder_that_cannot_be_written_can_be_read(filled, monkeypatch):
    """From a read-only medium: SQLite must not want to write beside the catalogue."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check_filled(Database(filled.folder))
    assert sorted(p.name for p in filled.folder.iterdir()) == [
        "catalogue.sqlite",
        "lock",
        "vectors",
    ]
    with pytest.raises(DatabaseError, match="cannot be written; copy it"), filled.writing():
        pass
    # While another user writes: what was committed last, from the write-ahead log.
    monkeypatch.undo()
    with contextlib.closing(sqlite3.connect(filled.catalogue)) as other:
        other.execute("UPDATE tracks SET name = 'new' WHERE id = 3")
        other.commit()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert [t.name for t in Database(filled.folder).tracks()] == ["Träck 0", "Träck 1", "new"]


def test_an_interrupted_writer_s_log_on_a_read_only_disk_is_told_with_a_way_out(
    filled, monkeypatch
):
    filled.catalogue.with_name("catalogue.sqlite-wal").write_bytes(b"frames")

    def refuse(*_, **__):  # what SQLite says where it cannot make its shared memory
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DatabaseError, match=r"interrupted.*copy the folder to where you may"):
        Database(filled.folder)


def test_a_track_is_found_by_id_path_or_name(filled, monkeypatch):
    with filled.writing():
        filled.add([track(3, name="Träck 0"), track(4, name="2")])
    assert [t.id for t in filled.find("Träck 0")] == [1, 4]
    assert [t.id for t in filled.find("2")] == [5]  # a name that is a number is a name
    assert filled.find("1") == []
    assert [t.id for t in filled.find("/müsic/1 'x'.wav")] == [2]
    monkeypatch.chdir("/")
    assert [t.id for t in filled.find("müsic/1 'x'.wav")] == [2]
    assert filled.find("nothing") == []
