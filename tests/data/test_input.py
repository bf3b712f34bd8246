"""The input pipeline: reproducible, resumable, split over processes, and anchor and replica in the
right place.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from absl import flags

from confp_jax.config import AudioConfig, DataConfig, MelConfig, TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.data.input import PairCutter, steps_per_epoch, train_batches
from confp_jax.data.records import Clip, DatasetError
from confp_jax.model.features import mel_power as device_mel_power

_RATE_HZ = 16_000
_SEGMENT = 48_000


def _config(folder, **data: object) -> TrainConfig:
    return TrainConfig(data=DataConfig(dir=str(folder), **data), mel=MelConfig(num_mels=40))


def _numbered_clips(num_tracks: int, *, num_replicas: int = 1) -> list[Clip]:
    """Audio that says what it is: every sample of track i, replica r is 100 i + r."""
    return [
        Clip(1000 + i, r, 1.0, 0.0, np.full(_RATE_HZ * 4, 100 * i + r, "<i2"))
        for i in range(num_tracks)
        for r in range(num_replicas + 1)
    ]


def _tracks(batch: dict[str, np.ndarray]) -> list[int]:
    return [int(value) // 100 for value in batch["anchor"][:, 0]]


def _noise_clips(num_tracks: int, *, length_s: float = 20.0) -> list[Clip]:
    """White noise, so that a window's place can be found again; the replica is the clean clip
    itself.
    """
    clips = []
    for i in range(num_tracks):
        samples = (
            np.random.default_rng(i)
            .integers(-20_000, 20_000, round(length_s * _RATE_HZ))
            .astype("<i2")
        )
        clips += [Clip(i, 0, 1.0, 0.0, samples), Clip(i, 1, 1.0, 0.0, samples)]
    return clips


def _start_of(window: np.ndarray, clip: np.ndarray) -> int:
    return clip.tobytes().index(window.tobytes()) // 2


def _assert_equal(
    found: list[dict[str, np.ndarray]], expected: list[dict[str, np.ndarray]]
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert sorted(one) == sorted(other) == ["anchor", "replica"]
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def _take(iterator, num: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(iterator, num))


@pytest.fixture(scope="module")
def numbered(make_dataset: Callable):
    return make_dataset({"training": _numbered_clips(6, num_replicas=2)}, num_replicas=2)


@pytest.fixture(scope="module")
def noise(make_dataset: Callable):
    return make_dataset({"training": _noise_clips(4)})


def test_same_seed_same_batches(prepared) -> None:
    config = _config(prepared, batch_size=3)
    first = _take(train_batches(config), 4)
    again = _take(train_batches(config), 4)
    _assert_equal(first, again)
    assert first[0]["anchor"].shape == (3, _SEGMENT)
    assert first[0]["anchor"].dtype == first[0]["replica"].dtype == np.int16
    other = _take(train_batches(dataclasses.replace(config, seed=1)), 4)
    assert not all(
        np.array_equal(a["anchor"], b["anchor"]) for a, b in zip(first, other, strict=True)
    )


def test_it_goes_on_at_any_batch(prepared) -> None:
    config = _config(prepared, batch_size=2, crops_per_track=2)
    whole = _take(train_batches(config), 8)
    for first in (1, 4, 7):  # in the first, second and third epoch
        _assert_equal(_take(train_batches(config, first_batch=first), 8 - first), whole[first:])


def test_a_worker_process_gives_the_same_batches_and_goes_on(prepared) -> None:
    flags.FLAGS(
        ["test"]
    )  # Grain's workers ask for absl's flags, and an absl application has parsed them
    config = _config(prepared, batch_size=4, crops_per_track=2)
    expected = _take(train_batches(config), 5)
    with_worker = dataclasses.replace(config, data=dataclasses.replace(config.data, num_workers=1))
    _assert_equal(_take(train_batches(with_worker), 3), expected[:3])
    _assert_equal(_take(train_batches(with_worker, first_batch=3), 2), expected[3:])


def test_processes_cut_the_same_pairs_as_one(prepared) -> None:
    """Whatever their number: a run may continue with another."""
    config = _config(prepared, batch_size=6)
    whole = _take(train_batches(config), 2)
    shares = [_take(train_batches(config, process=p, num_processes=2), 2) for p in range(2)]
    for step in range(2):
        for p in range(2):
            _assert_equal(
                [shares[p][step]], [{name: rows[p::2] for name, rows in whole[step].items()}]
            )


def test_every_epoch_holds_each_track_once(numbered) -> None:
    config = _config(numbered, batch_size=3)
    assert steps_per_epoch(config) == 2
    orders = []
    batches = train_batches(config)
    for _ in range(5):
        order = _tracks(next(batches)) + _tracks(next(batches))
        assert sorted(order) == list(range(6))
        orders.append(tuple(order))
    assert len(set(orders)) > 1, "each epoch has its own order"


def test_no_batch_holds_a_track_twice(make_dataset: Callable) -> None:
    """Also where the batch does not divide the number of tracks: the same track twice would be its
    own negative.
    """
    config = _config(make_dataset({"training": _numbered_clips(7)}), batch_size=4)
    for number, batch in enumerate(_take(train_batches(config), 30)):
        assert len(set(_tracks(batch))) == 4, f"batch {number} holds tracks {_tracks(batch)}"


def test_every_replica_is_drawn(numbered) -> None:
    batches = _take(train_batches(_config(numbered, batch_size=6)), 10)
    drawn = {int(value) % 100 for batch in batches for value in batch["replica"][:, 0]}
    assert drawn == {1, 2}
    for batch in batches:
        np.testing.assert_array_equal(
            batch["anchor"] // 100, batch["replica"] // 100
        )  # a pair is one track
        np.testing.assert_array_equal(batch["anchor"] % 100, 0)  # and its anchor the clean clip


def test_processes_share_the_stream(numbered) -> None:
    config = _config(numbered, batch_size=6)
    shares = [_take(train_batches(config, process=p, num_processes=3), 4) for p in range(3)]
    whole = _take(train_batches(config), 4)
    for step in range(4):
        parts = [_tracks(share[step]) for share in shares]
        assert [len(part) for part in parts] == [2, 2, 2]
        assert sorted(sum(parts, [])) == sorted(_tracks(whole[step])) == list(range(6))


def test_pairs_are_shifted_by_the_paper_s_beta(noise) -> None:
    """Clean replicas: the correlation peaks at the shift, and the shifts are Beta(8, 2) x 150 ms
    either way.
    """
    source = ClipSource(noise, "training")
    cutter = PairCutter(source, _config(noise, batch_size=4))
    shifts_s = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        pair = cutter.random_map(seed % 4, rng)
        clip = source[2 * (seed % 4)].samples
        anchor = pair["anchor"][0]
        replica = pair["replica"][0]
        shift = _start_of(replica, clip) - _start_of(anchor, clip)
        if seed < 10:
            correlation = scipy.signal.correlate(
                anchor.astype(float), replica.astype(float), method="fft"
            )
            lags = scipy.signal.correlation_lags(_SEGMENT, _SEGMENT)
            assert lags[np.argmax(correlation)] == shift
        shifts_s.append(shift / _RATE_HZ)
    size_s = np.abs(shifts_s)
    tolerance_s = 1 / _RATE_HZ
    assert size_s.max() <= 0.150 + tolerance_s
    assert scipy.stats.kstest(size_s / 0.150, scipy.stats.beta(8, 2).cdf).pvalue > 0.01
    assert 0.4 < np.mean(np.array(shifts_s) > 0) < 0.6


@pytest.mark.parametrize("tempo", [0.8, 1.25])
def test_centres_of_stretched_pairs_line_up(make_dataset: Callable, tempo: float) -> None:
    """Clicks at irregular moments t, in the replica at t / tempo: every click tells the pair's
    shift, and all agree.
    """
    moments_s = np.cumsum(np.random.default_rng(0).uniform(0.15, 0.5, 60))

    def clicks(at_s: np.ndarray) -> np.ndarray:
        samples = np.zeros(round((at_s[-1] + 1) * _RATE_HZ), "<i2")
        samples[np.round(at_s * _RATE_HZ).astype(int)] = np.arange(
            1, len(at_s) + 1
        )  # click k has height k
        return samples

    folder = make_dataset(
        {
            "training": [
                Clip(0, 0, 1.0, 0.0, clicks(moments_s)),
                Clip(0, 1, tempo, 0.0, clicks(moments_s / tempo)),
            ]
        }
    )
    cutter = PairCutter(ClipSource(folder, "training"), _config(folder, batch_size=1))
    for seed in range(50):
        pair = cutter.random_map(0, np.random.default_rng(seed))
        anchor, replica = (
            {int(w[i]): i / _RATE_HZ - 1.5 for i in np.flatnonzero(w)}
            for w in (pair["anchor"][0], pair["replica"][0])
        )
        both = sorted(anchor.keys() & replica.keys())
        assert len(both) >= 3
        shifts_s = np.array([anchor[click] - tempo * replica[click] for click in both])
        assert np.ptp(shifts_s) < 0.0003  # a few samples of rounding
        assert 0.01 < np.abs(shifts_s).max() < 0.150 + 0.0003


def test_neighbours_of_one_track(noise) -> None:
    config = _config(noise, batch_size=8, crops_per_track=2)
    source = ClipSource(noise, "training")
    clips = [source[2 * i].samples for i in range(4)]
    distances_s = []
    for batch in _take(train_batches(config), 20):
        assert batch["anchor"].shape == (8, _SEGMENT)
        tracks = [
            next(i for i in range(4) if row.tobytes() in clips[i].tobytes())
            for row in batch["anchor"]
        ]
        assert tracks[::2] == tracks[1::2], "the crops of a track stand together"
        starts = [
            _start_of(row, clips[track]) for row, track in zip(batch["anchor"], tracks, strict=True)
        ]
        distances_s += [
            abs(a - b) / _RATE_HZ for a, b in zip(starts[::2], starts[1::2], strict=True)
        ]
        for row, start, track in zip(batch["replica"], starts, tracks, strict=True):
            assert abs(_start_of(row, clips[track]) - start) <= 0.150 * _RATE_HZ + 1
    assert min(distances_s) >= 0.3 - 1 / _RATE_HZ
    assert max(distances_s) <= 3.75 + 1 / _RATE_HZ
    assert scipy.stats.kstest(distances_s, scipy.stats.uniform(0.3, 3.45).cdf).pvalue > 0.01


def test_host_and_device_make_the_same_mel(prepared) -> None:
    device = _config(prepared, batch_size=4)
    host = dataclasses.replace(device, data=dataclasses.replace(device.data, mel_on="host"))
    for pcm, power in zip(
        _take(train_batches(device), 2), _take(train_batches(host), 2), strict=True
    ):
        for name in ("anchor", "replica"):
            expected = device_mel_power(
                pcm[name].astype(np.float32) / 32768, device.mel, sample_rate_hz=_RATE_HZ
            )
            assert power[name].shape == (4, 368, 40)
            assert power[name].dtype == np.float32
            # Relative to the example's mean power: below it float32's rounding of the spectrum
            # shows.
            np.testing.assert_allclose(
                power[name], expected, rtol=2e-5, atol=1e-6 * float(np.mean(expected))
            )


def test_wrong_rate(make_dataset: Callable) -> None:
    folder = make_dataset({"training": _numbered_clips(2)}, sample_rate_hz=8000)
    with pytest.raises(
        DatasetError, match=r"8000 Hz, the model wants 16000.*config\.sample_rate_hz"
    ):
        train_batches(_config(folder, batch_size=2))


def test_no_replicas(make_dataset: Callable) -> None:
    folder = make_dataset({"training": _numbered_clips(3, num_replicas=0)}, num_replicas=0)
    with pytest.raises(DatasetError, match=r"holds no replicas.*config\.num_replicas"):
        train_batches(_config(folder, batch_size=2))


def test_too_few_tracks(numbered) -> None:
    with pytest.raises(
        DatasetError,
        match=r"has 6 training tracks, a batch needs 8 different ones; use "
        r"--config.data.batch_size=12 or less",
    ):
        train_batches(_config(numbered, batch_size=16, crops_per_track=2))


def test_batches_that_do_not_divide_over_the_processes(numbered) -> None:
    with pytest.raises(
        DatasetError,
        match="4 tracks a batch do not divide over 3 processes; set .* a multiple of 3",
    ):
        train_batches(_config(numbered, batch_size=4), num_processes=3)


def test_no_such_dataset(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no prepared dataset here"):
        train_batches(_config(tmp_path))


def test_records_in_another_order_are_refused(make_dataset: Callable) -> None:
    clips = _numbered_clips(3)
    source = ClipSource(make_dataset({"training": clips[1:]}), "training")
    cutter = PairCutter(source, _config(source.folder, batch_size=1))
    with pytest.raises(DatasetError, match="record 0 is not the clean clip of its replica"):
        cutter.random_map(0, np.random.default_rng(0))


def test_a_clip_too_short_for_a_pair_is_a_dataset_error(make_dataset: Callable) -> None:
    """`--config.audio.segment_s` above what was prepared is the user's to cause."""
    folder = make_dataset({"training": _numbered_clips(2)})  # 4 s each
    config = dataclasses.replace(_config(folder, batch_size=2), audio=AudioConfig(segment_s=5.0))
    with pytest.raises(DatasetError, match="5.0 s"):
        next(train_batches(config))
