"""The database: what goes in comes out, whatever happens to the process or the folder."""

import os
import pathlib
import re
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sample_tracks import DIM, STAMP, check_filled, track
from unit_vectors import unit_rows

from confp_jax.database import Database, DatabaseError, questions


class TestRoundTrip:
    def test_everything_comes_back(self, filled):
        database = Database(str(filled.folder))  # opened again
        assert database.model_id == STAMP
        check_filled(database)
        snapshot = database.snapshot()
        assert (snapshot.vectors.dtype, snapshot.row_tracks.dtype) == (np.float32, np.int32)
        for number, (stored, first, num) in enumerate(
            zip(database.tracks(), (0, 3, 7), (3, 4, 6), strict=True)
        ):
            new = track(number)
            for field in ("name", "path", "sha256", "duration_s"):
                assert getattr(stored, field) == getattr(new, field)
            assert (stored.first_row, stored.num_rows) == (first, num)
        assert database.has("1") and not database.has("3")

    def test_half_precision_loses_half_a_unit_in_the_last_place(self, tmp_path):
        vectors = unit_rows(0, 500, 128)
        database = Database.create(tmp_path / "db", STAMP)
        with database.writing():
            database.add([track(0, vectors=vectors)])
        found = database.snapshot().vectors
        np.testing.assert_array_less(
            np.abs(found - vectors), np.maximum(np.abs(vectors), 2**-14) * 2**-11 + 1e-12
        )
        cosines = np.sum(found * vectors, axis=1) / np.linalg.norm(found, axis=1)
        assert cosines.min() > 1 - 1e-6

    def test_silent_rows_stay_zero(self, tmp_path):
        database = Database.create(tmp_path / "db", STAMP)
        with database.writing():
            database.add([track(0, vectors=np.zeros((3, 32), np.float32)), track(1, 2)])
        snapshot = database.snapshot()
        assert not snapshot.vectors[:3].any() and snapshot.vectors[3:].any(axis=1).all()

    def test_an_empty_database(self, tmp_path):
        database = Database.create(tmp_path / "db", STAMP)
        with database.writing():
            database.add([])
        snapshot = database.snapshot()
        assert (snapshot.tracks, len(snapshot.vectors), len(snapshot.row_tracks)) == ([], 0, 0)
        assert not list((tmp_path / "db" / "vectors").iterdir())

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])  # 1e6 is infinite in float16
    def test_vectors_that_are_not_finite_are_refused(self, filled, value):
        """One such row would make every later search fail."""
        vectors = unit_rows(9, 4, DIM)
        vectors[2, 3] = value
        with (
            np.errstate(over="ignore"),
            filled.writing(),
            pytest.raises(ValueError, match=r"finite|NaN"),
        ):
            filled.add([track(9, vectors=vectors)])
        check_filled(filled)

    def test_a_batch_is_added_whole_or_not_at_all(self, filled):
        """The second track's content is there already."""
        with filled.writing(), pytest.raises((sqlite3.IntegrityError, DatabaseError)):
            filled.add([track(7), track(1)])
        check_filled(Database(filled.folder))
        with filled.writing():
            filled.add([track(3)])
        assert sorted(p.name for p in (filled.folder / "vectors").iterdir()) == [
            "000001.npy",
            "000002.npy",
            "000003.npy",
        ]

    def test_names_that_are_no_utf8(self, filled):
        """Linux file names are bytes: Python carries the odd ones as surrogates."""
        name = os.fsdecode(b"caf\xe9")
        with filled.writing():
            filled.add([track(3, name=name, path=f"/music/{name}.wav")])
        assert "caf" in filled.tracks()[-1].name


class TestCreate:
    def test_a_new_and_an_empty_folder_will_do(self, tmp_path):
        (tmp_path / "empty").mkdir()
        for folder in (tmp_path / "empty", tmp_path / "new" / "below"):
            assert Database.create(folder, STAMP).model_id == STAMP

    @pytest.mark.parametrize("there", ["folder", "file", "database"])
    def test_something_else_is_never_written_into(self, tmp_path, there):
        target = tmp_path / "precious"
        if there == "file":
            target.write_text("thesis")
        elif there == "folder":
            target.mkdir()
            (target / "thesis.txt").write_text("thesis")
        else:
            Database.create(target, STAMP)
        before = sorted(str(p) for p in tmp_path.rglob("*"))
        why = "another process has just made it" if there == "database" else "precious exists"
        with pytest.raises(DatabaseError, match=why):
            Database.create(target, STAMP)
        assert sorted(str(p) for p in tmp_path.rglob("*")) == before

    def test_two_at_once_make_one_database(self, tmp_path):
        """`confp add DB a & confp add DB b`: what one of them has added must not vanish under the
        other's new catalogue.
        """
        barrier = threading.Barrier(4)

        def create(folder: pathlib.Path) -> None:
            barrier.wait()
            Database.create(folder, STAMP)

        with ThreadPoolExecutor(4) as pool:
            for attempt in range(10):
                futures = [pool.submit(create, tmp_path / str(attempt)) for _ in range(4)]
                errors = [future.exception() for future in futures]
                assert [
                    error
                    for error in errors
                    if error is not None and not isinstance(error, DatabaseError)
                ] == []
                assert errors.count(None) == 1
                assert Database(tmp_path / str(attempt)).model_id == STAMP


class TestOpen:
    @pytest.mark.parametrize("there", ["nothing", "folder", "file"])
    def test_what_is_no_database(self, tmp_path, there):
        target = tmp_path / "x"
        if there == "file":
            target.write_text("")
        elif there == "folder":
            target.mkdir()
        with pytest.raises(DatabaseError, match="x is no fingerprint database; `confp add"):
            Database(target)

    def test_a_newer_format(self, filled):
        with filled.connect() as connection:
            connection.execute("UPDATE settings SET value = '4' WHERE key = 'format'")
        with pytest.raises(DatabaseError, match=r"format 4, this version reads 3; install a newer"):
            Database(filled.folder)

    def test_a_missing_setting(self, filled):
        with filled.connect() as connection:
            connection.execute("DELETE FROM settings WHERE key = 'identity'")
        with pytest.raises(DatabaseError, match="'identity'"):
            _ = Database(filled.folder).model_id

    def test_a_moved_and_a_copied_folder(self, filled, tmp_path, monkeypatch):
        shutil.copytree(filled.folder, tmp_path / "copy")
        filled.folder.rename(tmp_path / "elsewhere")
        for folder in ("copy", "elsewhere"):
            check_filled(Database(tmp_path / folder))
        monkeypatch.chdir(tmp_path)
        copy = Database("copy")
        with copy.writing():
            copy.add([track(3)])
        assert len(copy.tracks()) == 4
        check_filled(Database("elsewhere"))  # the copy is a database of its own

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.4, 0.6, 0.9])
    def test_a_truncated_catalogue(self, filled, share):
        """Wherever it was cut off: a DatabaseError that names it, never SQLite's own and never half
        an answer.
        """
        with filled.writing():
            filled.add([track(number, name="x" * 300) for number in range(10, 200)])
        file = filled.folder / "catalogue.sqlite"
        os.truncate(file, int(file.stat().st_size * share))
        with pytest.raises(DatabaseError, match="catalogue"):
            Database(filled.folder).snapshot()
        with pytest.raises(DatabaseError, match="catalogue"):
            Database(filled.folder).tracks()

    def test_a_catalogue_that_is_damaged_in_the_middle(self, filled):
        """It opens, as its first pages are whole; reading the tracks must not end in SQLite's own
        error.
        """
        with filled.writing():
            filled.add([track(number, name="x" * 300) for number in range(10, 200)])
        file = filled.folder / "catalogue.sqlite"
        content = bytearray(file.read_bytes())
        content[5 * 4096 : -4096] = b"\x5a" * (len(content) - 6 * 4096)
        file.write_bytes(content)
        for read in (Database.tracks, Database.snapshot, lambda database: database.has("1")):
            with pytest.raises(DatabaseError, match="catalogue"):
                read(Database(filled.folder))

    def test_a_catalogue_that_is_something_else(self, filled):
        (filled.folder / "catalogue.sqlite").write_bytes(np.random.default_rng(0).bytes(9000))
        with pytest.raises(DatabaseError, match="catalogue"):
            Database(filled.folder)


class TestShards:
    def shard(self, database: Database) -> pathlib.Path:
        return database.folder / "vectors" / "000002.npy"

    @pytest.fixture
    def cut(self, filled, caplog):
        """Checks that the tracks of the second shard are left out for this reason."""

        def check(reason: str) -> None:
            snapshot = filled.snapshot()
            assert [t.name for t in snapshot.damaged] == ["Träck 2"]
            assert [t.name for t in snapshot.tracks] == ["Träck 0", "Träck 1"]
            assert re.search(reason, caplog.text)

        return check

    def test_missing(self, filled, cut):
        self.shard(filled).unlink()
        cut(r"000002.npy is missing")

    @pytest.mark.parametrize("size", [0, 5, 100, 128, 200, -1])
    def test_truncated(self, filled, cut, size):
        shard = self.shard(filled)
        os.truncate(shard, size if size >= 0 else shard.stat().st_size - 1)
        cut(r"000002.npy .*restore it")

    def test_another_file_in_its_place(self, filled, cut):
        np.save(self.shard(filled), unit_rows(0, 9, DIM).astype(np.float16))
        cut(r"000002.npy holds 9 rows instead of 6")

    @pytest.mark.parametrize("other", [np.float16(1), np.zeros(6, "U4"), np.zeros((6, 8))])
    def test_an_array_of_another_kind_in_its_place(self, filled, cut, other):
        np.save(self.shard(filled), other)
        cut(r"000002.npy is damaged")

    def test_rows_of_another_length_in_its_place(self, filled, cut):
        np.save(self.shard(filled), unit_rows(0, 6, 16).astype(np.float16))
        cut("Träck 2")

    def test_code_is_never_run(self, filled, cut):
        np.save(self.shard(filled), np.array([{"a": 1}], dtype=object), allow_pickle=True)
        cut(r"000002.npy is damaged")

    def test_nothing_can_be_read(self, filled):
        for shard in (filled.folder / "vectors").iterdir():
            shard.write_bytes(b"rubbish")
        with pytest.raises(DatabaseError, match=r"000001.npy is damaged"):
            filled.snapshot()

    def test_the_folder_of_shards_is_gone(self, filled):
        shutil.rmtree(filled.folder / "vectors")
        with pytest.raises(DatabaseError, match=r"000001.npy is missing"):
            filled.snapshot()
        with pytest.raises(DatabaseError, match="vectors"), filled.writing():
            filled.add([track(3)])

    def test_committed_shards_are_never_changed(self, filled):
        before = {
            p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (filled.folder / "vectors").iterdir()
        }
        with filled.writing():
            filled.add([track(3)])
        assert len(before) == 2
        for path, (content, changed) in before.items():
            assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, changed)


class TestWriters:
    def test_a_second_writer_is_refused_and_the_first_not_disturbed(self, filled):
        second = Database(filled.folder)
        with filled.writing():
            refused = pytest.raises(
                DatabaseError,
                match=rf"another process is writing to it \(number {os.getpid()}\); wait",
            )
            with refused, second.writing():
                pass
            filled.add([track(3)])
        with second.writing():
            second.add([track(4)])
        assert len(filled.tracks()) == 5

    def test_readers_do_not_wait(self, filled):
        with filled.writing():
            check_filled(Database(filled.folder))

    def test_readers_see_the_last_commit_while_one_is_being_written(self, filled):
        """In the middle of a transaction that has changed pages: neither waits for the other."""
        reader = Database(filled.folder)
        with filled.writing(), filled.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE tracks SET name = name || 'x'")
            check_filled(reader)
        with reader.connect() as connection:
            connection.execute("BEGIN")
            names = [track.name for track in questions.read_tracks(connection)]
            with filled.writing():
                filled.add([track(3)])  # commits under an open read
            assert [t.name for t in questions.read_tracks(connection)] == names
        assert len(names) == 3 and len(reader.tracks()) == 4

    def test_the_lock_ends_with_an_error(self, filled):
        with pytest.raises(RuntimeError), filled.writing():
            raise RuntimeError
        with filled.writing():
            pass

    def test_the_next_writer_removes_what_no_commit_knows(self, filled):
        for name in ("000003.npy", "000003.npy.part", "000017.npy"):
            (filled.folder / "vectors" / name).write_bytes(b"half")
        check_filled(filled)
        with filled.writing():
            filled.add([track(3)])
        assert sorted(p.name for p in (filled.folder / "vectors").iterdir()) == [
            "000001.npy",
            "000002.npy",
            "000003.npy",
        ]

    def test_a_snapshot_is_of_one_moment(self, filled, monkeypatch):
        """A commit between the reader's two questions must not show: tracks without their rows."""
        read_tracks = questions.read_placed_tracks
        writer: list[threading.Thread] = []

        def add() -> None:
            other = Database(filled.folder)
            with other.writing():
                other.add([track(3, 8)])

        def commit_first(connection: sqlite3.Connection):
            if not writer:
                writer.append(threading.Thread(target=add))
                writer[0].start()
                writer[0].join(timeout=2)  # it may also wait until the reader is done
            return read_tracks(connection)

        monkeypatch.setattr(questions, "read_placed_tracks", commit_first)
        snapshot = filled.snapshot()
        writer[0].join()
        assert len(snapshot.row_tracks) == len(snapshot.vectors)
        assert sum(t.num_rows for t in snapshot.tracks) == len(snapshot.vectors)
        assert len(filled.tracks()) == 4  # the writer got through
