"""The log: lines that any JSON reader takes, one interval late, and an end to training on what is
no number.
"""

import json
import pathlib

import numpy as np
import optax
import pytest

from confp_jax.training import metric_log
from confp_jax.training.accelerators import CHIPS
from confp_jax.training.metric_log import MetricLog, NonFiniteLossError
from confp_jax.training.plot import PANELS
from confp_jax.training.step import Metrics


def _metrics(loss: float) -> Metrics:
    values = (
        np.float32(value) for value in (loss, 0.5, 2.0, 0.3, -2.5)
    )  # what a device's scalars look like when fetched
    return Metrics(*values, is_finite=np.isfinite(loss))


def _open(workdir: pathlib.Path, *, every_steps: int = 2, first_step: int | None = None):
    schedule = optax.linear_schedule(0.0, 1.0, 10)
    return MetricLog.open(
        workdir, num_steps=10, every_steps=every_steps, schedule=schedule, first_step=first_step
    )


def _lines(workdir: pathlib.Path) -> list[dict]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON (RFC 8259)")

    return [
        json.loads(line, parse_constant=refuse)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


def test_one_interval_late(tmp_path: pathlib.Path) -> None:
    with _open(tmp_path) as log:
        for step in range(1, 8):
            log.step(step, _metrics(10.0 - step), num_segments=8)
            assert [line["step"] for line in _lines(tmp_path)] == list(range(2, step - 1, 2))
    lines = _lines(tmp_path)
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 8.0), (4, 6.0), (6, 4.0)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [0.1, 0.3, 0.5]
    )  # the rate of that step
    assert [line["top1"] for line in lines] == [0.5] * 3
    assert ["segments_per_s" in line for line in lines] == [False, True, True]


def test_a_pause_is_no_training_time(tmp_path: pathlib.Path) -> None:
    with _open(tmp_path, every_steps=1) as log:
        log.step(1, _metrics(1.0), num_segments=8)
        log.flush()
        log.scalars(1, {"validation_track_top1": 0.25})
        log.pause()
        log.step(2, _metrics(1.0), num_segments=8)
        log.step(3, _metrics(1.0), num_segments=8)
    lines = _lines(tmp_path)
    assert [line["step"] for line in lines] == [1, 1, 2, 3]
    assert lines[1]["validation_track_top1"] == 0.25
    assert ["segments_per_s" in line for line in lines] == [False, False, False, True]


def test_a_second_run_appends(tmp_path: pathlib.Path) -> None:
    for step in (1, 2):
        with _open(tmp_path, every_steps=1) as log:
            log.step(step, _metrics(1.0), num_segments=8)
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(tmp_path: pathlib.Path, loss: float) -> None:
    with (
        pytest.raises(
            NonFiniteLossError, match=r"the loss at step 1 is not finite.*learning_rate.*resume"
        ) as caught,
        _open(tmp_path) as log,
    ):
        log.step(
            1, _metrics(loss), num_segments=8
        )  # the first is named, also where it is between two lines
        log.step(2, _metrics(loss), num_segments=8)
        log.step(4, _metrics(1.0), num_segments=8)
    assert caught.value.step == 1
    lines = _lines(tmp_path)
    assert [line["step"] for line in lines] == [2], "the last thing seen is in the log"
    assert not isinstance(lines[0]["loss"], float)


def test_a_loss_that_is_no_number_in_the_last_interval(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NonFiniteLossError, match="step 2"), _open(tmp_path) as log:
        log.step(2, _metrics(float("nan")), num_segments=8)


def test_damaged_lines_are_passed_over(tmp_path: pathlib.Path) -> None:
    with _open(tmp_path, every_steps=1) as log:
        log.step(1, _metrics(1.0), num_segments=8)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": "2"}\n[2]\n{}\n7\n{"step": 2, "loss": \xff}\n' + b"[" * 100_000)
        file.write(b"\n")
    with _open(tmp_path, every_steps=1, first_step=1) as log:
        log.step(2, _metrics(1.0), num_segments=8)
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2]


def test_a_resumed_run_makes_its_steps_once(tmp_path: pathlib.Path) -> None:
    """Killed after step 3 with its last checkpoint at step 2, in the middle of a line."""
    with _open(tmp_path, every_steps=1) as log:
        for step in (1, 2, 3):
            log.step(step, _metrics(float(step)), num_segments=8)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    with _open(tmp_path, every_steps=1, first_step=2) as log:
        log.step(3, _metrics(30.0), num_segments=8)
    assert [(line["step"], line["loss"]) for line in _lines(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]


def test_what_it_says_about_speed(tmp_path: pathlib.Path) -> None:
    options = {"num_steps": 10, "every_steps": 1, "schedule": optax.constant_schedule(1.0)}
    with MetricLog.open(tmp_path, flops_per_segment=1e9, **options) as log:
        for step in (1, 2):
            log.step(step, _metrics(1.0), num_segments=8, waited_s=1e6)
    line = _lines(tmp_path)[1]
    assert line["input_wait"] == 1.0
    assert 0 < line["memory_gb"] < 1000
    assert line["tflop_per_s"] == pytest.approx(
        3 * 1e-3 * line["segments_per_s"], rel=0.01, abs=1e-4
    )
    assert line["segments_per_s"] == pytest.approx(8 * line["steps_per_s"], rel=0.01)


def test_the_time_that_remains_of_slow_steps(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40 s each: five to go of ten."""
    now = 0.0
    with _open(tmp_path, every_steps=1) as log:
        log._progress.get_time = lambda: now
        for step in range(1, 6):
            now += 40
            log.scalars(step, {"loss": 1.0})
    assert "step 5/10 (eta 3 min)" in capsys.readouterr().err


def test_the_share_of_the_peak(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a chip of 1 GFLOP/s; every picture's panel shows something that is logged."""
    monkeypatch.setattr(metric_log, "find_chip", lambda _: CHIPS[0]._replace(bf16_flops=1e9))
    options = {"num_steps": 10, "every_steps": 1, "schedule": optax.constant_schedule(1.0)}
    with MetricLog.open(tmp_path, flops_per_segment=1e9, **options) as log:
        for step in (1, 2):
            log.step(step, _metrics(1.0), num_segments=8)
    line = _lines(tmp_path)[1]
    assert line["mfu"] == pytest.approx(3 * line["segments_per_s"], rel=0.01)
    assert set(PANELS) - {"validation_track_top1"} <= line.keys()


def test_only_one_process_writes(tmp_path: pathlib.Path) -> None:
    options = {
        "num_steps": 10,
        "every_steps": 1,
        "schedule": optax.constant_schedule(1.0),
        "is_writer": False,
    }
    with pytest.raises(NonFiniteLossError), MetricLog.open(tmp_path, **options) as log:
        log.step(1, _metrics(float("nan")), num_segments=8)
    assert list(tmp_path.iterdir()) == []


def test_it_says_at_once_how_long_it_will_take(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    with _open(tmp_path, every_steps=100) as log:
        for step in range(1, 6):
            log.step(step, _metrics(1.0), num_segments=8)
            assert ("the other 6 take about 0 min" in capsys.readouterr().err) == (step == 4)
