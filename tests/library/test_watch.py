"""A database that follows its folders: files come, grow, change, move and go."""

import contextlib
import queue
import shutil
import threading
from collections.abc import Iterator

import pytest
import soundfile

from confp_jax.database.layout import writer_lock
from confp_jax.library.add import Added, add_paths
from confp_jax.library.watch import Watch

RATE = 16_000
SETTLE_S = 0.3


class Watched:
    """A watch on its way, and what it has told."""

    def __init__(self, watch: Watch):
        self._told: queue.Queue[Added] = queue.Queue()
        self._stop = threading.Event()
        self._watch = watch
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for added in self._watch.run(self._stop):
            self._told.put(added)

    def next(self, num: int = 1) -> list[tuple[str, str]]:
        told = [self._told.get(timeout=60) for _ in range(num)]
        return sorted((one.status, one.path.rpartition("/")[2]) for one in told)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert self._told.empty()


@pytest.fixture
def watching(database, embedder, monkeypatch):
    """Starts watches with little patience, one after the other."""
    monkeypatch.setattr("confp_jax.library.watch._TICK_MS", 200)
    monkeypatch.setattr("confp_jax.library.watch._BUSY_S", 0.2)

    @contextlib.contextmanager
    def start(*folders, **options) -> Iterator[Watched]:
        watched = Watched(Watch(database, embedder, folders, settle_s=SETTLE_S, **options))
        try:
            yield watched
        finally:
            watched.end()

    return start


@pytest.mark.parametrize("poll", [False, True])
def test_what_comes_moves_and_goes(watching, database, files, tmp_path, poll, monkeypatch):
    monkeypatch.setattr("confp_jax.library.watch._POLL_MS", 200)
    one = tmp_path / "one"
    other = tmp_path / "other"
    one.mkdir()
    other.mkdir()
    shutil.copy(files[0], one / "a.wav")
    with watching(one, other, remove=True, poll=poll) as watched:
        assert watched.next() == [("added", "a.wav")]
        shutil.copy(files[1], other / "b.wav")
        assert watched.next() == [("added", "b.wav")]
        number = next(track.id for track in database.tracks() if track.name == "a")
        (one / "a.wav").rename(other / "moved.wav")
        assert watched.next() == [("moved", "moved.wav")]
        assert {t.id: t.path for t in database.tracks()}[number] == str(other / "moved.wav")
        (other / "b.wav").unlink()
        assert watched.next() == [("removed", "b.wav")]
    assert [track.id for track in database.tracks()] == [number]


def test_a_folder_with_files_and_what_is_no_music(watching, files, tmp_path):
    folder = tmp_path / "folder"
    away = tmp_path / "away"
    folder.mkdir()
    away.mkdir()
    for name in ("a.wav", ".hidden.wav", "a.wav.part", "cover.jpg"):
        shutil.copy(files[0], away / name)
    with watching(folder) as watched:
        away.rename(folder / "album")
        assert watched.next() == [("added", "a.wav")]
        (folder / "album" / ".hidden.wav").rename(folder / "b.wav")
        (folder / "album" / "a.wav").unlink()
        assert watched.next() == [("moved", "b.wav")]


def test_a_file_is_read_when_it_is_complete(watching, database, files, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    data = files[0].read_bytes()
    with watching(folder) as watched, open(folder / "a.wav", "wb") as file:
        for first in range(0, len(data), len(data) // 6):
            file.write(data[first : first + len(data) // 6])
            file.flush()
            threading.Event().wait(SETTLE_S / 2)
        assert database.tracks() == []
        file.close()
        assert watched.next() == [("added", "a.wav")]
    assert database.tracks()[0].duration_s == pytest.approx(5.0)


def test_what_happened_while_nobody_watched(watching, database, embedder, files, tmp_path):
    folder = files[0].parent
    add_paths(database, embedder, [folder])
    files[0].rename(folder / "new.wav")
    files[1].unlink()
    with watching(folder) as watched:
        assert watched.next(2) == [("moved", "new.wav"), ("vanished", "1.wav")]
    assert len(database.tracks()) == 5
    with watching(folder, remove=True) as watched:
        assert watched.next() == [("removed", "1.wav")]


def test_a_folder_that_goes_away_takes_nothing_with_it(watching, database, files, tmp_path):
    folder = tmp_path / "folder"
    away = tmp_path / "away"
    folder.mkdir()
    shutil.copy(files[0], folder / "a.wav")
    with watching(folder, remove=True) as watched:
        assert watched.next() == [("added", "a.wav")]
        folder.rename(away)  # as an unmounted disk
        assert watched.next() == [("vanished", "a.wav")]
        away.rename(folder)
        shutil.copy(files[1], folder / "b.wav")
        assert watched.next() == [("added", "b.wav")]
    assert len(database.tracks()) == 2


def test_another_writer_and_a_bad_file_end_nothing(watching, database, files, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with watching(folder) as watched:
        with writer_lock(database.folder):
            shutil.copy(files[0], folder / "a.wav")
            threading.Event().wait(4 * SETTLE_S)
        assert watched.next() == [("added", "a.wav")]
        (folder / "bad.wav").write_bytes(b"no audio")
        assert watched.next() == [("failed", "bad.wav")]
        samples = soundfile.read(files[1])[0]
        soundfile.write(folder / "bad.wav", samples, RATE)
        assert watched.next() == [("added", "bad.wav")]
