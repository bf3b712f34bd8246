"""Tracks made of random rows, and what a database of three of them must hold."""

import numpy as np
from unit_vectors import unit_rows

from confp_jax.database import Database, ModelId, NewTrack

STAMP = ModelId("tiny", "0123456789abcdef", 0.3)
DIM = 32


def track(number: int, num_rows: int = 5, **changes) -> NewTrack:
    fields = {
        "name": f"Träck {number}",
        "path": f"/müsic/{number} 'x'.wav",
        "sha256": str(number),
        "duration_s": 30.5 + number,
    }
    return NewTrack(**(fields | {"vectors": unit_rows(number, num_rows, DIM)} | changes))


def check_filled(database: Database) -> None:
    snapshot = database.snapshot()
    assert [t.name for t in snapshot.tracks] == ["Träck 0", "Träck 1", "Träck 2"]
    assert snapshot.row_tracks.tolist() == [0] * 3 + [1] * 4 + [2] * 6
    np.testing.assert_allclose(
        snapshot.vectors,
        np.concatenate([unit_rows(0, 3, DIM), unit_rows(1, 4, DIM), unit_rows(2, 6, DIM)]),
        atol=2**-12,
    )
