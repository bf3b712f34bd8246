"""The picture of a track: all its clips are in it, and what is asked wrongly is answered."""

import pathlib

import numpy as np
import pytest

from confp_jax.data.clips import ClipSource
from confp_jax.data.records import DatasetError

matplotlib = pytest.importorskip("matplotlib")


def test_a_track_and_its_replicas_are_drawn(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from data_prep import inspect

    clips, source = inspect.find_track(prepared, None)
    assert source.split == "training"
    assert [clip.replica for clip in clips] == [0, 1, 2]
    row = ClipSource(prepared, "test").row(0)
    clips, source = inspect.find_track(prepared, row.track_id)
    assert (source.split, {clip.track_id for clip in clips}) == ("test", {row.track_id})
    inspect.main(
        [
            str(prepared),
            "--track",
            str(row.track_id),
            "--seconds",
            "4",
            "--out",
            str(tmp_path / "a.png"),
        ]
    )
    picture = matplotlib.image.imread(tmp_path / "a.png")
    thirds = np.array_split(picture[:, : picture.shape[1] // 2, :3], 3)
    assert all(third.std() > 0.1 for third in thirds), "a spectrogram in each third"


def test_no_such_track(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from data_prep import inspect

    with pytest.raises(DatasetError, match="has no track 5 in training, validation, test"):
        inspect.find_track(prepared, 5)
    with pytest.raises(SystemExit, match="error: .*no prepared dataset here"):
        inspect.main([str(tmp_path)])
