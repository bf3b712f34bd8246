"""Exact search against numpy's sort; ScaNN against exact search."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confp_jax.retrieval.index import ExactIndex, build_index, exact

scann_only = pytest.mark.skipif(sys.platform != "linux", reason="ScaNN has wheels for Linux only")


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


@scann_only
class TestScann:
    @pytest.mark.parametrize("num", [1, 2, 7, 150, 3_000])
    def test_brute_force_equals_exact_search(self, num):
        from confp_jax.retrieval.index.scann import ScannIndex

        rng = np.random.default_rng(num)
        vectors, queries = unit_rows(rng, num), unit_rows(rng, 9)
        expected = ExactIndex(vectors).search(queries, k=200)
        for index in (ScannIndex(vectors), build_index(vectors)):
            found = index.search(queries, k=200)
            assert found.rows.dtype == np.int64
            np.testing.assert_allclose(found.scores, expected.scores, atol=2e-6)
            np.testing.assert_array_equal(found.rows, expected.rows)

    def test_the_tree_finds_what_exact_search_finds(self, capfd):
        """Queries are database rows with noise: cosine about 0.7, as of a distorted excerpt to its original."""
        from confp_jax.retrieval.index.scann import BRUTE_FORCE_ROWS, ScannIndex

        rng = np.random.default_rng(5)
        vectors = clustered_rows(rng, BRUTE_FORCE_ROWS + 5_000)
        vectors[[17, 9_000]] = 0  # silence
        chosen = rng.choice(len(vectors), 500, replace=False)
        queries = vectors[chosen] + unit_rows(rng, len(chosen))
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        index = ScannIndex(vectors)
        assert capfd.readouterr() == ("", "")  # ScaNN's own log is not the user's business
        expected, found = ExactIndex(vectors).search(queries, k=10), index.search(queries, k=10)
        recall_1 = np.mean(found.rows[:, 0] == expected.rows[:, 0])
        recall_10 = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, expected.rows, strict=True)])
        with capfd.disabled():
            print(f"\nScaNN tree, {len(vectors)} rows: recall@1 {recall_1:.4f}, recall@10 {recall_10:.4f}")
        assert recall_1 >= 0.99
        assert recall_10 >= 0.97
        # Scores are those of the float vectors, not of their codes.
        same = found.rows == expected.rows
        np.testing.assert_allclose(found.scores[same], expected.scores[same], atol=1e-5)
        self.check_more_neighbours_than_the_searched_leaves_hold(index, queries[:3], vectors)

    def check_more_neighbours_than_the_searched_leaves_hold(self, index, queries, vectors):
        found = index.search(queries, k=10**6)
        assert found.rows.shape == (3, len(vectors))
        filled = found.rows >= 0
        np.testing.assert_array_equal(filled, np.isfinite(found.scores))
        assert (found.scores[~filled] == -np.inf).all()
        for rows, scores, query in zip(found.rows, found.scores, queries, strict=True):
            rows, scores = rows[rows >= 0], scores[rows >= 0]
            assert len(set(rows)) == len(rows) > 1000
            assert (np.diff(scores) <= 1e-6).all()
            np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-5)

    def test_zero_rows_are_similar_to_nothing(self):
        from confp_jax.retrieval.index.scann import ScannIndex

        vectors = np.concatenate([np.zeros((2, 16), np.float32), np.eye(16, dtype=np.float32)])
        for index in (ScannIndex(vectors), ExactIndex(vectors)):
            found = index.search(np.eye(16, dtype=np.float32)[3:4], k=18)
            assert found.rows[0, 0] == 5
            assert found.scores[0].tolist() == [1.0] + [0.0] * 17
            assert not index.search(np.zeros((1, 16), np.float32), k=3).scores.any()

    def test_no_queries(self):
        from confp_jax.retrieval.index.scann import ScannIndex

        found = ScannIndex(np.eye(16, dtype=np.float32)).search(np.zeros((0, 16), np.float32), k=3)
        assert found.rows.shape == found.scores.shape == (0, 3)

    def test_what_scann_would_crash_on_is_refused(self):
        from confp_jax.retrieval.index.scann import ScannIndex

        with pytest.raises(ValueError, match="at least one row"):
            ScannIndex(np.zeros((0, 16), np.float32))
        for value in (np.nan, np.inf):
            vectors = np.eye(16, dtype=np.float32)
            vectors[3, 4] = value
            with pytest.raises(ValueError, match="NaN or infinite"):
                ScannIndex(vectors)

    def test_views_and_half_precision_are_taken(self):
        from confp_jax.retrieval.index.scann import ScannIndex

        rows = unit_rows(np.random.default_rng(0), 40, 16)
        for vectors in (rows.astype(np.float16), rows[::2], np.asfortranarray(rows)):
            found = ScannIndex(vectors).search(vectors[:5].astype(np.float32), k=1)
            assert found.rows[:, 0].tolist() == list(range(5))
