"""Any order of adding, removing, compacting, moving and opening again: a database holds what a list
of tracks holds.
"""

import pathlib
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sample_tracks import STAMP, track

from confp_jax.database import Database, DatabaseError, NewTrack
from confp_jax.database.compact import compact_shards
from confp_jax.database.verify import verify


class Sequences(RuleBasedStateMachine):
    """Any sequence of changes leaves what a dictionary would hold."""

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.place.name) / "db"
        self.precision = "float16"
        self.database = Database.create(self.folder, STAMP)
        self.expected: dict[str, tuple[NewTrack, int]] = {}

    @rule(
        numbers=st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True),
        num_rows=st.integers(1, 9),
    )
    def add(self, numbers, num_rows):
        new = [track(number, num_rows) for number in numbers]
        with self.database.writing():
            if any(t.sha256 in self.expected for t in new):
                with pytest.raises(DatabaseError):
                    self.database.add(new)
                return
            self.database.add(new)
        ids = {t.sha256: t.id for t in self.database.tracks()}
        self.expected.update({t.sha256: (t, ids[t.sha256]) for t in new})

    @rule(data=st.data())
    def remove(self, data):
        chosen = (
            data.draw(st.sets(st.sampled_from(sorted(self.expected)))) if self.expected else set()
        )
        with self.database.writing():
            self.database.remove([self.expected.pop(sha256)[1] for sha256 in chosen])

    @rule()
    def compact(self):
        with self.database.writing():
            compact_shards(self.database)
        assert len(list((self.folder / "vectors").iterdir())) <= 1

    @rule(move=st.booleans())
    def reopen(self, move):
        if move:
            self.folder = self.folder.rename(self.folder.with_name(self.folder.name + "x"))
        self.database = Database(self.folder)

    @invariant()
    def it_holds_what_it_should(self):
        snapshot = self.database.snapshot()
        assert {t.sha256: t.id for t in snapshot.tracks} == {
            s: number for s, (_, number) in self.expected.items()
        }
        for stored in snapshot.tracks:
            rows = snapshot.vectors[stored.first_row : stored.first_row + stored.num_rows]
            vectors = self.expected[stored.sha256][0].vectors
            np.testing.assert_array_equal(rows, vectors.astype(np.float16).astype(np.float32))
        assert verify(self.database) == []

    def teardown(self):
        self.place.cleanup()


class TestSequences(Sequences.TestCase):
    settings = hypothesis.settings(max_examples=15, stateful_step_count=15, deadline=None)
