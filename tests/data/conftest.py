"""A data set with sounds to mix in."""

import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from confp_jax.data.mixing import SOUNDS_FOLDER
from confp_jax.data.records import Clip


@pytest.fixture(scope="session")
def with_sounds(
    make_dataset: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., pathlib.Path]:
    """`with_sounds(clips, noise=..., ir=...)`: a data set of these clips and sounds."""

    def make(clips: list[Clip] | None = None, **sounds: list[np.ndarray]) -> pathlib.Path:
        folder = make_dataset(
            {"training": clips or [Clip(0, 0, 1.0, 0.0, np.zeros(9, "<i2"))]}, num_replicas=0
        )
        kinds = {
            kind: [
                Clip(i, 0, 1.0, 0.0, np.round(s * 32767).astype("<i2")) for i, s in enumerate(of)
            ]
            for kind, of in sounds.items()
        }
        if kinds:
            shutil.move(make_dataset(kinds, num_replicas=0), folder / SOUNDS_FOLDER)
        return folder

    return make
