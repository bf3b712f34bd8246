"""Faiss (Douze et al. 2024): inverted lists with 4-bit codes, scanned in registers.

Rows are read some at a time: a build holds a sample, a block and the codes, and not the rows. Of
signs, four values make one of the 16 codes of a block: nothing is lost, and no code is trained.
"""

import itertools
import math
import pathlib
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.index.protocol import SIGNS_PER_BLOCK, Vectors, are_signs, row_blocks

LIBRARY = f"faiss {faiss.__version__}"
_FILE = "index.faiss"
_MOST_CELLS = 4_096  # more make a build of 1e8 rows last hours, and find no more
_TRAINING_ROWS_PER_CELL = 64
_DIMENSIONS_PER_BLOCK = 2
_CODE_BITS = 4
_BLOCK_VALUES = 1 << 24  # 64 MiB of rows at a time


class FaissCells:
    """Compressed vectors in about sqrt(N) cells (IVF-PQ fast scan)."""

    def __init__(self, index: faiss.IndexIVFPQFastScan):
        self._index = index
        self.num_rows = index.ntotal
        self.num_cells = index.nlist

    @classmethod
    def build(cls, vectors: Vectors) -> "FaissCells":
        """Trains on a sample of the vectors and compresses them all, some at a time.

        Raises:
          ValueError: too few rows, an odd number of dimensions, or rows that are not finite.
        """
        num_rows, dim = vectors.shape
        if num_rows < 16 or dim % _DIMENSIONS_PER_BLOCK:
            raise ValueError(
                f"Faiss needs 16 rows and an even number of dimensions, not {num_rows} and {dim}; "
                "search exactly"
            )
        num_cells = min(round(math.sqrt(num_rows)), _MOST_CELLS)
        index = _trained(vectors, num_cells)
        for _, block in row_blocks(vectors, _BLOCK_VALUES // dim):
            if not np.isfinite(block).all():
                raise ValueError("the vectors contain NaN or infinite values")
            index.add(block)
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
        _check_lists(index, folder / _FILE)
        return cls(index)

    def save(self, folder: pathlib.Path) -> None:
        """Writes it into an empty folder that may be moved."""
        faiss.write_index(self._index, str(folder / _FILE))

    def candidates(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int, num_cells: int
    ) -> Int64[np.ndarray, "Q num"]:
        """Returns the best `num` rows (at most all) of the nearest `num_cells` cells, best first;
        -1 where there are fewer.
        """
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = min(max(1, num_cells), self.num_cells)
        return self._index.search(queries, min(num, self.num_rows), params=parameters)[1]


def _trained(vectors: Vectors, num_cells: int) -> faiss.IndexIVFPQFastScan:
    """Returns an empty index whose cells, and codes unless the rows are signs, are trained on a
    sample.
    """
    num_rows, dim = vectors.shape
    rng = np.random.default_rng(0)
    num = min(num_rows, _TRAINING_ROWS_PER_CELL * num_cells)
    sample = np.ascontiguousarray(
        vectors[np.sort(rng.choice(num_rows, num, replace=False))], np.float32
    )
    if not np.isfinite(sample).all():
        raise ValueError("the vectors contain NaN or infinite values")
    signs = are_signs(sample)
    block = SIGNS_PER_BLOCK if signs else _DIMENSIONS_PER_BLOCK
    index = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatIP(dim),
        dim,
        num_cells,
        dim // block,
        _CODE_BITS,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.cp.min_points_per_centroid = 1
    if not signs:
        index.train(sample)
        return index
    # pyrefly: ignore[missing-attribute]
    index.train_q1(len(sample), faiss.swig_ptr(sample), False, faiss.METRIC_INNER_PRODUCT)
    patterns = np.array(list(itertools.product((-1, 1), repeat=block)), np.float32)
    codes = np.tile(patterns.reshape(-1) / math.sqrt(dim), dim // block).astype(np.float32)
    faiss.copy_array_to_vector(codes, index.pq.centroids)
    index.is_trained = True
    return index


def _check_lists(index: faiss.IndexIVFPQFastScan, path: pathlib.Path) -> None:
    """Raises ValueError where a list names a row, or a cell a centroid, that there is not."""
    lists: Any = index.invlists
    quantizer = index.quantizer
    if (quantizer.ntotal, quantizer.d) != (index.nlist, index.d):
        raise ValueError(f"{path}: {quantizer.ntotal} centroids do not make {index.nlist} cells")
    num = 0
    for cell in range(index.nlist):
        if size := lists.list_size(cell):
            rows = faiss.rev_swig_ptr(lists.get_ids(cell), size)
            if rows.min() < 0 or rows.max() >= index.ntotal:
                raise ValueError(f"{path}: cell {cell} holds a row that there is not")
            num += size
    if num != index.ntotal:
        raise ValueError(f"{path}: its cells hold {num} rows instead of {index.ntotal}")
