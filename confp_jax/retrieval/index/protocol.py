"""What every index can do."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Int64


class Hits(NamedTuple):
    """The nearest rows of each query, best first. A place that was not filled has row -1 and score -inf."""

    rows: Int64[np.ndarray, "Q K"]
    scores: Float32[np.ndarray, "Q K"]  # inner products: cosines, as all vectors are unit


class Index(Protocol):
    """Nearest neighbours by inner product."""

    def search(self, queries: Float32[np.ndarray, "Q E"], *, k: int) -> Hits:
        """The `k` (or all, if fewer) rows of greatest inner product."""
        ...
