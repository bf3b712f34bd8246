"""Another model's vectors beside those in use: gathered commit by commit, put in their place by
one.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.database.catalogue import insert_shard, put_setting, setting
from confp_jax.database.digests import changing
from confp_jax.database.records import DatabaseError, ModelId, StoredTrack
from confp_jax.database.store import Database
from confp_jax.database.vectors import encode


def begin_staging(database: Database, model_id: ModelId) -> list[StoredTrack]:
    """Returns the tracks that have no vectors of this model yet; what was staged for another model
    is given up. Only inside `writing`.
    """
    with database.connect() as connection:
        if setting(connection, "staged_identity") != model_id.weights_hash:
            connection.execute("DELETE FROM shards WHERE id IN (SELECT shard FROM staged)")
            connection.execute("DELETE FROM staged")
            put_setting(connection, "staged_identity", model_id.weights_hash)
        staged = {track for (track,) in connection.execute("SELECT track FROM staged")}
    database.remove_strays()
    return [track for track in database.tracks() if track.id not in staged]


def stage(
    database: Database,
    parts: Sequence[tuple[int, Float32[np.ndarray, "n E"]]],
    *,
    precision: str | None = None,
) -> None:
    """Keeps these tracks' new vectors, (track id, vectors), in one commit; only inside `writing`.

    They are stored in `precision`, or in the database's, and `swap` wants the same.
    """
    if not parts:
        return
    stored = encode(
        np.concatenate([vectors for _, vectors in parts]), precision or database.precision
    )
    number, shard = database.write_shard(stored)
    firsts = np.cumsum([0] + [len(vectors) for _, vectors in parts])
    rows = [
        (track, number, int(first), len(vectors))
        for (track, vectors), first in zip(parts, firsts, strict=False)
    ]
    with database.connect() as connection:
        insert_shard(connection, number, shard)
        connection.executemany("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?)", rows)


def replace_rows(
    database: Database, parts: Sequence[tuple[int, Float32[np.ndarray, "n E"]]]
) -> None:
    """Gives tracks other rows of the same model, (track id, vectors), in one commit; only inside
    `writing`. The old rows go when the database is compacted.
    """
    if not parts:
        return
    stored = encode(np.concatenate([vectors for _, vectors in parts]), database.precision)
    number, shard = database.write_shard(stored)
    firsts = np.cumsum([0] + [len(vectors) for _, vectors in parts])
    ids = [track for track, _ in parts]
    with database.connect() as connection, changing(connection, ids):
        insert_shard(connection, number, shard)
        connection.executemany(
            "UPDATE tracks SET shard = ?, first_row = ?, num_rows = ? WHERE id = ?",
            [
                (number, int(first), len(vectors), track)
                for (track, vectors), first in zip(parts, firsts, strict=False)
            ],
        )


def swap(
    database: Database,
    model_id: ModelId,
    *,
    precision: str | None = None,
    drop_missing: bool = False,
) -> int:
    """Puts the staged vectors in place of the old ones, in one commit; only inside `writing`.
    Returns how many were dropped.

    Raises:
      DatabaseError: there are tracks without new vectors, and they are not to be dropped.
    """
    with database.connect() as connection, changing(connection):
        lacking = "removed_at IS NULL AND id NOT IN (SELECT track FROM staged)"
        count = f"SELECT COUNT(*) FROM tracks WHERE {lacking}"  # noqa: S608
        num_lacking = connection.execute(count).fetchone()[0]
        if num_lacking and not drop_missing:
            raise DatabaseError(
                f"{database.folder}: {num_lacking} tracks have no fingerprints of "
                f"{model_id.name} yet"
            )
        connection.execute(
            "DELETE FROM tracks WHERE removed_at IS NOT NULL OR id NOT IN (SELECT track FROM "
            "staged)"
        )
        connection.execute(
            "UPDATE tracks SET (shard, first_row, num_rows) = (SELECT shard, first_row, num_rows "
            "FROM staged WHERE track = id)"
        )
        connection.execute("DELETE FROM shards WHERE id NOT IN (SELECT shard FROM tracks)")
        connection.execute("DELETE FROM staged")
        values = {
            "model": model_id.name,
            "identity": model_id.weights_hash,
            "hop_s": str(model_id.hop_s),
            "staged_identity": "",
        }
        values["precision"] = precision or setting(connection, "precision") or "float16"
        for key, value in (values | {"generation": ""}).items():
            put_setting(connection, key, value)
    database.remove_strays()
    return num_lacking
