"""The commands that keep databases in order, as a user meets them: real files, a real (untrained)
model, exit codes, JSON.
"""

import dataclasses

import numpy as np
import pytest
import soundfile

from confp_jax.cli import main
from confp_jax.database import Database, DatabaseError, ModelId
from confp_jax.database.verify import verify
from confp_jax.library import open as opening
from confp_jax.library.add import add_paths
from confp_jax.matching.decision import uncalibrated

RATE = 16_000


def names(database: Database) -> list[str]:
    return sorted(t.name for t in database.tracks())


class TestRemove:
    def test_by_path_and_by_name(self, confp, db, tagged):
        status, out, err = confp("remove", db.folder, tagged / "sub" / "one.flac", "two")
        assert (status, err) == (0, "")
        assert f"({tagged / 'sub' / 'one.flac'})" in out and out.endswith("now holds 2 tracks\n")
        assert names(db) == ["Björk", "one"]

    def test_what_verify_says_of_a_damaged_entry_can_be_done(self, confp, filled):
        with filled.connect() as connection:
            connection.execute("UPDATE tracks SET name = x'ff00' WHERE id = 2")
        (problem,) = [one for one in verify(filled) if one.tracks]
        assert "confp remove DB --id N" in problem.remedy
        status, done, _ = confp("remove", filled.folder, "--id", "2", "--json")
        assert (status, [one["id"] for one in done["removed"]]) == (0, [2])
        assert not any(one.tracks for one in verify(filled))

    def test_a_name_of_two_tracks_is_refused_with_their_ids(self, confp, db, tagged):
        status, found, err = confp("remove", db.folder, "one", "Björk", "nobody", "--json")
        assert status == 3
        assert [r["name"] for r in found["removed"]] == ["Björk"]
        ambiguous, unknown = found["refused"]
        assert "2 tracks have this name" in ambiguous and "nobody: no such track" in unknown
        ids = [str(t.id) for t in db.tracks() if t.name == "one"]
        for number, path in zip(
            ids, (tagged / "one.flac", tagged / "sub" / "one.flac"), strict=True
        ):
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
        for text, expected in {
            "ann": ann,
            "BJÖRK": ["Björk"],
            "title 3": third,
            "álbum": names(db),
            "zz": [],
        }.items():
            _, found, _ = confp("list", db.folder, "--search", text, "--json")
            assert sorted(t["name"] for t in found) == expected, text
        _, out, _ = confp("list", db.folder)
        assert out.splitlines()[0].split() == ["id", "track", "artist", "title", "length", "path"]

    def test_info(self, confp, db):
        db_info = confp("info", db.folder, "--json")[1]
        assert (db_info["num_tracks"], db_info["num_fingerprints"], db_info["duration_s"]) == (
            4,
            28,
            20.0,
        )
        assert (db_info["index"], db_info["precision"], db_info["num_removed"]) == (
            "exact",
            "float16",
            0,
        )
        assert db_info["num_bytes"] == sum(
            p.stat().st_size for p in db.folder.rglob("*") if p.name != "lock" and p.is_file()
        )
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

    def test_verify_names_what_is_damaged_and_the_way_out_works(self, confp, db, tagged):
        assert confp("verify", db.folder)[:2] == (0, "all is well with 4 tracks\n")
        assert confp("verify", db.folder, "--recall", "--json")[1] == {
            "problems": [],
            "recall": 1.0,
        }
        shard = next((db.folder / "vectors").iterdir())
        content = bytearray(shard.read_bytes())
        content[-9] ^= 1
        shard.write_bytes(content)
        status, out, err = confp("verify", db.folder)
        assert (
            status == 1 and "checksum differs" in err and "Björk" in err and out == "1 problems\n"
        )
        ids = confp("verify", db.folder, "--json")[1]["problems"][0]["tracks"]
        assert confp("remove", db.folder, *ids)[0] == 0
        assert confp("add", db.folder, tagged)[0] == 0
        assert confp("compact", db.folder)[0] == 0
        assert confp("verify", db.folder)[:2] == (0, "all is well with 4 tracks\n")

    def test_a_recall_that_is_none(self, confp, db, capsys):
        for value in ("1", "0.2"):
            with pytest.raises(SystemExit):
                confp("compact", db.folder, "--recall", value)
            assert "below 1" in capsys.readouterr().err


class TestMerge:
    def test_what_is_there_stays_and_what_is_new_comes(
        self, confp, db, embedder, tagged, tmp_path, music
    ):
        other = Database.create(tmp_path / "other.db", db.model_id, precision="int8")
        soundfile.write(tagged / "new.wav", music[-5 * RATE :], RATE)
        add_paths(other, embedder, [tagged / "new.wav", tagged / "two.flac"])
        status, merged, _ = confp("merge", db.folder, other.folder, "--json")
        assert (status, merged) == (
            0,
            {"num_added": 1, "num_there": 1, "damaged": [], "num_tracks": 5},
        )
        assert verify(db) == []
        (new,) = (track for track in db.tracks() if track.name == "new")
        rows = db.snapshot().vectors[new.first_row : new.first_row + new.num_rows]
        expected = embedder.fingerprint(
            soundfile.read(tagged / "new.wav", dtype="float32")[0]
        ).vectors
        np.testing.assert_allclose(rows, expected, atol=3e-3)
        # The file is known to be read already.
        assert [r.status for r in add_paths(db, embedder, [tagged])] == ["unchanged"] * 5
        assert confp("merge", db.folder, other.folder)[1].startswith("0 added, 2 already there")

    def test_refused(self, confp, db, tmp_path):
        other = Database.create(tmp_path / "other.db", ModelId("large", "fedcba", 0.3))
        status, _, err = confp("merge", db.folder, other.folder)
        assert status == 1 and "cannot be compared" in err and "fedcba" in err
        status, _, err = confp("merge", db.folder, db.folder)
        assert status == 1 and "the same database" in err
        status, _, err = confp("merge", db.folder, tmp_path)
        assert status == 1 and "no fingerprint database" in err


class TestParquet:
    @pytest.fixture(autouse=True)
    def parquet(self):
        pytest.importorskip("pyarrow", reason="the extra `parquet`")

    def test_a_round_trip(self, confp, db, tmp_path):
        out = tmp_path / "all.parquet"
        assert confp("export", db.folder, out, "--json")[:2] == (
            0,
            {"out": str(out), "num_tracks": 4, "damaged": []},
        )
        status, done, _ = confp("import", tmp_path / "new.db", out, "--json")
        assert (status, done) == (
            0,
            {"num_added": 4, "num_there": 0, "refused": [], "num_tracks": 4},
        )
        new = Database(tmp_path / "new.db")
        assert new.model_id == db.model_id
        for one, two in zip(db.tracks(), new.tracks(), strict=True):
            for field in (
                "name",
                "path",
                "title",
                "artist",
                "album",
                "tags",
                "sha256",
                "duration_s",
                "first_row",
                "num_rows",
            ):
                assert getattr(one, field) == getattr(two, field)
        np.testing.assert_array_equal(
            np.asarray(new.snapshot().vectors), np.asarray(db.snapshot().vectors)
        )
        assert confp("import", new.folder, tmp_path)[1].startswith("0 added, 4 already there")
        assert sorted(p.name for p in tmp_path.glob("*.p*")) == ["all.parquet"]

    def test_others_can_read_it(self, db, tmp_path):
        import pyarrow.parquet as pq

        main(["export", str(db.folder), str(tmp_path / "all.parquet")])
        table = pq.read_table(tmp_path / "all.parquet")
        vectors = np.array(table["fingerprints"].to_pylist()[1])
        track = db.tracks()[1]
        np.testing.assert_array_equal(
            vectors, db.snapshot().vectors[track.first_row : track.first_row + track.num_rows]
        )

    def test_many_groups(self, db, tmp_path, monkeypatch):
        from confp_jax.library import parquet

        monkeypatch.setattr(parquet, "_GROUP_ROWS", 10)
        assert parquet.export_database(db, tmp_path / "a.parquet") == (4, [])
        copy = Database.create(tmp_path / "copy", db.model_id)
        assert parquet.import_files(copy, [tmp_path / "a.parquet"]).num_added == 4
        np.testing.assert_array_equal(
            np.asarray(copy.snapshot().vectors), np.asarray(db.snapshot().vectors)
        )

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
        from confp_jax.library.parquet import write_fingerprints

        write_fingerprints(tmp_path / "a.parquet", ModelId("m", "abc", 0.3), [], dim=4)
        status, _, err = confp("import", db.folder, tmp_path / "a.parquet")
        assert status == 1 and "cannot be compared" in err

    def test_a_folder_that_is_not_there(self, db, tmp_path):
        from confp_jax.library.parquet import export_database

        with pytest.raises(DatabaseError, match="cannot be written"):
            export_database(db, tmp_path / "none" / "a.parquet")


@pytest.mark.parametrize(
    "stored",
    ["{", "[]", "null", '{"identity": 5}', "[" * 100_000]
    + [
        '{{"identity": "IT", "lengths_s": {}, "tails": {}, "num_tracks": {}}}'.format(*values)
        for values in (
            ("[1]", "[[NaN, 1]]", "5"),
            ("[1]", "[[1, 1]]", '"x"'),
            ("[2, 1]", "[[1, 1], [1, 1]]", "5"),
            ("[]", "[]", "5"),
            ('["x"]', "[[1, 1]]", "5"),
            ("[1]", "[[1]]", "5"),
        )
    ],
)
def test_a_damaged_calibration_is_told_and_not_used(db, embedder, monkeypatch, caplog, stored):
    decision = dataclasses.replace(uncalibrated(), calibrated=True)
    monkeypatch.setattr(opening, "load_decision", lambda *_: decision)
    db.set_setting(opening.CALIBRATION_SETTING, stored.replace("IT", embedder.weights_hash))
    assert opening.database_decision(db, embedder) is decision
    assert "confp calibrate" in caplog.text or "5}" in stored  # another model's
