"""An index that is built without the writer's lock: valid whatever is written meanwhile, and no
stray while it is built.
"""

import os

import numpy as np
import pytest
from sample_tracks import track

from confp_jax import index as indexes
from confp_jax.database import Database, OtherModelError
from confp_jax.index import ApproximateIndex
from confp_jax.index.background_build import built_in_background, is_due
from confp_jax.index.on_disk import open_index, rebuild


@pytest.fixture
def large(filled, monkeypatch) -> Database:
    monkeypatch.setattr(indexes, "BRUTE_FORCE_ROWS", 100)
    with filled.writing():
        filled.add([track(number, num_rows=40) for number in range(10, 20)])
    return filled


def found(database: Database) -> list[int]:
    """Of each row of the database, the nearest row."""
    snapshot = database.snapshot()
    index = open_index(database, snapshot, build=False)
    assert isinstance(index, ApproximateIndex)
    return index.search(np.asarray(snapshot.vectors[:], np.float32), k=1).rows[:, 0].tolist()


def test_what_is_written_meanwhile_is_found(large):
    assert is_due(large)
    with built_in_background(large) as commit:
        with large.writing():  # which removes strays, too
            large.add([track(30, num_rows=12)])
            large.remove([large.find("Träck 11")[0].id])
        with large.writing():
            commit()
    assert not is_due(large)
    assert found(large) == list(range(len(large.snapshot().vectors)))
    assert os.listdir(large.folder / "index") == [large.setting("generation")]


def test_what_another_process_has_built_stays(large):
    with built_in_background(large) as commit:
        with large.writing():
            large.add([track(30, num_rows=12)])
            rebuild(large)
        theirs = large.setting("generation")
        with large.writing():
            commit()
    assert os.listdir(large.folder / "index") == [large.setting("generation")] == [theirs]


def test_it_is_not_for_another_model(large):
    with built_in_background(large) as commit:
        large.set_setting("identity", "another")
        with large.writing(), pytest.raises(OtherModelError):
            commit()
    assert os.listdir(large.folder / "index") == []


def test_what_a_dead_process_left_is_a_stray(large):
    (large.folder / "index" / f"{0:032x}.part").mkdir(parents=True)
    with large.writing():
        pass
    assert os.listdir(large.folder / "index") == []
