"""Damaged fingerprints are made again from the files, wherever these lie now."""

import pathlib
import shutil

import numpy as np

from confp_jax.database.verify import verify
from confp_jax.library.repair import repair


def spoil_all(db) -> None:
    (shard,) = (db.folder / "vectors").glob("*.npy")
    content = bytearray(shard.read_bytes())
    content[-1000] ^= 64
    shard.write_bytes(content)


def test_what_is_damaged_is_made_again_and_keeps_its_id(db, embedder):
    before = db.snapshot()
    spoil_all(db)
    assert len(verify(db)) >= 1
    results = repair(db, embedder)
    assert [result.status for result in results] == ["repaired"] * 4
    assert verify(db) == []
    after = db.snapshot()
    assert {track.id for track in after.tracks} == {track.id for track in before.tracks}
    for track in after.tracks:
        (old,) = [one for one in before.tracks if one.id == track.id]
        rows = after.vectors[track.first_row : track.first_row + track.num_rows]
        expected = before.vectors[old.first_row : old.first_row + old.num_rows]
        assert np.einsum("ne,ne->n", rows, expected).min() > 0.999


def test_files_that_moved_are_found_in_a_folder_and_lost_ones_are_named(db, embedder, tmp_path):
    spoil_all(db)
    (tmp_path / "backup").mkdir()
    for number, track in enumerate(db.tracks()):
        shutil.move(track.path, tmp_path / "backup" / f"{number}{pathlib.Path(track.path).suffix}")
    next((tmp_path / "backup").glob("0.*")).unlink()
    lost = repair(db, embedder, folders=[])
    assert {result.status for result in lost} == {"failed"} and "--drop" in lost[0].error
    results = repair(db, embedder, folders=[tmp_path / "backup"])
    assert sorted(result.status for result in results) == ["failed"] + ["repaired"] * 3
    results = repair(db, embedder, drop=True)
    assert [result.status for result in results] == ["dropped"]
    assert len(db.tracks()) == 3 and verify(db) == []


def test_the_command(confp, db):
    assert confp("repair", db.folder)[:2] == (0, "0 of 0 damaged tracks are in order\n")
    spoil_all(db)
    status, out, _ = confp("repair", db.folder)
    assert status == 0 and out.endswith("4 of 4 damaged tracks are in order\n")
    assert confp("verify", db.folder)[0] == 0


def test_a_damaged_entry_of_the_catalogue_is_made_again_from_its_file(db, embedder):
    before = {track.name: track.title for track in db.tracks()}
    (first, second, *_) = db.tracks()
    with db.connect() as connection:
        connection.execute("UPDATE tracks SET title = 'x' WHERE id = ?", (first.id,))
        connection.execute("DELETE FROM tracks WHERE id = ?", (second.id,))
    assert [problem.tracks for problem in verify(db)] == [[first.id], [second.id]]
    assert [result.status for result in repair(db, embedder)] == ["repaired"]
    assert [problem.tracks for problem in verify(db)] == [[second.id]]
    assert repair(db, embedder, drop=True) == [] and verify(db) == []
    assert {t.name: t.title for t in db.tracks()}.items() <= before.items()
