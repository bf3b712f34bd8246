"""One preparation of FMA-large trains the models of smaller subsets."""

import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from confp_jax.data.records import DatasetError
from confp_jax.data.sampling import tracks_to_train


def _source(folder: pathlib.Path, subsets: dict[str, str]) -> Any:
    return SimpleNamespace(
        folder=folder,
        split="training",
        num_tracks=4,
        summary=SimpleNamespace(subsets=subsets),
        track_ids=lambda: np.array([2, 5, 10, 140]),
    )


def test_subsets_are_nested(tmp_path: pathlib.Path) -> None:
    source = _source(tmp_path, {"2": "medium", "5": "small", "10": "large", "140": "medium"})
    assert list(tracks_to_train(source, "small")) == [1]
    assert list(tracks_to_train(source, "medium")) == [0, 1, 3]
    for everything in ("large", "full", ""):
        assert list(tracks_to_train(source, everything)) == [0, 1, 2, 3]


def test_a_subset_that_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DatasetError, match="does not know its tracks' subsets.*data.subset= to"):
        tracks_to_train(_source(tmp_path, {}), "small")
    with pytest.raises(DatasetError, match="no training track of FMA's subset 'small'"):
        tracks_to_train(_source(tmp_path, {"2": "large"}), "small")
