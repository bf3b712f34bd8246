"""Damage in stored rows and foreign files in the folder: left out, named, never copied."""

import logging
import pathlib

import numpy as np
import pytest
from sample_tracks import DIM, STAMP, check_filled, track
from unit_vectors import unit_rows

from confp_jax.database import Database, DatabaseError, TrackTags, digests
from confp_jax.database.compact import compact_shards
from confp_jax.database.damage import is_sound
from confp_jax.database.merge import merge_databases
from confp_jax.database.roots import read_roots
from confp_jax.database.shards import write_shard
from confp_jax.database.stage import begin_staging, replace_rows, stage, swap
from confp_jax.database.vectors import PRECISIONS
from confp_jax.database.verify import verify


def flip(path: pathlib.Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def spoil(database: Database, row: int) -> None:
    """Flips the highest bit of an exponent in this row of the first shard (float16)."""
    (shard, *_) = sorted((database.folder / "vectors").glob("*.npy"))
    dim = database.snapshot().vectors.shape[1]
    flip(shard, 128 + 2 * row * dim + 1, 6)


def forget_blocks(database: Database) -> None:
    """As an older version wrote it: no checksums of rows."""
    with database.connect() as connection:
        connection.execute("DROP TABLE blocks")


class TestFlippedBits:
    @pytest.mark.parametrize("is_old", [False, True])
    def test_a_track_with_damaged_rows_is_left_out_and_named(self, four, caplog, is_old):
        if is_old:
            forget_blocks(four)
        spoil(four, 40)  # 32 rows a track: of the second one
        snapshot = four.snapshot()
        assert [t.name for t in snapshot.tracks] == ["Träck 0", "Träck 2", "Träck 3"]
        assert [t.first_row for t in snapshot.tracks] == [0, 32, 64]
        assert snapshot.row_tracks.tolist() == [0] * 32 + [1] * 32 + [2] * 32
        assert [t.name for t in snapshot.damaged] == ["Träck 1"]
        np.testing.assert_allclose(snapshot.vectors[32:64], unit_rows(2, 32, DIM), atol=2**-11)
        assert "Träck 1" in caplog.text and "confp repair" in caplog.text

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_whatever_bit_changed_its_track_is_left_out(self, tmp_path, precision):
        """A low bit of a float, a sign, a sector of zeros: all of them can be fingerprints."""
        database = Database.create(tmp_path / "db", STAMP, precision=precision)
        with database.writing():
            database.add([track(number, 32) for number in range(3)])
        (shard,) = (database.folder / "vectors").iterdir()
        width = (shard.stat().st_size - 128) // 96
        flip(shard, 128 + 33 * width, 0)
        assert [t.name for t in database.snapshot().damaged] == ["Träck 1"]
        assert verify(database)[0].tracks == [2]
        content = shard.read_bytes()
        shard.write_bytes(content[: -10 * width] + bytes(10 * width))
        assert [t.id for t in database.snapshot().damaged] == [2, 3]

    def test_damaged_checksums_leave_sound_rows_in_use(self, four):
        with four.connect() as connection:
            connection.execute("UPDATE blocks SET crc32 = ?", (bytes(16),))
        assert four.snapshot().damaged == ()

    def test_signs_that_an_older_version_wrote_are_told_and_harmless(self, tmp_path, caplog):
        database = Database.create(tmp_path / "db", STAMP, precision="binary")
        with database.writing():
            database.add([track(0), track(1)])
        forget_blocks(database)
        flip(next((database.folder / "vectors").iterdir()), 130, 3)
        snapshot = database.snapshot()
        assert len(snapshot.tracks) == 2 and is_sound(np.asarray(snapshot.vectors)).all()
        assert "not as it was written" in caplog.text
        assert len(database.snapshot(to_copy=True).damaged) == 2

    def test_a_compaction_gives_an_older_version_s_rows_checksums(self, four):
        forget_blocks(four)
        with four.writing():
            compact_shards(four)
        flip(next((four.folder / "vectors").iterdir()), 128, 0)
        assert [t.name for t in four.snapshot().damaged] == ["Träck 0"]

    def test_compaction_moves_what_is_sound_and_leaves_damage_where_it_is(self, four, caplog):
        spoil(four, 40)
        with four.writing():
            four.remove([four.tracks()[0].id])
            compact_shards(four)
        assert "left as they are" in caplog.text
        (problem,) = verify(four)
        assert problem.tracks == [2] and "checksum" in problem.what
        with four.writing():
            four.remove([2])
            compact_shards(four)
        assert verify(four) == []
        assert [t.name for t in four.snapshot().tracks] == ["Träck 2", "Träck 3"]
        assert len(list((four.folder / "vectors").iterdir())) == 1

    @pytest.mark.parametrize("is_old", [False, True])
    def test_a_merge_copies_what_is_sound_and_names_the_rest(self, four, tmp_path, is_old):
        with four.writing():
            four.add([track(9)])  # in a shard of its own
        if is_old:
            forget_blocks(four)
        spoil(four, 40)
        other = Database.create(tmp_path / "other", STAMP)
        merged = merge_databases(other, four)
        damaged = {f"Träck {number}" for number in (range(4) if is_old else [1])}
        assert set(merged.damaged) == damaged and verify(other) == []
        assert {t.name for t in other.tracks()} == {t.name for t in four.tracks()} - damaged

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_what_is_stored_is_sound(self, tmp_path, precision):
        database = Database.create(tmp_path / "db", STAMP, precision=precision)
        with database.writing():
            database.add([track(0), track(1)])
        assert database.snapshot(to_copy=True).damaged == () and len(database.tracks()) == 2

    def test_silence_is_sound_and_what_is_not_finite_is_not(self):
        rows = np.stack([np.zeros(4), [1, 0, 0, 0], [np.nan, 0, 0, 0], [np.inf, 0, 0, 0]])
        assert is_sound(rows.astype(np.float32)).tolist() == [True, True, False, False]
        assert is_sound(1e30 * rows[1:2].astype(np.float32)).tolist() == [False]

    def test_a_row_range_beyond_its_shard_is_left_out(self, four):
        with four.connect() as connection:
            connection.execute("UPDATE tracks SET num_rows = 500 WHERE id = 4")
        assert [t.name for t in four.snapshot().damaged] == ["Träck 3"]


class TestCatalogue:
    @pytest.mark.parametrize(
        ("change", "tracks"),
        [
            ("UPDATE tracks SET title = 'x' WHERE id = 1", [1]),
            ("UPDATE tracks SET first_row = first_row + 1, num_rows = 3 WHERE id = 2", [2]),
            ("UPDATE tracks SET duration_s = 1e9 WHERE id = 2", [2]),
            ("UPDATE tracks SET removed_at = 1 WHERE id = 2", [2]),
            ("DELETE FROM tracks WHERE id = 1", [1]),
            ("UPDATE settings SET value = 0.5 WHERE key = 'hop_s'", []),
            ("UPDATE shards SET sha256 = 'x'", []),
        ],
    )
    def test_a_byte_that_changed_is_found_and_not_sealed(self, filled, change, tracks):
        assert verify(filled) == []
        with filled.connect() as connection:
            connection.execute(change)
        before = {tuple(problem.tracks) for problem in verify(filled)}
        assert tuple(tracks) in before
        with filled.writing():
            filled.rename(1, {"artist": "other"})
            filled.move({1: "/elsewhere.wav", 2: "/there.wav"})
            filled.add([track(7)], replacing=[3])
            compact_shards(filled)
        assert tuple(tracks) in {tuple(problem.tracks) for problem in verify(filled)}

    def test_who_copies_or_rewrites_is_warned(self, filled, caplog, tmp_path):
        with filled.connect() as connection:
            connection.execute("UPDATE tracks SET title = 'x' WHERE id = 2")
        with filled.writing():
            filled.remove([1])
            compact_shards(filled)
        assert "stay as they are (ids 2)" in caplog.text
        caplog.clear()
        merge_databases(Database.create(tmp_path / "other", STAMP), filled)
        assert "not as the last writer left it" in caplog.text and "(tracks 2)" in caplog.text

    def test_a_track_that_is_removed_is_wrong_no_more(self, filled):
        with filled.connect() as connection:
            connection.execute("UPDATE tracks SET title = 'x' WHERE id = 2")
            connection.execute("DELETE FROM tracks WHERE id = 3")
        with filled.writing():
            filled.remove([2, 3])
        assert verify(filled) == []

    def test_whatever_changes_tracks_changes_their_checksums(self, filled):
        tags = TrackTags(isrc="DEABC9400001")
        with filled.writing():
            filled.rename(1, {"title": "other"})
            filled.move({2: "/elsewhere.wav"})
            filled.tag({1: tags})
            filled.add([track(7), track(8, tags=tags)], replacing=[3])
            replace_rows(filled, [(1, unit_rows(5, 3, DIM))])
            compact_shards(filled)
            assert len(begin_staging(filled, STAMP)) == 4
            stage(filled, [(number, unit_rows(number, 3, DIM)) for number in (1, 2, 4)])
            assert swap(filled, STAMP, drop_missing=True) == 1
        assert verify(filled) == [] and len(filled.tracks()) == 3
        with filled.connect() as connection:
            assert connection.execute("SELECT COUNT(*) FROM row_sums").fetchone() == (3,)

    def test_an_earlier_version_s_tracks_get_checksums(self, filled):
        with filled.connect() as connection:
            connection.execute("DROP TABLE row_sums")
            connection.execute("UPDATE tracks SET title = 'x' WHERE id = 2")  # nobody can know
        assert verify(filled) == []
        with filled.writing():
            pass
        with filled.connect() as connection:
            connection.execute("UPDATE tracks SET title = 'y' WHERE id = 2")
        assert [problem.tracks for problem in verify(filled)] == [[2]]

    def test_a_track_more_costs_no_look_at_the_others(self, filled, monkeypatch):
        looked: list[int] = []
        real = digests._sum
        monkeypatch.setattr(digests, "_sum", lambda row: looked.append(row[0]) or real(row))
        with filled.writing():
            filled.add([track(7)])
            filled.rename(2, {"title": "other"})
        assert looked == [4, 2, 2]

    def test_a_writer_that_was_killed_leaves_no_digest_and_no_false_alarm(self, filled):
        with pytest.raises(KeyboardInterrupt), filled.writing():
            filled.remove([1])
            raise KeyboardInterrupt
        assert verify(filled) == []
        with filled.writing():
            pass
        assert filled.setting("model_digest") and verify(filled) == []


class TestOddValues:
    """SQLite stores any value in any column: somebody else's, or a byte's that changed."""

    @pytest.mark.parametrize(
        "change",
        [
            "duration_s = 'long'",
            "duration_s = 9e999",
            "num_rows = 'x'",
            "num_rows = -1",
            "first_row = 0.5",
            "shard = 'x'",
            "name = x'ff00'",
            "sha256 = 7.5e300, path = x'00'",
            "added_at = 9e999",
        ],
    )
    def test_a_track_of_odd_values_is_left_out_and_told(self, filled, caplog, change):
        with filled.connect() as connection:
            connection.execute(f"UPDATE tracks SET {change} WHERE id = 2")
        snapshot = filled.snapshot()
        assert [t.name for t in snapshot.tracks] == ["Träck 0", "Träck 2"]
        assert [t.name for t in filled.tracks()] == ["Träck 0", "Träck 2"]
        assert "ids 2" in caplog.text
        assert any(problem.tracks == [2] for problem in verify(filled))

    def test_a_byte_that_is_no_letter_costs_a_letter(self, filled):
        with filled.connect() as connection:
            connection.execute("UPDATE tracks SET title = CAST(x'41ff42' AS TEXT) WHERE id = 2")
        assert [t.title for t in filled.tracks()] == ["", "A\N{REPLACEMENT CHARACTER}B", ""]

    @pytest.mark.parametrize("hop", ["x", "nan", "inf", "0", "-1", "1e-9"])
    def test_a_setting_that_is_none(self, filled, hop):
        for key, value in (("hop_s", hop), ("precision", "float3"), ("edits", "x"), ("roots", "{")):
            filled.set_setting(key, value)
        with pytest.raises(DatabaseError, match="hop_s"):
            _ = filled.model_id
        with pytest.raises(DatabaseError, match="precision"):
            _ = filled.precision
        filled.rename(1, {"title": "new"})
        assert read_roots(filled) == [] and filled.setting("edits") == "1"


class TestForeignDatabases:
    def test_a_link_where_a_shard_will_be_written_is_not_followed(self, filled, tmp_path):
        (tmp_path / "thesis").write_text("precious")
        for name in ("000002.npy.part", "000003.npy.part"):
            (filled.folder / "vectors" / name).symlink_to(tmp_path / "thesis")
        write_shard(filled.folder / "vectors" / "000002.npy", np.zeros((3, 8), np.float16))
        with filled.writing():
            filled.add([track(7)])
        assert (tmp_path / "thesis").read_text() == "precious"

    def test_vectors_of_another_length_are_not_merged(self, filled, tmp_path):
        """Of the same model, as anybody may say."""
        other = Database.create(tmp_path / "other", STAMP)
        with other.writing():
            other.add([track(7, vectors=unit_rows(7, 5, 16))])
        with pytest.raises(DatabaseError, match="16 values, those of .* 32"):
            merge_databases(filled, other)
        with filled.writing(), pytest.raises(DatabaseError, match="16 values"):
            filled.add([track(7, vectors=unit_rows(7, 5, 16))])
        check_filled(filled)

    @pytest.mark.parametrize("name", ["@eaDir", "lost+found", ".Trash"])
    def test_folders_of_others_are_left_alone(self, filled, name):
        for place in ("vectors", "index"):
            (filled.folder / place / name).mkdir(parents=True)
            (filled.folder / place / f"{name}.txt").write_text("precious")
        with filled.writing():
            filled.remove([1])
        for place in ("vectors", "index"):
            assert (filled.folder / place / name).is_dir()
            assert (filled.folder / place / f"{name}.txt").is_file()

    @pytest.mark.parametrize("name", ["vectors", "index", "lock", "catalogue.sqlite"])
    def test_links_are_refused_by_name(self, filled, tmp_path, name):
        outside = tmp_path / "outside"
        part = filled.folder / name
        if part.exists():
            part.rename(outside)
        else:
            outside.mkdir()
        part.symlink_to(outside)
        with pytest.raises(DatabaseError, match=f"{name} is a symbolic link"):
            Database(filled.folder)
        with pytest.raises(DatabaseError, match=f"{name} is a symbolic link"), filled.writing():
            pass
        assert outside.exists()

    @pytest.mark.parametrize("file", ["../../etc/passwd", "/etc/passwd", "x.npy", "000001.npy\n"])
    def test_a_shard_s_name_leads_nowhere_else(self, filled, file):
        with filled.connect() as connection:
            connection.execute("UPDATE shards SET file = ? WHERE id = 1", (file,))
        with pytest.raises(DatabaseError, match="no name of a shard"):
            filled.snapshot()

    def test_a_shard_that_is_a_link_is_refused(self, filled, tmp_path):
        shard = next((filled.folder / "vectors").iterdir())
        shard.rename(tmp_path / "elsewhere.npy")
        shard.symlink_to(tmp_path / "elsewhere.npy")
        with pytest.raises(DatabaseError, match="symbolic link"):
            filled.snapshot()


def test_what_is_sound_stays(filled, caplog):
    caplog.set_level(logging.WARNING)
    check_filled(filled)
    assert caplog.text == ""
