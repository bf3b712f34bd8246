"""What a catalogue says of its model and of how vectors are stored; anything may stand there."""

import pathlib

from confp_jax.database.records import DatabaseError, ModelId
from confp_jax.database.vectors import PRECISIONS

SHORTEST_HOP_S = 0.01
LONGEST_HOP_S = 60.0


def checked_model(catalogue: pathlib.Path, name: str, weights_hash: str, hop: str) -> ModelId:
    """Returns the model of these settings.

    Raises:
      DatabaseError: the hop is not a number of seconds from 0.01 to 60.
    """
    try:
        hop_s = float(hop)
    except ValueError:
        hop_s = 0.0
    if not SHORTEST_HOP_S <= hop_s <= LONGEST_HOP_S:
        raise DatabaseError(
            f"{catalogue}: hop_s is {hop[:40]!r}, which is no distance of fingerprints in "
            "seconds; restore it from a copy"
        )
    return ModelId(name, weights_hash, hop_s)


def checked_precision(catalogue: pathlib.Path, found: str) -> str:
    """Returns the precision that a setting names.

    Raises:
      DatabaseError: it is not one of PRECISIONS.
    """
    if found not in PRECISIONS:
        raise DatabaseError(
            f"{catalogue}: precision is {found[:40]!r}, expected one of "
            f"{', '.join(PRECISIONS)}; restore it from a copy"
        )
    return found
