"""Music that is moved, edited or out of reach: no track is lost, none is there twice."""

import dataclasses
import os
import pathlib
import shutil

import numpy as np
import pytest
import soundfile
from sample_tracks import DIM, track
from unit_vectors import unit_rows

from confp_jax.database import Database
from confp_jax.database.merge import merge_databases
from confp_jax.database.records import UPLOADED, KnownFile
from confp_jax.library.add import Added, add_paths, update_tracks
from confp_jax.library.places import (
    Places,
    is_gone,
    is_unchanged,
    sounds_the_same,
    too_much,
)

RATE = 16_000


def statuses(results: list[Added]) -> list[str]:
    return [result.status for result in results]


def paths(database: Database) -> list[str]:
    return sorted(t.path for t in database.tracks())


@pytest.fixture
def added(database, embedder, files) -> list[pathlib.Path]:
    add_paths(database, embedder, [files[0].parent])
    return files


class TestMoves:
    @pytest.fixture
    def moved(self, added, tmp_path) -> pathlib.Path:
        folder = tmp_path / "elsewhere"
        (tmp_path / "music").rename(folder)
        (folder / "0.wav").rename(folder / "renamed.wav")
        return folder

    def test_add_gives_the_tracks_their_new_paths(self, database, embedder, moved):
        ids = {t.sha256: t.id for t in database.tracks()}
        results = add_paths(database, embedder, [moved])
        assert statuses(results) == ["moved"] * 5
        assert paths(database) == sorted(map(str, moved.iterdir()))
        assert {t.name for t in database.tracks()} == {"1", "2", "3", "4", "renamed"}
        assert {t.sha256: t.id for t in database.tracks()} == ids
        assert sorted(result.id for result in results) == sorted(ids.values())
        assert statuses(update_tracks(database, embedder, prune=True)) == ["unchanged"] * 5

    def test_a_copy_is_no_move_until_the_original_is_gone(self, database, embedder, added):
        copy = added[0].with_name("copy.wav")
        shutil.copy(added[0], copy)
        assert statuses(add_paths(database, embedder, [copy])) == ["unchanged"]
        added[0].unlink()
        assert "moved" in statuses(update_tracks(database, embedder, prune=True))
        assert str(copy) in paths(database) and len(paths(database)) == 5

    def test_files_that_changed_names_with_each_other(self, database, embedder, added):
        first = added[0]
        second = added[1]
        spare = added[0].with_name("spare")
        contents = {t.path: t.sha256 for t in database.tracks()}
        first.rename(spare)
        second.rename(first)
        spare.rename(second)
        assert statuses(update_tracks(database, embedder)).count("moved") == 2
        now = {t.path: t.sha256 for t in database.tracks()}
        assert now[str(first)] == contents[str(second)]
        assert now[str(second)] == contents[str(first)] and len(now) == 5

    def test_names_that_are_no_utf8_are_found_again(self, database, embedder, files):
        odd = pathlib.Path(os.fsdecode(os.fsencode(files[0].parent) + b"/caf\xe9.wav"))
        try:
            files[0].rename(odd)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        add_paths(database, embedder, [files[0].parent])
        assert str(odd) in paths(database)
        results = update_tracks(database, embedder, prune=True)
        assert statuses(results) == ["unchanged"] * 5


class TestEdits:
    def test_edited_tags_replace_the_old_track(self, database, embedder, files, music):
        path = files[0].with_name("tagged.flac")

        def write(title: str) -> None:
            with soundfile.SoundFile(path, "w", RATE, 1) as file:
                file.title = title
                file.write(music[: 5 * RATE])

        for title, status in (("Wrogn", "added"), ("Right", "updated")):
            write(title)
            results = add_paths(database, embedder, [path])
            assert statuses(results) == [status]
        (stored,) = database.tracks()
        assert (stored.title, stored.id) == ("Right", results[0].id)

    def test_other_music_under_an_old_name_is_another_track(self):
        rows = unit_rows(0, 20, DIM)
        assert sounds_the_same(rows, rows[:-1].astype(np.float16).astype(np.float32))
        assert not sounds_the_same(rows[:8], rows[8:16])
        assert not sounds_the_same(rows, rows[:-3])


class TestPrune:
    @pytest.fixture
    def roots(self, database, embedder, files, tmp_path) -> tuple[pathlib.Path, pathlib.Path]:
        """A folder of four tracks and one of a single track."""
        other = tmp_path / "other"
        other.mkdir()
        files[4].rename(other / "4.wav")
        add_paths(database, embedder, [files[0].parent, other])
        return files[0].parent, other

    @pytest.mark.parametrize("gone", [0, 1])
    def test_a_root_that_is_gone_is_asked_about(self, database, embedder, roots, gone, tmp_path):
        roots[gone].rename(tmp_path / "unmounted")
        results = update_tracks(database, embedder, prune=True)
        vanished = [result for result in results if result.status == "vanished"]
        assert len(vanished) == (4, 1)[gone] and len(database.tracks()) == 5
        assert str(roots[gone]) in vanished[0].error
        results = update_tracks(database, embedder, prune=True, force=True)
        assert statuses(results).count("removed") == len(vanished)
        assert len(database.tracks()) == 5 - len(vanished)

    def test_most_of_all_tracks(self, database, embedder, roots):
        for number in range(3):
            (roots[0] / f"{number}.wav").unlink()
        results = update_tracks(database, embedder, prune=True)
        assert "3 of 5 tracks" in next(r.error for r in results if r.status == "vanished")
        (roots[0] / "5.wav").touch()  # a few that are gone are removed without a question
        shutil.copy(roots[0] / "3.wav", roots[0] / "0.wav")
        with database.writing():
            database.remove([t.id for t in database.tracks() if t.name in ("1", "2")])
        assert "removed" in statuses(update_tracks(database, embedder, prune=True))
        assert len(database.tracks()) == 2

    def test_a_merged_databases_roots_come_along(self, database, roots, tmp_path):
        other = Database.create(tmp_path / "other.db", database.model_id)
        merge_databases(other, database)
        gone = [t for t in other.tracks() if t.path.startswith(str(roots[1]))]
        assert str(roots[1]) in too_much(other, gone)
        assert too_much(other, [t for t in other.tracks() if t.name == "0"]) == ""

    def test_a_folder_that_may_not_be_entered_is_not_gone(
        self, database, embedder, added, monkeypatch
    ):
        original = pathlib.Path.stat

        def refuse(path: pathlib.Path, **options):
            if path.name == "0.wav":
                raise PermissionError(13, "Permission denied")
            return original(path, **options)

        monkeypatch.setattr(pathlib.Path, "stat", refuse)
        results = update_tracks(database, embedder, prune=True)
        assert sorted(statuses(results)) == ["failed"] + ["unchanged"] * 4
        assert len(database.tracks()) == 5


def test_a_track_that_was_uploaded_has_no_place(database, tmp_path):
    """Also where a file of its content lies in a folder."""
    path = tmp_path / "same.wav"
    path.write_bytes(b"x")
    about = path.stat()
    with database.writing():
        database.add([track(7, path=f"{UPLOADED}seven", sha256="s")])
        database.remember({str(path): KnownFile(about.st_size, about.st_mtime_ns, "s")})
    (stored,) = database.tracks()
    places = Places(database)
    assert places.moved_to(stored) is None
    gone = dataclasses.replace(stored, path=str(tmp_path / "gone.wav"))
    assert places.moved_to(gone) == str(path)


def test_a_merged_track_does_not_vouch_for_what_its_file_has_become(database, tmp_path):
    """Its path holds another track's content now, which the next `confp add` must read."""
    other = Database.create(tmp_path / "other.db", database.model_id)
    with other.writing():
        other.add([track(7, path="/a.wav", sha256="s"), track(8, path="/b.wav", sha256="t")])
        other.remember({"/a.wav": KnownFile(9, 9, "t"), "/b.wav": KnownFile(8, 8, "t")})
    assert merge_databases(database, other).num_added == 2
    assert database.known_files() == {"/b.wav": KnownFile(8, 8, "t")}


def test_a_path_that_cannot_be_is_gone():
    assert is_gone("/a\0b") and not is_unchanged("/a\0b", KnownFile(1, 1, ""))
