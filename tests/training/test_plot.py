"""The picture of runs."""

import json
import pathlib

import numpy as np
import pytest

from confp_jax.training.plot import main, smooth


def test_a_smoothed_curve_keeps_its_mean_and_its_ends() -> None:
    steps, values = smooth(range(1000), np.arange(1000.0), max_points=10)
    assert len(steps) == 10
    assert steps == values == [49.5 + 100 * i for i in range(10)]
    assert smooth([1, 2], [3.0, 5.0]) == ([1, 2], [3.0, 5.0])
    assert smooth([], []) == ([], [])


def test_runs_are_drawn(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    for name, slope in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        lines = [{"step": i, "time": 0.0, "loss": slope * i, "top1": None} for i in range(5)]
        lines.append({"step": 4, "validation_track_top1": 1})
        (tmp_path / name / "metrics.jsonl").write_text(
            "\n".join(map(json.dumps, lines)) + '\n{"step": 5, "lo'
        )
    assert (
        main([str(tmp_path / "one"), str(tmp_path / "two"), f"--out={tmp_path / 'runs.png'}"]) == 0
    )
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert "(4 steps)" in capsys.readouterr().out


def test_what_is_no_run_is_said(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "error:" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    assert main([str(tmp_path)]) == 1
    assert "no steps yet" in capsys.readouterr().err
