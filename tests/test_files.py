"""Files that are whole or not there."""

import errno
import fcntl
import os

import pytest

from confp_jax.errors import UserError
from confp_jax.files import is_disk_full, one_process, write_atomically


def test_a_file_has_its_name_when_it_is_complete(tmp_path):
    file = tmp_path / "new" / "a.json"
    assert write_atomically(file, "über").read_text("utf-8") == "über"

    def fails(out):
        out.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        write_atomically(file, fails)
    assert is_disk_full(caught.value) and not is_disk_full(OSError(errno.EIO, "broken"))
    assert file.read_text("utf-8") == "über"
    write_atomically(file, lambda out: out.write(b"new"))
    assert file.read_bytes() == b"new" and list(file.parent.iterdir()) == [file]


class InUseError(UserError):
    """For these tests."""


def test_one_process_at_a_time_holds_a_folder(tmp_path):
    lock = tmp_path / "new" / "run.lock"
    with one_process(lock, InUseError) as is_held:
        assert is_held
        with (
            pytest.raises(InUseError, match=rf"^ by process {os.getpid()} on"),
            one_process(lock, InUseError),
        ):
            pass
    assert not lock.exists()
    lock.write_bytes(b"\xff of one that was killed")
    with one_process(lock, InUseError, keep=True):
        pass
    assert lock.exists()


def test_a_lock_that_its_holder_removed_is_made_again(tmp_path, monkeypatch):
    """Between opening and locking a file the one who held it ends, and takes it away."""
    lock = tmp_path / "run.lock"
    flock = fcntl.flock
    calls = []

    def slow(file, operation):
        calls.append(operation)
        if len(calls) == 1:
            lock.unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with one_process(lock, InUseError):
        assert lock.exists()
        with pytest.raises(InUseError), one_process(lock, InUseError):
            pass


def test_without_locks_it_is_told(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with one_process(tmp_path / "run.lock", InUseError) as is_held:
        assert not is_held
