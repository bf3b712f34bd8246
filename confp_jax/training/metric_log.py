"""JSON lines always, TensorBoard beside it; one interval late, so that the loop never waits for the
device.
"""

import contextlib
import json
import math
import resource
import time
from collections.abc import Iterator
from typing import NamedTuple, TextIO

import jax
import numpy as np
import optax
from etils import epath
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from confp_jax.errors import UserError
from confp_jax.texts import parse_json
from confp_jax.training.accelerators import find_chip
from confp_jax.training.step import Metrics

LINES = "metrics.jsonl"
_TIMED_STEPS = 4  # the first of them is compiled


class NonFiniteLossError(UserError):
    """The loss is no number any more.

    `step` (counted from 1) is the first whose loss or gradient was not finite.
    """

    def __init__(self, message: str, *, step: int):
        super().__init__(message)
        self.step = step


class _Interval(NamedTuple):
    """What is to be fetched and written when the next interval is over."""

    step: int
    metrics: Metrics
    speed: dict[str, float]
    finite: list[tuple[int, jax.Array]]


class MetricLog:
    """Writes metrics.jsonl and TensorBoard events, and shows progress with an ETA.

    If there are several processes, only one writes.
    """

    def __init__(
        self,
        lines: TextIO | None,
        board: SummaryWriter | None,
        progress: Progress,
        *,
        num_steps: int,
        every_steps: int,
        schedule: optax.Schedule,
        flops_per_segment: float = 0.0,
    ):
        self._lines = lines
        self._board = board
        self._progress = progress
        self._every = every_steps
        self._schedule = schedule
        self._flops = flops_per_segment
        self._task = progress.add_task("training", total=num_steps)
        self._pending: _Interval | None = None
        self._finite: list[tuple[int, jax.Array]] = []  # of the steps since the last interval
        self._since: tuple[int, float] | None = None
        self._waited_s = self._segments = 0.0
        self._timed_s: list[float] = []  # ends of this process's first steps

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        folder: epath.PathLike,
        *,
        num_steps: int,
        every_steps: int,
        schedule: optax.Schedule,
        flops_per_segment: float = 0.0,
        first_step: int | None = None,
        is_writer: bool = True,
    ) -> Iterator["MetricLog"]:
        """Appends to the run's log, without the lines of steps after `first_step`: a run that was
        killed makes those again.

        Everything pending is written on leaving. `flops_per_segment` is the encoder's forward pass.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True, quiet=not is_writer)
        options = {"num_steps": num_steps, "every_steps": every_steps, "schedule": schedule}
        with contextlib.ExitStack() as stack:
            lines = board = None
            if is_writer:
                path = epath.Path(folder)
                path.mkdir(parents=True, exist_ok=True)
                if first_step is not None:
                    _drop_lines_after(path / LINES, first_step)
                lines = stack.enter_context(open(path / LINES, "a", encoding="utf-8"))
                board = stack.enter_context(
                    contextlib.closing(SummaryWriter(str(path / "tensorboard")))
                )
            shown = {"console": console, "disable": not console.is_terminal}
            # Steps may take many seconds: by rich's own 30 s the time that remains would often rest
            # on no interval at all.
            progress = stack.enter_context(Progress(*columns, **shown, speed_estimate_period=900))
            log = cls(lines, board, progress, flops_per_segment=flops_per_segment, **options)
            yield log
            log.flush()

    def step(
        self, step: int, metrics: Metrics, *, num_segments: int, waited_s: float = 0.0
    ) -> None:
        """Reports step number `step` (counted from 1) and how long the loop waited for its batch.
        Fetches the interval before.

        Raises:
          NonFiniteLossError: the loss or gradient of a step in that interval is not finite.
        """
        self._finite.append((step, metrics.is_finite))
        if len(self._timed_s) < _TIMED_STEPS:
            self._time_first(step, metrics)
        self._waited_s += waited_s
        self._segments += num_segments
        if step % self._every:
            return
        finite = self._finite
        self._finite = []
        self.flush()
        now = time.perf_counter()
        self._pending = _Interval(step, metrics, self._speed(step, now), finite)
        self._since = (step, now)
        self._waited_s = 0.0
        self._segments = 0.0

    def say(self, line: str) -> None:
        """Shows a line above the bar."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)

    def _time_first(self, step: int, metrics: Metrics) -> None:
        """Waits for each of the first steps, and then says how long all will take."""
        np.asarray(metrics.is_finite)
        self._timed_s.append(time.perf_counter())
        if len(self._timed_s) == _TIMED_STEPS:
            seconds = (self._timed_s[-1] - self._timed_s[0]) / (_TIMED_STEPS - 1)
            left = int(self._progress.tasks[0].total or 0) - step
            self.say(
                f"a step takes {seconds:.3g} s; the other {left} take about "
                f"{left * seconds / 60:.0f} min"
            )

    def _speed(self, step: int, now: float) -> dict[str, float]:
        """Returns the speed in the interval that ends now; {} after the start and after a pause."""
        if self._since is None:
            return {}
        seconds = now - self._since[1]
        speed = {
            "segments_per_s": round(self._segments / seconds, 1),
            "steps_per_s": round((step - self._since[0]) / seconds, 3),
            "input_wait": round(min(1.0, self._waited_s / seconds), 4),  # share of the time
            "memory_gb": round(_peak_memory_bytes() / 1e9, 3),
        }
        if self._flops:
            done = (
                3 * self._flops * self._segments / seconds
            )  # the backward pass costs twice the forward pass
            speed["tflop_per_s"] = round(done / 1e12, 4)
            chip = find_chip(jax.devices()[0].device_kind)
            if chip is not None:
                speed["mfu"] = round(done / (chip.bf16_flops * jax.device_count()), 4)
        return speed

    def flush(self) -> None:
        """Fetches and writes what is pending.

        Raises:
          NonFiniteLossError: see `step`.
        """
        finite = self._finite
        self._finite = []
        if self._pending is not None:
            step, metrics, speed, earlier = self._pending
            self._pending = None
            finite = earlier + finite
            values = {
                name: value.item()
                for name, value in metrics._asdict().items()
                if name != "is_finite"
            }
            self.scalars(step, values | {"learning_rate": self._rate(step)} | speed)
        bad = next((step for step, is_finite in finite if not np.asarray(is_finite)), None)
        if bad is not None:
            raise NonFiniteLossError(
                f"the loss at step {bad} is not finite, or its gradient (learning rate "
                f"{self._rate(bad):.3g}); lower optimizer.learning_rate (or those in phases) or "
                "set optimizer.clip_norm=1, and resume from the last checkpoint with "
                "--allow_change=optimizer.learning_rate,optimizer.clip_norm (or phases)",
                step=bad,
            )

    def _rate(self, step: int) -> float:
        return float(np.asarray(self._schedule(step - 1)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one line at once and shows it."""
        self._progress.update(self._task, completed=step)
        if self._lines is None or self._board is None:
            return
        # JSON knows no NaN: null stands for it.
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 1)} | known) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        line = f"step {step}/{int(self._progress.tasks[0].total or 0)}{self._eta()}  {shown}"
        self._progress.console.print(line, highlight=False, soft_wrap=True)

    def pause(self) -> None:
        """Time spent on something else (validation, a checkpoint) is not counted as training.

        Both wait for the steps that were dispatched: those of the next interval would seem to take
        no time.
        """
        self._since = None
        self._waited_s = 0.0
        self._segments = 0.0

    def flush_board(self) -> None:
        """Writes TensorBoard's buffer, before the files are copied to a bucket."""
        if self._board is not None:
            self._board.flush()

    def _eta(self) -> str:
        if not self._progress.disable:
            return ""  # the bar shows it
        remaining = self._progress.tasks[0].time_remaining
        return f" (eta {remaining / 60:.0f} min)" if remaining is not None else ""


def _peak_memory_bytes() -> int:
    """Returns the peak of the first device; on a CPU, that of this process."""
    stats = jax.local_devices()[0].memory_stats()
    return (
        stats["peak_bytes_in_use"]
        if stats
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )


def read_lines(path: epath.PathLike) -> list[dict[str, float]]:
    """Returns the log's lines; one that a killed process left unfinished, or that is damaged, is
    passed over.
    """
    found = []
    for line in epath.Path(path).read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            values = parse_json(line)
            if isinstance(values, dict) and type(values.get("step")) is int:
                found.append(values)
    return found


def _drop_lines_after(path: epath.Path, step: int) -> None:
    if not path.exists():
        return
    kept = "".join(json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step)
    aside = path.with_suffix(".new")
    aside.write_text(kept)
    aside.replace(path)
