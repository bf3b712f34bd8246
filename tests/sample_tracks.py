"""Tracks made of random rows, and what a database of three of them must hold."""

import numpy as np
import unit_vectors

from confp_jax.database import Database, ModelId, NewTrack

STAMP = ModelId("tiny", "0123456789abcdef", 0.3)


def unit_rows(seed: int, num: int, dim: int = 32) -> np.ndarray:
    return unit_vectors.unit_rows(np.random.default_rng(seed), num, dim)


def track(number: int, num_rows: int = 5, **changes) -> NewTrack:
    fields = {
        "name": f"Träck {number}",
        "path": f"/müsic/{number} 'x'.wav",
        "sha256": str(number),
        "duration_s": 30.5 + number,
    }
    return NewTrack(**(fields | {"vectors": unit_rows(number, num_rows)} | changes))


def check_filled(database: Database) -> None:
    snapshot = database.snapshot()
    assert [t.name for t in snapshot.tracks] == ["Träck 0", "Träck 1", "Träck 2"]
    assert snapshot.row_tracks.tolist() == [0] * 3 + [1] * 4 + [2] * 6
    np.testing.assert_allclose(
        snapshot.vectors,
        np.concatenate([unit_rows(0, 3), unit_rows(1, 4), unit_rows(2, 6)]),
        atol=2**-12,
    )
