"""Tracks of an album side by side, or even shares of the shards: still permutations, and the same
on any number of processes.
"""

import collections
import itertools
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confp_jax.config import DataConfig, TrainConfig
from confp_jax.data.input import steps_per_epoch, train_batches
from confp_jax.data.records import Clip, DatasetError
from confp_jax.data.sampling import album_order

_RATE_HZ = 16_000


def _clips(num_tracks: int) -> list[Clip]:
    """Every sample of track i, replica r is 100 i + r."""
    return [
        Clip(i, r, 1.0, 0.0, np.full(4 * _RATE_HZ, 100 * i + r, "<i2"))
        for i in range(num_tracks)
        for r in range(2)
    ]


@pytest.fixture(scope="module")
def albums(make_dataset: Callable):
    """Tracks 0 to 7 of two albums, 8 to 11 of none."""
    return make_dataset({"training": _clips(12)}, albums={str(i): "ab"[i % 2] for i in range(8)})


def _config(folder, **data) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(dir=str(folder), **({"batch_size": 4, "tracks_per_album": 2} | data))
    )


def _tracks(config: TrainConfig, num_batches: int, **kwargs) -> list[list[int]]:
    batches = itertools.islice(train_batches(config, **kwargs), num_batches)
    return [[int(value) // 100 for value in batch["anchor"][:, 0]] for batch in batches]


@given(
    st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_a_permutation_with_runs_of_an_album(albums: Sequence[str], together: int, seed: int):
    order = album_order(albums, together=together, rng=np.random.default_rng(seed))
    assert sorted(order) == list(range(len(albums)))
    runs = [
        (album, len(list(run)))
        for album, run in itertools.groupby(order, key=lambda place: albums[place])
    ]
    for album, num in collections.Counter(filter(None, albums)).items():
        lengths = [length for name, length in runs if name == album]
        # Whole groups and at most one of what is left; groups of one album may come to stand side
        # by side.
        assert len(lengths) <= -(-num // together)
        assert sum(length % together != 0 for length in lengths) <= 1


def test_every_epoch_holds_each_track_once_with_its_neighbour(albums):
    epochs = np.array(_tracks(_config(albums), 30)).reshape(10, 12)
    assert (np.sort(epochs, axis=1) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 10
    together = [
        sum(a % 2 == b % 2 and max(a, b) < 8 for a, b in itertools.pairwise(epoch))
        for epoch in epochs
    ]
    assert min(together) >= 4  # each of the four pairs at least


def test_any_number_of_processes_from_any_batch_on(albums):
    config = _config(albums)
    whole = _tracks(config, 7)
    assert _tracks(config, 3, first_batch=4) == whole[4:]
    shares = [_tracks(config, 7, process=p, num_processes=2) for p in range(2)]
    assert [[*share[0], *share[1]] for share in zip(*shares, strict=True)] == [
        [*batch[::2], *batch[1::2]] for batch in whole
    ]


def test_without_albums_it_says_what_is_missing(make_dataset: Callable):
    with pytest.raises(
        DatasetError,
        match=r"does not know its tracks' albums.*tracks_per_album=2.*folder for every album",
    ):
        train_batches(_config(make_dataset({"training": _clips(4)})))


@pytest.fixture(scope="module")
def shards(make_dataset: Callable):
    """Tracks 0 to 12 in shards of one track each."""
    return make_dataset({"training": _clips(13)}, num_shards=13)


def _in_shares(folder, **data) -> TrainConfig:
    return _config(folder, **({"batch_size": 8, "tracks_per_album": 1, "num_shares": 4} | data))


def test_every_batch_has_as_much_of_every_share(shards):
    """Shares of 4, 3, 3 and 3 tracks: an epoch is one batch of two of each, and then the next
    begins.
    """
    assert steps_per_epoch(_in_shares(shards)) == 1
    batches = _tracks(_in_shares(shards), 60)
    for batch in batches:
        assert [track % 4 for track in batch] == [0, 1, 2, 3] * 2
        assert len(set(batch)) == 8
    assert {track for batch in batches for track in batch} == set(range(13))
    assert steps_per_epoch(_in_shares(shards, batch_size=4)) == 3
    epochs = np.array(_tracks(_in_shares(shards, batch_size=4), 30)).reshape(10, 12)
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_a_process_reads_its_shards_alone(shards, tmp_path, num_processes: int):
    """And all of them together the batches of one process, from any batch on."""
    whole = _tracks(_in_shares(shards), 7)
    for process in range(num_processes):
        here = tmp_path / str(process)
        shutil.copytree(shards, here)
        for number, path in enumerate(sorted(here.glob("*.array_record-*"))):
            if number % num_processes != process:
                path.unlink()
        config = _in_shares(here)
        place = {"process": process, "num_processes": num_processes}
        assert steps_per_epoch(config, **place) == 1
        assert _tracks(config, 3, first_batch=4, **place) == [
            batch[process::num_processes] for batch in whole[4:]
        ]
        if num_processes > 1:
            with pytest.raises(
                DatasetError, match=rf"is missing.*every {num_processes}th shard from number \d on"
            ):
                train_batches(config, process=process + 1, num_processes=num_processes)


def test_shares_that_cannot_be(shards, make_dataset: Callable):
    few = make_dataset({"training": _clips(8)}, num_shards=2)
    with pytest.raises(
        DatasetError,
        match=r"data.num_shares=4 groups of shards has 0 tracks.*tracks_per_shard",
    ):
        train_batches(_in_shares(few))
    with pytest.raises(DatasetError, match="has 3 tracks, and a batch takes 4 of each"):
        steps_per_epoch(_in_shares(shards, batch_size=16))
