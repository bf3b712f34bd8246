"""Query sets: the truth in their records, and what is refused."""

import json

import numpy as np
import pytest
from small_benchmarks import make_set

from confp_jax.data.clips import ClipSource
from confp_jax.data.records import DatasetError
from confp_jax.evaluation.measure.query_sets import dataset_id, find_query_sets
from data_prep.make_queries import CONDITIONS


def test_query_records_tell_the_truth(queries, music_dir):
    """A clean excerpt is the decoded file's samples at its start; a shifted start lies 120 ms off
    the grid.
    """
    from confp_jax.audio.decode import decode
    from data_prep.folder import read_tracks

    paths = {track.track_id: track.path for track in read_tracks(music_dir)}
    for clip in ClipSource(queries, "clean"):
        whole = decode(paths[clip.track_id], sample_rate_hz=16_000).samples
        begin = round(clip.start_s * 16_000)
        np.testing.assert_allclose(
            clip.samples / 32767, whole[begin : begin + 48_000], atol=2 / 32768
        )
    for clip in ClipSource(queries, "shift_40"):
        off_grid = clip.start_s / 0.3 - round(clip.start_s / 0.3)
        assert abs(abs(off_grid) - 0.4) < 1e-3
    starts = np.array([clip.start_s for clip in ClipSource(queries, "shift_40")]) / 0.3
    assert len(set(np.sign(starts - np.round(starts)))) == 2  # early and late
    for clip in ClipSource(queries, "stretch_85"):
        assert clip.tempo == pytest.approx(0.85)
        assert len(clip.samples) == 48_000
    for clip in ClipSource(queries, "background_5db"):
        (draw,) = json.loads(clip.draws)
        assert draw["transform"] == "AddBackgroundNoise" and draw["snr_db"] == pytest.approx(5)
        assert draw["noise_file_path"].startswith("test/")  # never the training part


def test_every_condition_has_a_distinct_name_and_does_something():
    distortions = [condition for name, condition in CONDITIONS.items() if name != "clean"]
    assert len({repr(c) for c in distortions}) == len(distortions)
    assert CONDITIONS["clean"] not in distortions


def test_two_sets_of_one_name_are_refused(music_dir, tmp_path):
    """Their queries would have the same ids."""
    for place in "ab":
        make_set(music_dir, tmp_path / place / "set", conditions=("clean",), excerpts_per_track=1)
    with pytest.raises(DatasetError, match="two query sets have one name"):
        find_query_sets(f"{tmp_path / 'a' / 'set'},{tmp_path / 'b' / 'set'}")


def test_a_set_without_its_table_of_truth_is_refused(music_dir, tmp_path):
    folder = make_set(music_dir, tmp_path / "set", conditions=("clean",), excerpts_per_track=1)
    (folder / "clips-clean.npy").unlink()
    with pytest.raises(DatasetError, match="has no split 'clean'"):
        dataset_id(folder, ("clean",))
