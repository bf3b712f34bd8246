"""Disks that are full, shared by a group, read-only, or without locks and flushes of folders."""

import errno
import fcntl
import os
import pathlib
import resource
import stat

import pytest
from sample_tracks import STAMP, track

from confp_jax.database import Database, DatabaseError
from confp_jax.database.verify import verify


class TestOddDisks:
    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_a_disk_without_locks_is_told_in_a_line(self, filled, monkeypatch, number):
        def flock(*_):
            raise OSError(number, "no locks")

        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(DatabaseError, match="no locks"), filled.writing():
            pass

    def test_a_disk_that_flushes_no_folders_is_written_all_the_same(self, filled, monkeypatch):
        real = os.fsync

        def fsync(number):
            if stat.S_ISDIR(os.fstat(number).st_mode):
                raise OSError(errno.EINVAL, "no folders")
            real(number)

        monkeypatch.setattr(os, "fsync", fsync)
        with filled.writing():
            filled.add([track(7)])
        assert len(filled.tracks()) == 4 and verify(filled) == []

    def test_where_folders_have_no_locks_a_new_index_is_left_alone(self, filled, monkeypatch):
        index = filled.folder / "index" / f"{'0' * 32}.part"
        index.mkdir(parents=True)
        real = fcntl.flock

        def flock(file, how):
            if isinstance(file, int):
                raise OSError(errno.EBADF, "no folders")
            real(file, how)

        monkeypatch.setattr(fcntl, "flock", flock)
        with filled.writing():
            assert index.exists()
        os.utime(index, (0, 0))
        with filled.writing():
            assert not index.exists()

    def test_a_catalogue_is_whole_in_its_file_before_it_has_its_name(self, tmp_path, monkeypatch):
        """What a full disk left in the write-ahead log of another name would be lost."""
        named = []
        rename = pathlib.Path.rename

        def look(self, target):
            named.append([path.name for path in self.parent.glob(f"{self.name}*")])
            return rename(self, target)

        monkeypatch.setattr(pathlib.Path, "rename", look)
        Database.create(tmp_path / "db", STAMP)
        assert len(named) == 1 and len(named[0]) == 1

    def test_no_hard_links_are_needed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pathlib.Path, "hardlink_to", None)
        Database.create(tmp_path / "db", STAMP)
        with pytest.raises(DatabaseError, match="just made it"):
            Database.create(tmp_path / "db", STAMP)


@pytest.fixture
def full_disk():
    """No file may grow in this process: what a full disk is for whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_can_be_read_and_is_told_to_writers(four, full_disk):
    assert [one.name for one in Database(four.folder).tracks()] == [
        track(number).name for number in range(4)
    ]
    assert len(four.snapshot().vectors) == 4 * 32
    with pytest.raises(DatabaseError, match="the disk is full"), four.writing():
        pass


def test_a_group_may_write_what_its_umask_allows(tmp_path):
    before = os.umask(0o002)
    try:
        database = Database.create(tmp_path / "db", STAMP)
        with database.writing(), database.connect() as connection:
            database.add([track(1)])
            connection.execute("SELECT * FROM tracks").fetchall()
            modes = {path.name: path.stat().st_mode & 0o777 for path in database.folder.iterdir()}
    finally:
        os.umask(before)
    assert modes.pop("vectors") == 0o775 and set(modes.values()) == {0o664} and len(modes) == 4
