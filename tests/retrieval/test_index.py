"""Exact search against numpy's sort; ScaNN and Faiss against exact search; what was stored against what was built."""

import importlib.util
import logging
import pathlib
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confp_jax.retrieval import index as indexes
from confp_jax.retrieval.database import Database, DatabaseError, ModelStamp, NewTrack, StoredVectors
from confp_jax.retrieval.database.vectors import encode
from confp_jax.retrieval.index import (
    ApproximateIndex,
    Effort,
    ExactIndex,
    build_coarse,
    build_index,
    exact,
    generation,
    load_coarse,
)
from confp_jax.retrieval.index.generation import StaleGenerationError, fold, load_generation, open_index
from confp_jax.retrieval.index.tuning import measure_recall, tune

NUM_ROWS = indexes.BRUTE_FORCE_ROWS + 5_000
KINDS = [
    pytest.param("scann", marks=pytest.mark.skipif(sys.platform != "linux", reason="ScaNN has wheels for Linux only")),
    pytest.param("faiss", marks=pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="the extra `faiss`")),
]


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted by falling score, ties by rising row."""
    scores = queries @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


@st.composite
def problems(draw):
    """Small whole numbers: products are exact, and ties are common."""
    num, queries, dim = draw(st.integers(1, 60)), draw(st.integers(0, 5)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.integers(1, 3))
    numbers = (rng.integers(-values, values + 1, (size, dim)).astype(np.float32) for size in (num, queries))
    return *numbers, draw(st.integers(1, 80))


@settings(deadline=None, max_examples=200)
@given(problems(), st.integers(1, 100))
def test_exact_search_is_brute_force(problem, block_scores):
    vectors, queries, k = problem
    rows, scores = brute_force(vectors, queries, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_BLOCK_SCORES", block_scores)  # several blocks of queries, as a big database has
        found = ExactIndex(vectors).search(queries, k=k)
    assert found.rows.shape == (len(queries), min(k, len(vectors)))
    assert (found.rows.dtype, found.scores.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.rows, rows)  # and so ties go to the lower row


@settings(deadline=None, max_examples=100)
@given(problems(), st.integers(1, 30), st.sampled_from(["float16", "int8"]), st.integers(0, 2**32 - 1))
def test_stored_vectors_are_the_array(problem, num_runs, precision, seed):
    """Many shards read as one array: every way to index it, and the exact search that walks over its blocks."""
    vectors, queries, k = problem
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(vectors) + 1, num_runs - 1))
    stored = StoredVectors([encode(part, precision) for part in np.split(vectors, cuts) if len(part)], vectors.shape[1])
    if precision == "int8":
        np.testing.assert_allclose(np.asarray(stored), vectors, atol=3 / 127)
        vectors = np.asarray(stored)
    assert stored.shape == vectors.shape and len(stored) == len(vectors) and stored.dtype == np.float32
    first, last = sorted(rng.integers(-len(vectors) - 2, len(vectors) + 2, 2))
    rows = rng.integers(-len(vectors), len(vectors), (3, 4))
    for chosen in (slice(first, last), slice(None), slice(None, None, -2), rows, int(rows[0, 0]), rng.random(len(vectors)) < 0.5):
        np.testing.assert_array_equal(stored[chosen], vectors[chosen])
    for beyond in (len(vectors), -len(vectors) - 1):
        with pytest.raises(IndexError):
            stored[[beyond]]
    blocks = list(stored.blocks(7))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_IN_MEMORY_ROWS", 0)
        patch.setattr(StoredVectors, "blocks", lambda self: iter(blocks))
        found = ExactIndex(stored).search(queries, k=k)
    expected = ExactIndex(vectors).search(queries, k=k)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    if precision == "float16":
        np.testing.assert_array_equal(found.rows, expected.rows)


def test_exact_search_of_nothing():
    for index in (ExactIndex(np.zeros((0, 8), np.float32)), build_index(np.zeros((0, 8), np.float32))):
        found = index.search(np.ones((3, 8), np.float32), k=5)
        assert found.rows.shape == found.scores.shape == (3, 0)


def unit_rows(rng: np.random.Generator, num: int, dim: int = 128) -> np.ndarray:
    rows = rng.normal(size=(num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered_rows(rng: np.random.Generator, num: int, dim: int = 128) -> np.ndarray:
    """Like fingerprints: tracks are clusters in which neighbours in time are neighbours in space."""
    centres = unit_rows(rng, -(-num // 100), dim)
    walk = np.cumsum(rng.normal(size=(len(centres), 100, dim)) * 0.04, axis=1)
    rows = (centres[:, None] + walk).reshape(-1, dim)[:num].astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def noisy(vectors: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cosine about 0.7, as of a distorted excerpt to its original."""
    queries = vectors[rows] + unit_rows(rng, len(rows), vectors.shape[1])
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    vectors = clustered_rows(np.random.default_rng(5), NUM_ROWS)
    vectors[[17, 9_000]] = 0  # silence
    return vectors.astype(np.float16).astype(np.float32)


def test_a_small_database_is_searched_exactly():
    vectors = unit_rows(np.random.default_rng(0), 150)
    assert isinstance(build_index(vectors), ExactIndex)


@pytest.mark.parametrize("kind", KINDS)
class TestApproximate:
    def test_it_finds_what_exact_search_finds(self, kind, rows, tmp_path, capfd):
        """Also after it was written and read in another place; scores are those of the vectors, not of their codes."""
        rng = np.random.default_rng(6)
        queries = noisy(rows, rng.choice(len(rows), 500, replace=False), rng)
        coarse = build_coarse(rows, kind)
        (tmp_path / "a").mkdir()
        coarse.save(tmp_path / "a")
        assert capfd.readouterr() == ("", "")  # the library's own log is not the user's business
        (tmp_path / "a").rename(tmp_path / "b")
        loaded = load_coarse(tmp_path / "b", kind, num_rows=len(rows), num_cells=coarse.num_cells)
        index = ApproximateIndex(loaded, rows, tune(loaded, rows, recall=0.99))
        expected, found = ExactIndex(rows).search(queries, k=10), index.search(queries, k=10)
        recall_1 = np.mean(found.rows[:, 0] == expected.rows[:, 0])
        recall_10 = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, expected.rows, strict=True)])
        with capfd.disabled():
            print(
                f"\n{kind}, {len(rows)} rows: recall@1 {recall_1:.4f}, recall@10 {recall_10:.4f}, {index._effort.num_cells} cells"
            )
        assert recall_1 >= 0.98  # tuned to 0.99 on other queries
        assert recall_10 >= 0.9
        same = found.rows == expected.rows
        np.testing.assert_allclose(found.scores[same], expected.scores[same], atol=1e-5)
        np.testing.assert_array_equal(index.search(queries[:1], k=10).rows, found.rows[:1])
        self.check_more_neighbours_than_the_searched_cells_hold(loaded, queries[:3], rows)
        self.check_odd_queries(index, rows)

    def check_more_neighbours_than_the_searched_cells_hold(self, coarse, queries, vectors):
        found = ApproximateIndex(coarse, vectors, Effort(8, 100)).search(queries, k=10**6)
        assert found.rows.shape == (3, len(vectors))
        filled = found.rows >= 0
        np.testing.assert_array_equal(filled, np.isfinite(found.scores))
        assert (found.scores[~filled] == -np.inf).all()
        assert not filled.all()
        for rows, scores, query in zip(found.rows, found.scores, queries, strict=True):
            rows, scores = rows[rows >= 0], scores[rows >= 0]
            assert len(set(rows)) == len(rows) > 500
            assert (np.diff(scores) <= 1e-6).all()
            np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-5)

    def check_odd_queries(self, index, vectors):
        assert not (index.search(np.zeros((1, 128), np.float32), k=3).scores > 0).any()
        assert index.search(np.zeros((0, 128), np.float32), k=3).rows.shape == (0, 3)
        assert index.search(vectors[:2].astype(np.float64), k=1).rows[:, 0].tolist() == [0, 1]
        assert index.search(vectors[:2], k=0).rows.shape == (2, 0)
        with pytest.raises(ValueError, match="NaN or infinite"):
            index.search(np.full((1, 128), np.nan, np.float32), k=3)

    def test_what_it_would_crash_on_is_refused(self, kind):
        for vectors in (np.zeros((0, 16), np.float32), np.eye(16, dtype=np.float32)[:3]):
            with pytest.raises(ValueError, match="too few|needs 16"):
                build_coarse(vectors, kind)
        for value in (np.nan, np.inf):
            vectors = np.eye(16, dtype=np.float32)
            vectors[3, 4] = value
            with pytest.raises(ValueError, match="NaN or infinite"):
                build_coarse(vectors, kind)


def new_tracks(vectors: np.ndarray, first: int, length: int = 100) -> list[NewTrack]:
    parts = [vectors[i : i + length] for i in range(0, len(vectors), length)]
    return [NewTrack(f"{first + i}", f"/{first + i}", f"{first + i}", 30.0, part) for i, part in enumerate(parts)]


@pytest.fixture(scope="module")
def folded(rows, tmp_path_factory) -> pathlib.Path:
    """250 tracks of 100 rows, in one generation of ScaNN."""
    database = Database.create(tmp_path_factory.mktemp("folded") / "db", ModelStamp("m", "1", 0.3))
    with database.writing():
        database.add(new_tracks(rows[:15_000], 0))
        database.add(new_tracks(rows[15_000:], 150))
        fold(database)
    return database.folder


@pytest.fixture
def database(folded, tmp_path) -> Database:
    return Database(shutil.copytree(folded, tmp_path / "moved"))


@pytest.fixture
def built(monkeypatch) -> list[str]:
    """What was built, should anything be."""
    kinds: list[str] = []
    build = indexes.build_coarse
    monkeypatch.setattr(indexes, "build_coarse", lambda vectors, kind: kinds.append(kind) or build(vectors, kind))
    return kinds


@pytest.mark.skipif(not indexes.default_kind(), reason="no approximate index is installed")
class TestGenerations:
    def check(self, database: Database, *, seed: int = 3) -> None:
        """What the index finds is what exact search finds, on the snapshot of now."""
        snapshot = database.snapshot()
        index = open_index(database, snapshot)
        assert isinstance(index, ApproximateIndex)
        rng = np.random.default_rng(seed)
        vectors = np.asarray(snapshot.vectors)
        queries = noisy(vectors, rng.choice(len(vectors), 300, replace=False), rng)
        found, expected = index.search(queries, k=5), ExactIndex(vectors).search(queries, k=5)
        assert np.mean(found.rows[:, 0] == expected.rows[:, 0]) >= 0.97
        assert (found.rows < len(vectors)).all() and (found.rows >= 0).all()
        for row, score, query in zip(found.rows, found.scores, queries, strict=True):
            assert len(set(row)) == 5
            np.testing.assert_allclose(score, vectors[row] @ query, atol=1e-5)

    def test_it_is_read_and_not_built_again_wherever_the_folder_is(self, database, built):
        self.check(database)
        assert built == []

    def test_added_rows_are_found_and_removed_ones_are_not_at_once(self, database, built):
        new = unit_rows(np.random.default_rng(8), 300)
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
        from confp_jax.retrieval.database.compact import compact_shards

        with database.writing():
            database.remove([t.id for t in database.tracks()[3:200:7]])
            database.add(new_tracks(unit_rows(np.random.default_rng(9), 200), 2000))
            compact_shards(database)
        self.check(database)
        assert built == []

    def test_when_too_much_has_changed_it_is_built_anew_and_kept(self, database, built, caplog):
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
            copy = Database(shutil.copytree(database.folder, database.folder.parent / f"{damage}-{file.name}"))
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
                (target.parent / "manifest.json").write_text(text.replace('"num_candidates"', '"num_candidate"'))
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
        """Refused where it is chosen; elsewhere (a copy on another machine) what is there takes its place, and it is said."""
        monkeypatch.setattr(indexes, "is_installed", lambda kind: kind == "scann")
        with database.writing(), pytest.raises(DatabaseError, match="faiss is not installed; install it"):
            generation.choose(database, kind="faiss")
        database.set_setting("index", "faiss")
        self.check(database)
        assert "which is not installed here" in caplog.text and built == []

    def test_the_kind_and_the_recall_can_be_chosen(self, database):
        pytest.importorskip("faiss")
        with database.writing():
            generation.choose(database, kind="faiss", recall=0.9)
            manifest = fold(database)
        assert manifest is not None
        assert (manifest.kind, manifest.effort.recall >= 0.9) == ("faiss", True)
        assert [p.name.split("-")[0] for p in (database.folder / "index").iterdir()] == ["faiss"]
        self.check(database)
        assert measure_recall(open_index(database, database.snapshot()), database.snapshot().vectors) > 0.85
        with database.writing():
            generation.choose(database, kind="exact")
            assert fold(database) is None
        assert not list((database.folder / "index").iterdir())
        assert isinstance(open_index(database, database.snapshot()), ExactIndex)
