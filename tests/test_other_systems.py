"""What differs on Windows, forced here: `windows_like.py` takes away what POSIX has."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from confp_jax.database import Database

NAMES = ("tim-beek_the-protagonist", "subvulture_the-money-ran-out-rudy")
HERE = pathlib.Path(__file__).resolve().parent


COMPACTED_WHILE_OPEN = """
import gc, pathlib, sys
from windows_like import become_windows
become_windows()
import confp_jax
from confp_jax.database import Database, shards
from confp_jax.library.maintenance import compact, remove
shards._MAPPED_BYTES = 0  # also small ones are mapped
db, song, other = map(pathlib.Path, sys.argv[1:])
library = confp_jax.open(db)
remove(Database(db), [other.stem])
before = {path.name for path in (db / "vectors").iterdir()}
compact(Database(db))
assert before < {path.name for path in (db / "vectors").iterdir()}, "the mapped shard is gone"
assert library.identify_file(song).matches[0].track == song.stem
del library
gc.collect()
with Database(db).writing():
    pass
assert not before & {path.name for path in (db / "vectors").iterdir()}, "the old shard is there"
"""


def as_on_windows(*commands: list[object]) -> subprocess.CompletedProcess[str]:
    arguments: list[str] = []
    for command in commands:
        arguments += ["--", *map(str, command)] if arguments else [*map(str, command)]
    return subprocess.run(
        [sys.executable, HERE / "windows_like.py", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def songs(root, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("songs")
    for name in NAMES:
        shutil.copy(root / "examples" / "music" / f"{name}.mp3", folder)
    return folder


def test_a_database_lives_there(songs, tmp_path):
    """It is made, searched, changed, compacted and verified, and POSIX reads it."""
    db = tmp_path / "music.db"
    song = songs / "tim-beek_the-protagonist.mp3"
    other = songs / "subvulture_the-money-ran-out-rudy.mp3"
    done = as_on_windows(
        ["add", db, songs],
        ["identify", db, song],
        ["monitor", db, song],
        ["remove", db, other],
        ["compact", db],
        ["add", db, other],
        ["compact", db, "--index", "faiss"],
        ["identify", db, other],
        ["verify", db],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 added" in done.stdout and "rudy at 0:00.0" in done.stdout
    assert "Traceback" not in done.stderr
    assert {track.name for track in Database(db).tracks()} == {song.stem, other.stem}


def test_one_writer_at_a_time(songs, tmp_path):
    db = tmp_path / "music.db"
    assert as_on_windows(["add", db, songs / "tim-beek_the-protagonist.mp3"]).returncode == 0
    with Database(db).writing():
        refused = as_on_windows(["remove", db, "tim-beek_the-protagonist"])
    assert refused.returncode == 1
    assert "another process is writing to it" in refused.stderr
    assert as_on_windows(["remove", db, "tim-beek_the-protagonist"]).returncode == 0


def test_the_service_is_refused(tmp_path):
    refused = as_on_windows(["serve", tmp_path / "music.db"])
    assert refused.returncode == 1
    assert refused.stderr == "error: confp serve needs Linux or macOS; on Windows it runs in WSL\n"


def test_a_shard_that_is_mapped_goes_later(songs, tmp_path):
    """Windows deletes no file that is in use: compaction leaves it, a later writer deletes it."""
    db = tmp_path / "music.db"
    assert as_on_windows(["add", db, songs]).returncode == 0
    names = (songs / f"{name}.mp3" for name in NAMES)
    done = subprocess.run(
        [sys.executable, "-c", COMPACTED_WHILE_OPEN, db, *names],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=HERE,
    )
    assert done.returncode == 0, done.stderr
