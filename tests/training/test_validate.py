"""Validation where the answer is known: everything found, nothing found, found beside its place."""

from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest

from confp_jax.config import TrainConfig
from confp_jax.data.records import Clip
from confp_jax.metrics import HitRates
from confp_jax.training.mesh import make_mesh
from confp_jax.training.step import TrainState, build_state
from confp_jax.training.validate import validate

_RATE_HZ = 16_000


def _melody(track: int, length_s: float) -> np.ndarray:
    """A tone of its own every 0.2 s: no two windows sound alike, even to an untrained encoder."""
    rng = np.random.default_rng(track)
    time_s = np.arange(round(0.2 * _RATE_HZ)) / _RATE_HZ
    tones = [
        np.sin(2 * np.pi * hz * time_s) for hz in rng.uniform(100, 7000, round(length_s / 0.2))
    ]
    return (8000 * np.concatenate(tones)).astype("<i2")


@pytest.fixture(scope="module")
def state(tiny: Callable[..., TrainConfig]) -> TrainState:
    """Untrained: equal input gives equal fingerprints, and that is all that is needed."""
    config = tiny()
    with jax.set_mesh(make_mesh()):
        return build_state(config, optax.identity())


# 1 s segments, 5 queries: their starts are the 5 inner ones of 7 over 3.6 s, so on the index's grid
# of 0.6 s.
_LENGTH_S = 4.6
_GRID_S = 0.6


def _validate(
    tiny, state, make_dataset, clips: list[Clip], *, num_replicas: int = 1, **validation: object
) -> HitRates | None:
    folder = make_dataset({"validation": clips}, num_replicas=num_replicas)
    config = tiny(data={"dir": str(folder)}, validation={"index_hop_s": _GRID_S, **validation})
    with jax.set_mesh(make_mesh()):
        return validate(state, config)


def test_clean_replicas_are_all_found(tiny, state, make_dataset) -> None:
    clips = [Clip(i, r, 1.0, 0.0, _melody(i, _LENGTH_S)) for i in range(3) for r in (0, 1)]
    assert _validate(tiny, state, make_dataset, clips) == HitRates(1.0, 1.0, 1.0, 15)


def test_the_wrong_track_is_never_a_hit(tiny, state, make_dataset) -> None:
    """The replica of each track is the next track's audio: found at the right time, in the wrong
    track.
    """
    clips = [
        Clip(i, r, 1.0, 0.0, _melody((i + r) % 3, _LENGTH_S)) for i in range(3) for r in (0, 1)
    ]
    assert _validate(tiny, state, make_dataset, clips) == HitRates(0.0, 0.0, 0.0, 15)


@pytest.mark.parametrize("late_s", [_GRID_S, -_GRID_S])
def test_a_late_replica_is_found_beside_its_place(tiny, state, make_dataset, late_s: float) -> None:
    """By a whole hop of the index: the right track, and neither exact (150 ms) nor near (500
    ms).
    """
    clips = []
    for i in range(3):
        melody = _melody(i, _LENGTH_S)
        clips += [
            Clip(i, 0, 1.0, 0.0, melody),
            Clip(i, 1, 1.0, 0.0, np.roll(melody, round(late_s * _RATE_HZ))),
        ]
    assert _validate(tiny, state, make_dataset, clips) == HitRates(0.0, 0.0, 1.0, 15)


def test_a_stretched_replica_is_cut_in_its_own_time(tiny, state, make_dataset) -> None:
    """Three long tones, in the replica twice as long: the query is the middle of the middle one in
    either.
    """
    clips = []
    for i in range(3):
        clips += [
            Clip(i, 0, 1.0, 0.0, _long_tones(i, 2.0)),
            Clip(i, 1, 0.5, 0.0, _long_tones(i, 4.0)),
        ]
    rates = _validate(tiny, state, make_dataset, clips, queries_per_track=1)
    assert (rates.near, rates.track, rates.num_queries) == (
        1.0,
        1.0,
        3,
    )  # a steady tone tells its place to half a second


def _long_tones(track: int, tone_s: float) -> np.ndarray:
    hz = np.random.default_rng(track).uniform(100, 7000, 3)
    return (
        8000
        * np.concatenate(
            [np.sin(2 * np.pi * f * np.arange(round(tone_s * _RATE_HZ)) / _RATE_HZ) for f in hz]
        )
    ).astype("<i2")


def test_more_queries_than_replicas(tiny, state, make_dataset) -> None:
    clips = [Clip(i, r, 1.0, 0.0, _melody(i, _LENGTH_S)) for i in range(2) for r in (0, 1, 2)]
    assert _validate(tiny, state, make_dataset, clips, num_replicas=2) == HitRates(
        1.0, 1.0, 1.0, 10
    )


def test_no_such_split(tiny, state, make_dataset) -> None:
    folder = make_dataset(
        {
            "training": [Clip(0, r, 1.0, 0.0, _melody(0, _LENGTH_S)) for r in (0, 1)],
            "validation": [],
        }
    )
    assert validate(state, tiny(data={"dir": str(folder)})) is None
    assert validate(state, tiny(data={"dir": str(folder)}, validation={"split": "no such"})) is None
