"""References made of rows, and queries of some of them."""

import numpy as np

from confp_jax.fingerprint.query import Query
from confp_jax.matching.ranking import Ranking, rank
from confp_jax.matching.searchable import Reference, make_reference

HOP_S = 0.3
SEGMENT_S = 3.0


def reference_of(parts: list[np.ndarray]) -> Reference:
    named = [(f"t{i}", part) for i, part in enumerate(parts)]
    return make_reference(named, hop_s=HOP_S, segment_s=SEGMENT_S, exact=True)


def query_of(vectors: np.ndarray, hop_s: float = HOP_S, segment_s: float = SEGMENT_S) -> Query:
    return Query(vectors.astype(np.float32), hop_s, segment_s)


def ranked(query: np.ndarray, parts: list[np.ndarray]) -> Ranking:
    return rank(query_of(query), reference_of(parts))
