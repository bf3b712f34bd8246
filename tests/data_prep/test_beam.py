"""The Beam pipeline on the local runner with two worker processes: shard for shard the bytes of the
local path.
"""

import pathlib
from collections.abc import Callable

import pytest
from rich.console import Console

from data_prep.config import PrepareConfig

pytest.importorskip("apache_beam")
_TWO_WORKERS = (
    "--runner=FnApiRunner",
    "--direct_num_workers=2",
    "--direct_running_mode=multi_processing",
)


def test_beam_writes_the_same_bytes(
    prepared: pathlib.Path, prepare_config: Callable[..., PrepareConfig], tmp_path: pathlib.Path
) -> None:
    from data_prep.beam import run_with
    from data_prep.make_train import prepare

    out = tmp_path / "out"
    prepare(prepare_config(out), Console(quiet=True), run_with(_TWO_WORKERS))
    for name in ("*array_record*", "clips-*.npy", "manifest.json", "confp.json"):
        files = {path.name: path.read_bytes() for path in out.glob(name)}
        assert files
        assert files == {path.name: path.read_bytes() for path in prepared.glob(name)}
