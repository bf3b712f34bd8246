import pytest
from sample_tracks import STAMP, track
from search_fixtures import *  # noqa: F403 (every room of search has the same fixtures)

from confp_jax.database import Database


@pytest.fixture
def four(tmp_path) -> Database:
    """Four tracks in one shard."""
    database = Database.create(tmp_path / "four", STAMP)
    with database.writing():
        database.add([track(number, 32) for number in range(4)])
    return database
