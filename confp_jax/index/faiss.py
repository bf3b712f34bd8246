"""Faiss (Douze et al. 2024): inverted lists with 4-bit product quantization, scanned in registers.

Where ScaNN has no wheel.
"""

import math
import pathlib

import faiss
import numpy as np
from jaxtyping import Float32, Int64

LIBRARY = f"faiss {faiss.__version__}"
_FILE = "index.faiss"
_TRAINING_ROWS_PER_CELL = 64
_DIMENSIONS_PER_BLOCK = 2


class FaissCells:
    """Compressed vectors in about sqrt(N) cells (IVF-PQ fast scan)."""

    def __init__(self, index: faiss.IndexIVFPQFastScan):
        self._index, self.num_rows, self.num_cells = index, index.ntotal, index.nlist

    @classmethod
    def build(cls, vectors: Float32[np.ndarray, "N E"]) -> "FaissCells":
        """Trains on the vectors and compresses them all.

        Raises:
          ValueError: too few rows, an odd number of dimensions, or rows that are not finite.
        """
        num_rows, dim = vectors.shape
        if num_rows < 16 or dim % _DIMENSIONS_PER_BLOCK:
            raise ValueError(
                f"Faiss needs 16 rows and an even number of dimensions, not {num_rows} and {dim}; "
                "search exactly"
            )
        if not np.isfinite(vectors).all():
            raise ValueError("the vectors contain NaN or infinite values")
        num_cells = round(math.sqrt(num_rows))
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFPQFastScan(
            quantizer, dim, num_cells, dim // _DIMENSIONS_PER_BLOCK, 4, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.min_points_per_centroid = 1
        sample = np.random.default_rng(0).permutation(num_rows)[
            : _TRAINING_ROWS_PER_CELL * num_cells
        ]
        vectors = np.ascontiguousarray(vectors, np.float32)
        index.train(vectors[np.sort(sample)])
        index.add(vectors)
        return cls(index)

    @classmethod
    def load(cls, folder: pathlib.Path, *, num_rows: int, num_cells: int, dim: int) -> "FaissCells":
        """Reads what `save` wrote.

        Raises:
          ValueError: it is another kind of index, or of other rows.
        """
        index = faiss.read_index(str(folder / _FILE))
        if not isinstance(index, faiss.IndexIVFPQFastScan):
            raise ValueError(
                f"{folder / _FILE} holds a {type(index).__name__}, not an IVF-PQ fast-scan index"
            )
        found = index.ntotal, index.nlist, index.d
        if found != (num_rows, num_cells, dim):
            raise ValueError(
                f"{folder / _FILE}: expected {num_rows} rows of {dim} values in {num_cells} cells, "
                f"found (rows, cells, values) = {found}"
            )
        return cls(index)

    def save(self, folder: pathlib.Path) -> None:
        """Writes it into an empty folder that may be moved."""
        faiss.write_index(self._index, str(folder / _FILE))

    def candidates(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int, num_cells: int
    ) -> Int64[np.ndarray, "Q num"]:
        """The best `num` rows (at most all) of the nearest `num_cells` cells, best first; -1 where
        there are fewer.
        """
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = min(max(1, num_cells), self.num_cells)
        return self._index.search(queries, min(num, self.num_rows), params=parameters)[1]
