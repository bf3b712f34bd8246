"""ScaNN (Guo et al. 2020): a tree of cells, and anisotropic hashing inside them.

64 bytes a vector of 128 dimensions.
"""

import contextlib
import math
import os
import pathlib
import threading
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import scann
from jaxtyping import Float32, Int64

from confp_jax.index.protocol import SIGNS_PER_BLOCK, Vectors, holds_signs

LIBRARY = f"scann {version('scann')}"
_ANISOTROPIC_THRESHOLD = 0.2
_DIMENSIONS_PER_BLOCK = 2
_CODES = 16  # of a block
_ASSETS = {
    "AH_CENTERS": "ah_codebook.pb",
    "PARTITIONER": "serialized_partitioner.pb",
    "TOKENIZATION_NPY": "datapoint_to_token.npy",
    "AH_DATASET_NPY": "hashed_dataset.npy",
}
_CHECKED_AT_ONCE = 65_536
_TRAINING_ROWS = 250_000
_stderr_lock = threading.Lock()


class ScannCells:
    """Compressed vectors in about sqrt(N) cells."""

    def __init__(
        self, searcher: scann.scann_ops_pybind.ScannSearcher, num_rows: int, num_cells: int
    ):
        self._searcher = searcher
        self.num_rows = num_rows
        self.num_cells = num_cells

    @classmethod
    def build(cls, vectors: Vectors) -> "ScannCells":
        """Trains on the vectors and compresses them all, for which they are all in memory.

        Raises:
          ValueError: too few rows, or rows that are not finite (ScaNN would crash or answer
            nonsense).
        """
        vectors = np.asarray(vectors)
        if len(vectors) < 16:
            raise ValueError(
                f"ScaNN is trained on its rows: {len(vectors)} are too few, search exactly instead"
            )
        if not np.isfinite(vectors).all():
            raise ValueError("the vectors contain NaN or infinite values")
        num_cells = round(math.sqrt(len(vectors)))
        builder = scann.scann_ops_pybind.builder(
            np.ascontiguousarray(vectors, np.float32), 10, "dot_product"
        )
        builder = builder.tree(
            num_leaves=num_cells,
            num_leaves_to_search=max(1, num_cells // 10),
            training_sample_size=min(len(vectors), _TRAINING_ROWS),
        ).score_ah(
            SIGNS_PER_BLOCK if holds_signs(vectors) else _DIMENSIONS_PER_BLOCK,
            anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD,
        )
        with _quiet_stderr():
            return cls(builder.build(), len(vectors), num_cells)

    @classmethod
    def load(cls, folder: pathlib.Path, *, num_rows: int, num_cells: int, dim: int) -> "ScannCells":
        """Reads what `save` wrote.

        Raises:
          ValueError: it is not what `save` writes for so many rows: ScaNN reads what its assets
            name, wherever that is, and believes every array.
        """
        _check_assets(folder, num_rows, num_cells, dim)
        with _quiet_stderr():
            searcher = scann.scann_ops_pybind.load_searcher(
                str(folder), assets_backcompat_shim=False
            )
        return cls(searcher, num_rows, num_cells)

    def save(self, folder: pathlib.Path) -> None:
        """Writes it into an empty folder that may be moved."""
        self._searcher.serialize(str(folder), relative_path=True)

    def candidates(
        self, queries: Float32[np.ndarray, "Q E"], *, num: int, num_cells: int
    ) -> Int64[np.ndarray, "Q num"]:
        """Returns the best `num` rows (at most all) of the nearest `num_cells` cells, best first;
        -1 where there are fewer.
        """
        num = min(num, self.num_rows)
        num_cells = min(max(1, num_cells), self.num_cells)
        rows, scores = self._searcher.search_batched(
            queries, final_num_neighbors=num, leaves_to_search=num_cells
        )
        return np.where(np.isfinite(scores), np.asarray(rows, np.int64), -1)


def _check_assets(folder: pathlib.Path, num_rows: int, num_cells: int, dim: int) -> None:
    text = "".join(
        f'assets {{\n  asset_type: {kind}\n  asset_path: "{name}"\n}}\n'
        for kind, name in _ASSETS.items()
    )
    if (folder / "scann_assets.pbtxt").read_text() != text:
        raise ValueError(f"{folder / 'scann_assets.pbtxt'} names other files than ScaNN's own")
    for name in ("scann_config.pb", *_ASSETS.values()):
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is no file")
    cells = np.load(folder / _ASSETS["TOKENIZATION_NPY"], mmap_mode="r", allow_pickle=False)
    codes = np.load(folder / _ASSETS["AH_DATASET_NPY"], mmap_mode="r", allow_pickle=False)
    widths = {math.ceil(dim / block) for block in (_DIMENSIONS_PER_BLOCK, SIGNS_PER_BLOCK)}
    if cells.shape != (num_rows,) or cells.dtype != np.int32:
        raise ValueError(f"{folder}: expected the cells of {num_rows} rows, found {cells.shape}")
    if codes.ndim != 2 or len(codes) != num_rows or codes.dtype != np.uint8:
        raise ValueError(f"{folder}: expected the codes of {num_rows} rows, found {codes.shape}")
    if codes.shape[1] not in widths:
        raise ValueError(f"{folder}: {codes.shape[1]} codes a row do not make {dim} values")
    is_small = not num_rows or (cells.min() >= 0 and cells.max() < num_cells)
    if not is_small or any(block.max() >= _CODES for block in _blocks(codes)):
        raise ValueError(f"{folder}: a row is in a cell, or has a code, that there is not")


def _blocks(codes: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(codes), _CHECKED_AT_ONCE):
        yield codes[first : first + _CHECKED_AT_ONCE]


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """ScaNN's training reports to file descriptor 2, whatever Python's streams are."""
    with _stderr_lock:  # two that swap it at once would leave it closed
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
