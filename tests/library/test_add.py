"""Adding from Python: commits, interruptions. Files of every kind: tests/cli."""

import os
import pathlib
import shutil
import threading
import tracemalloc
import types

import numpy as np
import pytest
import soundfile
from sample_tracks import track

from confp_jax.audio.tags import Tags
from confp_jax.database import ModelId, OtherModelError
from confp_jax.database.records import UPLOADED
from confp_jax.fingerprint import files as file_reading
from confp_jax.library import commits
from confp_jax.library.add import Added, add_paths, add_track, update_tracks

RATE = 16_000


def test_every_file_is_reported_as_it_is_done(database, embedder, files):
    seen: list[tuple[Added, int]] = []
    results = add_paths(
        database, embedder, files, report=lambda added, total: seen.append((added, total))
    )
    assert [added for added, _ in seen] == results
    assert {total for _, total in seen} == {5}
    assert [r.path for r in results] == list(map(str, files))
    assert [t.name for t in database.tracks()] == ["0", "1", "2", "3", "4"]


def test_the_stored_vectors_are_the_embedders(database, embedder, files, music):
    add_paths(database, embedder, files[:2])
    snapshot = database.snapshot()
    for i in range(2):
        expected = embedder.fingerprint(soundfile.read(files[i], dtype="float32")[0]).vectors
        np.testing.assert_allclose(
            snapshot.vectors[snapshot.row_tracks == i], expected, atol=2**-11
        )


def test_long_adds_are_committed_on_the_way(database, embedder, files, monkeypatch):
    monkeypatch.setattr(commits, "_COMMIT_SECONDS", 9.0)
    held: list[int] = []
    add_paths(database, embedder, files, report=lambda *_: held.append(len(database.tracks())))
    assert held == [0, 0, 2, 2, 4]  # as of the moment before each commit
    assert len(database.tracks()) == 5
    assert len(list((database.folder / "vectors").iterdir())) == 3


def test_an_interrupted_add_keeps_what_was_done_and_goes_on(database, embedder, files):
    """Ctrl-C after minutes of work must not throw them away; the same command then continues."""

    def interrupt(added: Added, _total: int) -> None:
        if added.path == str(files[3]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_paths(database, embedder, files, report=interrupt)
    assert len(database.tracks()) >= 3
    statuses = [r.status for r in add_paths(database, embedder, files)]
    assert statuses[:3] == ["unchanged"] * 3 and statuses[4] == "added"
    assert [t.name for t in database.tracks()] == ["0", "1", "2", "3", "4"]


def test_a_file_that_vanishes_before_its_turn(database, embedder, files, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # so that it is not read ahead

    def vanish(added: Added, _total: int) -> None:
        if added.path == str(files[0]):
            files[4].unlink()

    results = add_paths(database, embedder, [*files, files[0].parent], report=vanish)
    assert [r.status for r in results] == ["added", "added", "added", "added", "failed"]
    assert "no such file" in results[4].error and str(files[4]) in results[4].error


def statuses(results: list[Added]) -> list[str]:
    return [result.status for result in results]


def test_what_has_not_changed_is_not_read_again(database, embedder, files, monkeypatch):
    shutil.copy(files[2], files[2].with_name("copy.wav"))
    folder = [files[0].parent]
    assert statuses(add_paths(database, embedder, folder)) == ["added"] * 5 + ["unchanged"]
    read: list[pathlib.Path] = []
    original = file_reading._read
    monkeypatch.setattr(
        file_reading,
        "_read",
        lambda reading, *rest: read.append(reading.path) or original(reading, *rest),
    )
    assert statuses(add_paths(database, embedder, folder)) == ["unchanged"] * 6
    assert read == []
    os.utime(files[1])  # touched: hashed, found to be the same, and known from then on
    for expected in ([files[1]], []):
        read.clear()
        assert statuses(add_paths(database, embedder, folder)) == ["unchanged"] * 6
        assert read == expected
    with database.writing():
        database.remove([database.find(str(files[3]))[0].id])
    assert (
        statuses(add_paths(database, embedder, folder))
        == ["unchanged"] * 3 + ["added"] + ["unchanged"] * 2
    )


def test_known_files_are_reported_in_their_order(database, embedder, files):
    add_paths(database, embedder, [files[1], files[2], files[4]])
    seen: list[str] = []
    results = add_paths(database, embedder, files, report=lambda added, _: seen.append(added.path))
    assert seen == [r.path for r in results] == list(map(str, files))
    assert statuses(results) == ["added", "unchanged", "unchanged", "added", "unchanged"]


def test_a_long_file_is_cut_into_pieces_and_its_fingerprints_do_not_show_it(
    database, embedder, files, music, monkeypatch
):
    monkeypatch.setattr(file_reading, "_CHUNK_WINDOWS", 7)
    path = files[0].with_name("long.wav")
    for length in (
        30 * RATE,
        30 * RATE - 2_700,
        5 * RATE - 1,
        4_800 * 7 + 48_000,
        4_800 * 6 + 48_000,
        48_000,
    ):
        soundfile.write(path, music[:length], RATE)
        (read,) = file_reading.read_files(embedder, [path])
        assert read.track is not None
        samples = soundfile.read(path, dtype="float32")[0]
        expected = embedder.fingerprint(samples).vectors
        assert read.track.vectors.shape == expected.shape
        np.testing.assert_allclose(read.track.vectors, expected, atol=1e-4)
        assert read.track.duration_s == length / RATE


def test_memory_does_not_grow_with_the_length_of_a_file(embedder, files, monkeypatch):
    """Two hours of samples are 460 MB; a piece of 30 s is 2 MB, and what is known of it in double
    precision twice that.
    """
    monkeypatch.setattr(file_reading, "_CHUNK_WINDOWS", 91)
    monkeypatch.setattr(
        type(embedder), "fingerprint_chunk", lambda self, chunk: _FewFingerprints(chunk.samples)
    )
    path = files[0].with_name("long.flac")
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        minute = np.random.default_rng(0).integers(-9, 9, 60 * RATE).astype(np.int16)
        for _ in range(120):
            file.write(minute)
    tracemalloc.start()
    try:
        (read,) = file_reading.read_files(embedder, [path])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read.track is not None and read.track.duration_s == 7_200
    assert peak < 40e6, f"{peak / 1e6:.0f} MB"


class _FewFingerprints:
    """In the place of the model, which would take minutes."""

    def __init__(self, samples: np.ndarray):
        self.vectors = np.ones((-(-len(samples) // 4_800), 4), np.float32)
        self.num_silent = 0


def test_no_thread_is_left_when_it_is_given_up(embedder, files):
    reads = file_reading.read_files(embedder, files * 20)
    next(reads)
    reads.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_a_file_that_is_written_while_it_is_read_is_refused(embedder, files, monkeypatch):
    original = file_reading.decode_blocks

    def decode_and_write(path, **options):
        yield from original(path, **options)
        with open(path, "ab") as file:
            file.write(b"more")

    monkeypatch.setattr(file_reading, "decode_blocks", decode_and_write)
    (read,) = file_reading.read_files(embedder, files[:1])
    assert read.track is None and "was changed while it was read" in read.error


class TestUpdate:
    def test_changed_touched_vanished_and_broken_files(self, database, embedder, files, music):
        add_paths(database, embedder, files)
        soundfile.write(files[0], music[20_000 : 20_000 + 6 * RATE], RATE)
        os.utime(files[1])
        files[2].unlink()
        files[3].write_bytes(b"RIFF rubbish")
        seen: list[Added] = []
        results = update_tracks(database, embedder, report=lambda added, _: seen.append(added))
        assert seen == results
        by_path = {r.path: r.status for r in results}
        assert [by_path[str(f)] for f in files] == [
            "updated",
            "unchanged",
            "vanished",
            "failed",
            "unchanged",
        ]
        tracks = {t.name: t for t in database.tracks()}
        assert sorted(tracks) == list("01234")  # what vanished or broke is still known
        assert tracks["0"].duration_s == 6.0
        rows = slice(tracks["0"].first_row, tracks["0"].first_row + tracks["0"].num_rows)
        expected = embedder.fingerprint(soundfile.read(files[0], dtype="float32")[0]).vectors
        np.testing.assert_allclose(database.snapshot().vectors[rows], expected, atol=2**-11)
        results = update_tracks(database, embedder, prune=True)
        assert sorted(statuses(results)) == [
            "failed",
            "removed",
            "unchanged",
            "unchanged",
            "unchanged",
        ]
        assert sorted(t.name for t in database.tracks()) == list("0134")

    def test_a_file_that_became_a_copy_of_another(self, database, embedder, files):
        add_paths(database, embedder, files)
        shutil.copy(files[1], files[0])
        assert "removed" in statuses(update_tracks(database, embedder))
        assert sorted(t.name for t in database.tracks()) == list("1234")

    def test_two_tracks_of_one_path(self, database, embedder, files, music):
        """`add` never removes: a recorder that always writes into one file fills a database.

        `update` keeps what is there.
        """
        for i in range(3):
            soundfile.write(files[0], music[i * 5 * RATE : (i + 1) * 5 * RATE], RATE)
            assert statuses(add_paths(database, embedder, files[:1])) == ["added"]
        assert len(database.tracks()) == 3
        update_tracks(database, embedder)
        assert [t.id for t in database.tracks()] == [3]


def test_many_corrupt_files_among_good_ones(database, embedder, files, tmp_path):
    """Each is named, none stops the rest, and nothing is kept of them."""
    rubbish = np.random.default_rng(0).bytes(1_000)
    num = 300  # the rest of ten thousand take the same way
    for i in range(num):
        (tmp_path / "music" / f"bad{i:05d}.{('mp3', 'wav', 'flac')[i % 3]}").write_bytes(rubbish)
    results = add_paths(database, embedder, [tmp_path / "music"])
    assert statuses(results).count("failed") == num and statuses(results).count("added") == 5
    assert all(str(r.path) in r.error for r in results if r.status == "failed")
    assert len(database.tracks()) == 5


def test_a_track_without_a_file(filled):
    """What came by upload is added once, and an update does not take it for vanished."""
    new = track(7, path=f"{UPLOADED}7")
    stored, is_new = add_track(filled, new, model=filled.model_id)
    assert is_new and stored.id in [one.id for one in filled.tracks()]
    assert add_track(filled, new, model=filled.model_id) == (stored, False)
    with pytest.raises(OtherModelError, match="open it again"):
        add_track(filled, track(8), model=ModelId("other", "0123", filled.model_id.hop_s))
    results = update_tracks(
        filled, types.SimpleNamespace(model_id=filled.model_id), prune=True, force=True
    )  # nothing is there to encode
    assert [result.status for result in results] == ["unchanged"] + ["removed"] * 3
    assert [kept.id for kept in filled.tracks()] == [stored.id]


def test_an_update_reads_the_tags_that_nobody_has_read(database, embedder, files, monkeypatch):
    add_paths(database, embedder, files[:2])
    with database.connect() as connection:
        connection.execute("UPDATE tracks SET isrc = NULL")
    rows = [one.first_row for one in database.tracks()]
    monkeypatch.setattr("confp_jax.library.add.read_tags", lambda path: Tags(isrc=path.stem))
    assert [one.status for one in update_tracks(database, embedder)] == ["tagged", "tagged"]
    assert [one.tags and one.tags.isrc for one in database.tracks()] == ["0", "1"]
    assert [one.first_row for one in database.tracks()] == rows
    assert [one.status for one in update_tracks(database, embedder)] == ["unchanged", "unchanged"]
