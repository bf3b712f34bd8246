"""Files that are whole or not there."""

import errno

import pytest

from confp_jax.files import is_disk_full, write_atomically


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
