"""The commands that keep databases in order, as a user meets them: real files, a real (untrained) model, exit codes, JSON."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from confp_jax.cli import main
from confp_jax.retrieval import reindex as reindex_module
from confp_jax.retrieval.add import add_paths, add_track, update_tracks
from confp_jax.retrieval.database import Database, DatabaseError, ModelStamp, NewTrack, OtherModelError
from confp_jax.retrieval.database.records import UPLOADED
from confp_jax.retrieval.database.verify import verify
from confp_jax.retrieval.embed import load_encoder
from confp_jax.retrieval.identify import CALIBRATION_SETTING, Searcher
from confp_jax.retrieval.library import Library
from confp_jax.retrieval.reindex import reindex

RATE = 16_000


@pytest.fixture(scope="session")
def originals(music, tmp_path_factory) -> pathlib.Path:
    """Four tracks of 5 s with tags, one name among them twice."""
    folder = tmp_path_factory.mktemp("music")
    for i, name in enumerate(("one.flac", "two.flac", "sub/one.flac", "Björk.flac")):
        (folder / name).parent.mkdir(exist_ok=True)
        with soundfile.SoundFile(folder / name, "w", RATE, 1) as file:
            file.title, file.artist, file.album = f"Title {i}", ("Ann", "Bob")[i % 2], "Álbum"
            file.write(music[i * 5 * RATE : (i + 1) * 5 * RATE])
    return folder


@pytest.fixture
def files(originals, tmp_path) -> pathlib.Path:
    return shutil.copytree(originals, tmp_path / "music")


@pytest.fixture
def db(embedder, files, tmp_path) -> Database:
    database = Database.create(tmp_path / "music.db", ModelStamp(embedder.name, embedder.identity, 0.3))
    assert all(r.status == "added" for r in add_paths(database, embedder, [files]))
    return database


@pytest.fixture
def confp(capsys):
    """Runs a command; returns (status, stdout, stderr), stdout parsed where --json was asked for."""

    def run(*arguments: object):
        status = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return status, json.loads(out) if "--json" in arguments else out, err

    return run


def names(database: Database) -> list[str]:
    return sorted(t.name for t in database.tracks())


class TestRemove:
    def test_by_path_and_by_name(self, confp, db, files):
        status, out, err = confp("remove", db.folder, files / "sub" / "one.flac", "two")
        assert (status, err) == (0, "")
        assert f"({files / 'sub' / 'one.flac'})" in out and out.endswith("now holds 2 tracks\n")
        assert names(db) == ["Björk", "one"]

    def test_a_name_of_two_tracks_is_refused_with_their_ids(self, confp, db, files):
        status, found, err = confp("remove", db.folder, "one", "Björk", "nobody", "--json")
        assert status == 3
        assert [r["name"] for r in found["removed"]] == ["Björk"]
        ambiguous, unknown = found["refused"]
        assert "2 tracks have this name" in ambiguous and "nobody: no such track" in unknown
        ids = [str(t.id) for t in db.tracks() if t.name == "one"]
        for number, path in zip(ids, (files / "one.flac", files / "sub" / "one.flac"), strict=True):
            assert f"{number} ({path})" in ambiguous
        assert ambiguous in err
        assert confp("remove", db.folder, *ids)[0] == 0
        assert names(db) == ["two"]
        assert confp("remove", db.folder, "one")[0] == 1


class TestListAndInfo:
    def test_tags_are_kept_and_searched(self, confp, db):
        tracks = db.tracks()
        ann = sorted(t.name for t in tracks if t.artist == "Ann")
        assert len(ann) == 2
        third = [t.name for t in tracks if t.title == "Title 3"]
        for text, expected in {"ann": ann, "BJÖRK": ["Björk"], "title 3": third, "álbum": names(db), "zz": []}.items():
            _, found, _ = confp("list", db.folder, "--search", text, "--json")
            assert sorted(t["name"] for t in found) == expected, text
        _, out, _ = confp("list", db.folder)
        assert out.splitlines()[0].split() == ["id", "track", "artist", "title", "length", "path"]

    def test_info(self, confp, db):
        db_info = confp("info", db.folder, "--json")[1]
        assert (db_info["num_tracks"], db_info["num_fingerprints"], db_info["duration_s"]) == (4, 28, 20.0)
        assert (db_info["index"], db_info["precision"], db_info["num_removed"]) == ("exact", "float16", 0)
        assert db_info["num_bytes"] == sum(p.stat().st_size for p in db.folder.rglob("*") if p.name != "lock" and p.is_file())
        confp("remove", db.folder, "two")
        assert confp("info", db.folder, "--json")[1]["num_removed"] == 7
        status, out, _ = confp("info", db.folder)
        assert status == 0 and "7 fingerprints, until `confp compact`" in out

    def test_an_empty_database(self, confp, db):
        confp("remove", db.folder, *[t.id for t in db.tracks()])
        for command in (("list",), ("info",), ("verify", "--recall"), ("compact",)):
            status, _, err = confp(command[0], db.folder, *command[1:])
            assert (status, err.strip()) == (0, ""), command


class TestCompactAndVerify:
    def test_compact(self, confp, db):
        confp("remove", db.folder, "two")
        status, done, _ = confp("compact", db.folder, "--json")
        assert (status, done["num_removed_rows"], done["index"]) == (0, 7, None)
        assert verify(db) == [] and len(db.tracks()) == 3

    def test_verify_names_what_is_damaged_and_the_way_out_works(self, confp, db, files):
        assert confp("verify", db.folder)[:2] == (0, "all is well with 4 tracks\n")
        assert confp("verify", db.folder, "--recall", "--json")[1] == {"problems": [], "recall": 1.0}
        shard = next((db.folder / "vectors").iterdir())
        content = bytearray(shard.read_bytes())
        content[-9] ^= 1
        shard.write_bytes(content)
        status, out, err = confp("verify", db.folder)
        assert status == 1 and "checksum differs" in err and "Björk" in err and out == "1 problems\n"
        ids = confp("verify", db.folder, "--json")[1]["problems"][0]["tracks"]
        assert confp("remove", db.folder, *ids)[0] == 0
        assert confp("add", db.folder, files)[0] == 0
        assert confp("compact", db.folder)[0] == 0
        assert confp("verify", db.folder)[:2] == (0, "all is well with 4 tracks\n")

    def test_a_recall_that_is_none(self, confp, db, capsys):
        for value in ("1", "0.2"):
            with pytest.raises(SystemExit):
                confp("compact", db.folder, "--recall", value)
            assert "below 1" in capsys.readouterr().err


class TestMerge:
    def test_what_is_there_stays_and_what_is_new_comes(self, confp, db, embedder, files, tmp_path, music):
        other = Database.create(tmp_path / "other.db", db.stamp, precision="int8")
        soundfile.write(files / "new.wav", music[-5 * RATE :], RATE)
        add_paths(other, embedder, [files / "new.wav", files / "two.flac"])
        status, merged, _ = confp("merge", db.folder, other.folder, "--json")
        assert (status, merged) == (0, {"num_added": 1, "num_there": 1, "num_tracks": 5})
        assert verify(db) == []
        new = db.find("new")[0]
        rows = db.snapshot().vectors[new.first_row : new.first_row + new.num_rows]
        expected = embedder.fingerprint(soundfile.read(files / "new.wav", dtype="float32")[0]).vectors
        np.testing.assert_allclose(rows, expected, atol=3e-3)
        # The file is known to be read already.
        assert [r.status for r in add_paths(db, embedder, [files])] == ["unchanged"] * 5
        assert confp("merge", db.folder, other.folder)[1].startswith("0 added, 2 already there")

    def test_refused(self, confp, db, tmp_path):
        other = Database.create(tmp_path / "other.db", ModelStamp("large", "fedcba", 0.3))
        status, _, err = confp("merge", db.folder, other.folder)
        assert status == 1 and "cannot be compared" in err and "fedcba" in err
        status, _, err = confp("merge", db.folder, db.folder)
        assert status == 1 and "the same database" in err
        status, _, err = confp("merge", db.folder, tmp_path)
        assert status == 1 and "no fingerprint database" in err


@pytest.fixture(scope="module")
def other(other_checkpoint):
    return load_encoder(other_checkpoint)


class TestReindex:
    def check(self, database, encoder, num_tracks=4):
        assert database.stamp == ModelStamp(encoder.name, encoder.identity, 0.3)
        snapshot = database.snapshot()
        assert len(snapshot.tracks) == num_tracks
        for track in snapshot.tracks:
            expected = encoder.fingerprint(soundfile.read(track.path, dtype="float32")[0]).vectors
            found = snapshot.vectors[track.first_row : track.first_row + track.num_rows]
            np.testing.assert_allclose(found, expected, atol=2**-11)
        assert verify(database) == []
        assert len(list((database.folder / "vectors").iterdir())) == 1

    def test_the_old_vectors_serve_until_the_swap(self, confp, db, embedder, other):
        self.check(db, embedder)
        ids = {t.path: t.id for t in db.tracks()}
        status, done, err = confp("reindex", db.folder, "--model", other.name, "--json")
        assert (status, done["swapped"], len(done["tracks"]), err.strip()) == (0, True, 4, "")
        self.check(db, other)
        assert {t.path: t.id for t in db.tracks()} == ids
        status, _, err = confp("reindex", db.folder, "--model", other.name)
        assert status == 1 and "already" in err

    def test_interrupted_it_goes_on(self, db, embedder, other, monkeypatch):
        def interrupt(_result, _total):
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt

        seen: list[int] = []
        monkeypatch.setattr(reindex_module, "_COMMIT_SECONDS", 1.0)
        with pytest.raises(KeyboardInterrupt):
            reindex(db, other, report=interrupt)
        assert db.stamp.identity == embedder.identity
        assert len(db.snapshot().tracks) == 4 and verify(db) == []
        assert len(reindex(db, other)) == 3  # one was done
        from confp_jax.retrieval.database.compact import compact_shards

        with db.writing():
            compact_shards(db)
        self.check(db, other)

    def test_another_model_in_between_starts_anew(self, db, other, embedder, monkeypatch, checkpoint):
        with db.writing():
            from confp_jax.retrieval.database.stage import begin_staging, stage

            begin_staging(db, ModelStamp("third", "333", 0.3))
            stage(db, [(1, np.ones((3, 7), np.float32))])
            db.remove([])
        assert len(reindex(db, other)) == 4
        self.check(db, other)

    def test_nothing_is_swapped_while_a_file_is_missing(self, confp, db, embedder, other, files):
        (files / "two.flac").rename(files / "kept")
        shutil.copy(files / "one.flac", files / "Björk.flac")
        status, done, err = confp("reindex", db.folder, "--model", other.name, "--json")
        assert (status, done["swapped"]) == (1, False)
        assert "two.flac: no such file" in err and "has changed since it was added" in err
        assert db.stamp.identity == embedder.identity and len(db.snapshot().tracks) == 4
        (files / "kept").rename(files / "two.flac")
        status, done, _ = confp("reindex", db.folder, "--model", other.name, "--json", "--prune")
        assert (status, done["swapped"], len(done["tracks"])) == (0, True, 2)
        assert names(db) == ["one", "one", "two"]
        assert verify(db) == []

    def test_one_that_has_it_open_neither_writes_to_it_nor_asks_it(self, db, embedder, other, files):
        """A program that runs on through `confp reindex` would mix two models' fingerprints, and find nothing."""
        library = Library(db.folder)
        reindex(db, other)
        again = "the database is of .* now, not of .*; open it anew"
        for use in (
            lambda: add_paths(db, embedder, [files]),
            lambda: update_tracks(db, embedder),
            lambda: Searcher(db, embedder),
            lambda: library.add(files),
            library.refresh,
        ):
            with pytest.raises(OtherModelError, match=again):
                use()
        assert Library(db.folder).identify_file(files / "two.flac").matches[0].track == "two"
        self.check(db, other)

    def test_what_cannot_come_along_is_told(self, confp, db, embedder, other):
        """An uploaded track has no file; a threshold that was measured with the old model is none of the new one's."""
        rows = np.eye(3, db.snapshot().vectors.shape[1], dtype=np.float32)
        add_track(db, NewTrack("jingle", f"{UPLOADED}1", "1" * 64, 3.6, rows), model=db.stamp)
        db.set_setting(CALIBRATION_SETTING, json.dumps({"identity": embedder.identity}))
        status, _, err = confp("reindex", db.folder, "--model", other.name)
        assert status == 1 and "jingle was uploaded, so there is no file to read again; upload it again after --prune" in err
        status, out, err = confp("reindex", db.folder, "--model", other.name, "--prune")
        assert status == 0 and "4 tracks" in out and f"`confp calibrate {db.folder}`" in err
        self.check(db, other)


class TestParquet:
    @pytest.fixture(autouse=True)
    def parquet(self):
        pytest.importorskip("pyarrow", reason="the extra `parquet`")

    def test_a_round_trip(self, confp, db, tmp_path):
        out = tmp_path / "all.parquet"
        assert confp("export", db.folder, out, "--json")[:2] == (0, {"out": str(out), "num_tracks": 4})
        status, done, _ = confp("import", tmp_path / "new.db", out, "--json")
        assert (status, done) == (0, {"num_added": 4, "num_there": 0, "num_tracks": 4})
        new = Database(tmp_path / "new.db")
        assert new.stamp == db.stamp
        for one, two in zip(db.tracks(), new.tracks(), strict=True):
            for field in ("name", "path", "title", "artist", "album", "sha256", "duration_s", "first_row", "num_rows"):
                assert getattr(one, field) == getattr(two, field)
        np.testing.assert_array_equal(np.asarray(new.snapshot().vectors), np.asarray(db.snapshot().vectors))
        assert confp("import", new.folder, tmp_path)[1].startswith("0 added, 4 already there")
        assert sorted(p.name for p in tmp_path.glob("*.p*")) == ["all.parquet"]

    def test_others_can_read_it(self, db, tmp_path):
        import pyarrow.parquet as pq

        main(["export", str(db.folder), str(tmp_path / "all.parquet")])
        table = pq.read_table(tmp_path / "all.parquet")
        vectors = np.array(table["fingerprints"].to_pylist()[1])
        track = db.tracks()[1]
        np.testing.assert_array_equal(vectors, db.snapshot().vectors[track.first_row : track.first_row + track.num_rows])

    def test_many_groups(self, db, tmp_path, monkeypatch):
        from confp_jax.retrieval import exchange

        monkeypatch.setattr(exchange, "_GROUP_ROWS", 10)
        assert exchange.export_database(db, tmp_path / "a.parquet") == 4
        copy = Database.create(tmp_path / "copy", db.stamp)
        assert exchange.import_files(copy, [tmp_path / "a.parquet"]).num_added == 4
        np.testing.assert_array_equal(np.asarray(copy.snapshot().vectors), np.asarray(db.snapshot().vectors))

    def test_what_is_no_such_file(self, confp, db, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        (tmp_path / "rubbish.parquet").write_bytes(b"PAR1 rubbish PAR1")
        pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
        (tmp_path / "none").mkdir()
        confp("export", db.folder, tmp_path / "cut.parquet")
        content = (tmp_path / "cut.parquet").read_bytes()
        (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
        for name in ("rubbish.parquet", "other.parquet", "missing.parquet", "cut.parquet", "none"):
            status, out, err = confp("import", tmp_path / "new.db", tmp_path / name)
            assert (status, out) == (1, ""), name
            assert err.startswith("error: ") and name in err and "confp export" in err
        assert not (tmp_path / "new.db").exists()

    def test_another_models_fingerprints(self, confp, db, tmp_path):
        from confp_jax.retrieval.exchange import write_fingerprints

        write_fingerprints(tmp_path / "a.parquet", ModelStamp("m", "abc", 0.3), [], dim=4)
        status, _, err = confp("import", db.folder, tmp_path / "a.parquet")
        assert status == 1 and "cannot be compared" in err

    def test_a_folder_that_is_not_there(self, db, tmp_path):
        from confp_jax.retrieval.exchange import export_database

        with pytest.raises(DatabaseError, match="cannot be written"):
            export_database(db, tmp_path / "none" / "a.parquet")
