"""Generations of the index on the disk: read where they serve, mended or built again where they do
not.
"""

import hashlib
import logging
import pathlib
import shutil

import numpy as np
import pytest
from clustered_rows import NUM_ROWS, clustered_rows, noisy, sample_rows, unit_rows

from confp_jax import index as indexes
from confp_jax.database import Database, DatabaseError, ModelId, NewTrack
from confp_jax.index import ApproximateIndex, ExactIndex, kinds, on_disk
from confp_jax.index.on_disk import (
    StaleGenerationError,
    check_generation,
    load_generation,
    open_index,
    rebuild,
)
from confp_jax.index.tuning import measure_recall


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return sample_rows()


def new_tracks(vectors: np.ndarray, first: int, length: int = 100) -> list[NewTrack]:
    parts = [vectors[i : i + length] for i in range(0, len(vectors), length)]
    return [
        NewTrack(f"{first + i}", f"/{first + i}", f"{first + i}", 30.0, part)
        for i, part in enumerate(parts)
    ]


@pytest.fixture(scope="module")
def folded(rows, tmp_path_factory) -> pathlib.Path:
    """250 tracks of 100 rows, in one generation of ScaNN."""
    database = Database.create(tmp_path_factory.mktemp("folded") / "db", ModelId("m", "1", 0.3))
    with database.writing():
        database.add(new_tracks(rows[:15_000], 0))
        database.add(new_tracks(rows[15_000:], 150))
        rebuild(database)
    return database.folder


@pytest.fixture
def database(folded, tmp_path) -> Database:
    return Database(shutil.copytree(folded, tmp_path / "moved"))


@pytest.fixture
def built(monkeypatch) -> list[str]:
    """What was built, should anything be."""
    kinds: list[str] = []
    build = indexes.build_coarse
    monkeypatch.setattr(
        indexes, "build_coarse", lambda vectors, kind: kinds.append(kind) or build(vectors, kind)
    )
    return kinds


class TestGenerations:
    def check(self, database: Database, *, seed: int = 3) -> None:
        """What the index finds is what exact search finds, on the snapshot of now."""
        snapshot = database.snapshot()
        index = open_index(database, snapshot)
        assert isinstance(index, ApproximateIndex)
        rng = np.random.default_rng(seed)
        vectors = np.asarray(snapshot.vectors)
        queries = noisy(vectors, rng.choice(len(vectors), 300, replace=False), rng)
        found = index.search(queries, k=5)
        expected = ExactIndex(vectors).search(queries, k=5)
        assert np.mean(found.rows[:, 0] == expected.rows[:, 0]) >= 0.97
        assert (found.rows < len(vectors)).all() and (found.rows >= 0).all()
        for row, score, query in zip(found.rows, found.scores, queries, strict=True):
            assert len(set(row)) == 5
            np.testing.assert_allclose(score, vectors[row] @ query, atol=1e-5)

    def test_it_is_read_and_not_built_again_wherever_the_folder_is(self, database, built):
        self.check(database)
        assert built == []

    def test_added_rows_are_found_and_removed_ones_are_not_at_once(self, database, built):
        new = unit_rows(np.random.default_rng(8), 300, 128)
        with database.writing():
            database.add(new_tracks(new, 1000))
            database.remove([t.id for t in database.tracks()[10:20]])
        self.check(database)
        snapshot = database.snapshot()
        index = open_index(database, snapshot)
        found = index.search(new, k=1)
        names = [snapshot.tracks[snapshot.row_tracks[row]].name for row in found.rows[:, 0]]
        assert names == ["1000"] * 100 + ["1001"] * 100 + ["1002"] * 100
        removed = np.asarray(Database(database.folder).snapshot().vectors)  # all that is left
        assert len(removed) == NUM_ROWS + 300 - 1000
        assert built == []

    def test_compaction_leaves_it_valid(self, database, built):
        from confp_jax.database.compact import compact_shards

        with database.writing():
            database.remove([t.id for t in database.tracks()[3:200:7]])
            database.add(new_tracks(unit_rows(np.random.default_rng(9), 200, 128), 2000))
            compact_shards(database)
        self.check(database)
        assert built == []

    def test_when_too_much_has_changed_it_is_built_again_and_kept(self, database, built, caplog):
        with database.writing():
            database.add(new_tracks(clustered_rows(np.random.default_rng(9), 9_000), 2000))
        with caplog.at_level(logging.WARNING):
            self.check(database)
        assert built == ["scann"] and "26% of the rows changed" in caplog.text
        self.check(database)
        assert built == ["scann"]
        assert len(list((database.folder / "index").iterdir())) == 1

    @pytest.mark.parametrize("damage", ["flip", "cut", "missing", "more", "folder", "manifest"])
    def test_damage_is_noticed_and_mended(self, database, built, damage, caplog):
        """Never a wrong answer, whichever file it hits."""
        folder = next((database.folder / "index").iterdir())
        files = sorted(folder.iterdir())
        for file in files if damage in ("flip", "cut") else files[:1]:
            copy = Database(
                shutil.copytree(database.folder, database.folder.parent / f"{damage}-{file.name}")
            )
            target = copy.folder / "index" / folder.name / file.name
            content = bytearray(target.read_bytes())
            if damage == "flip":
                content[len(content) // 2] ^= 1
                target.write_bytes(content)
            elif damage == "cut":
                target.write_bytes(content[:-1])
            elif damage == "missing":
                target.unlink()
            elif damage == "more":
                (target.parent / "scann_docids.pkl").write_bytes(b"cos\nsystem\n")
            elif damage == "manifest":
                text = (target.parent / "manifest.json").read_text()
                (target.parent / "manifest.json").write_text(
                    text.replace('"num_candidates"', '"num_candidate"')
                )
            else:
                shutil.rmtree(target.parent)
            with pytest.raises(StaleGenerationError):
                load_generation(copy, copy.snapshot())
        if damage == "flip":  # the others end in the same error
            self.check(copy)
            assert built == ["scann"] and "building the search index" in caplog.text
            self.check(copy)
            assert built == ["scann"]

    def test_where_nobody_may_write_it_is_built_in_memory(self, database, built, caplog):
        shutil.rmtree(database.folder / "index")
        with Database(database.folder).writing():
            self.check(database)
        assert built == ["scann"] and "could not be kept" in caplog.text
        assert not (database.folder / "index").exists()

    def test_while_another_process_adds_a_stale_one_serves(self, database, built, caplog):
        with database.writing():
            database.add(new_tracks(clustered_rows(np.random.default_rng(9), 9_000), 2000))
            self.check(database)
        assert built == [] and "another process is writing" in caplog.text

    def test_another_version_of_the_library(self, database, monkeypatch):
        monkeypatch.setattr(indexes, "library", lambda kind: "scann 0.1")
        with pytest.raises(StaleGenerationError, match=r"made with scann 1.*here is scann 0.1"):
            load_generation(database, database.snapshot())

    def test_a_kind_that_is_not_installed(self, database, monkeypatch, caplog, built):
        """Refused where it is chosen; elsewhere (a copy on another machine) what is there takes its
        place, and it is said.
        """
        monkeypatch.setattr(kinds, "is_installed", lambda kind: kind == kinds.SCANN)
        with (
            database.writing(),
            pytest.raises(DatabaseError, match="faiss is not installed; install it"),
        ):
            on_disk.choose(database, kind="faiss")
        database.set_setting("index", "faiss")
        self.check(database)
        assert "which is not installed here" in caplog.text and built == []

    def test_the_kind_and_the_recall_can_be_chosen(self, database):
        pytest.importorskip("faiss")
        with database.writing():
            on_disk.choose(database, kind="faiss", recall=0.9)
            manifest = rebuild(database)
        assert manifest is not None
        assert (manifest.kind, manifest.effort.recall >= 0.9) == ("faiss", True)
        assert [p.name.split("-")[0] for p in (database.folder / "index").iterdir()] == ["faiss"]
        self.check(database)
        assert (
            measure_recall(open_index(database, database.snapshot()), database.snapshot().vectors)
            > 0.85
        )
        with database.writing():
            on_disk.choose(database, kind="exact")
            assert rebuild(database) is None
        assert not list((database.folder / "index").iterdir())
        assert isinstance(open_index(database, database.snapshot()), ExactIndex)


@pytest.mark.parametrize("text", [b"", b"7", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_a_strangers_manifest_may_be_anything(tmp_path, text):
    folder = tmp_path / f"faiss-{hashlib.sha256(text).hexdigest()[:16]}"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(StaleGenerationError):
        check_generation(folder)
