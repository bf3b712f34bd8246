"""JSON lines always, TensorBoard beside it; one interval late, so that the loop never waits for the device."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Iterator
from typing import TextIO

import numpy as np
import optax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from confp_jax.training.step import Metrics


class NonFiniteLossError(RuntimeError):
    """The loss is no number any more."""


class MetricLog:
    """Writes WORKDIR/metrics.jsonl and TensorBoard events, and shows progress with an ETA."""

    def __init__(
        self,
        lines: TextIO,
        board: SummaryWriter,
        progress: Progress,
        *,
        num_steps: int,
        every_steps: int,
        schedule: optax.Schedule,
    ):
        self._lines, self._board, self._progress = lines, board, progress
        self._every, self._schedule = every_steps, schedule
        self._task = progress.add_task("training", total=num_steps)
        self._pending: tuple[int, Metrics, float | None] | None = None
        self._since: tuple[int, float] | None = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, workdir: pathlib.Path, *, num_steps: int, every_steps: int, schedule: optax.Schedule) -> Iterator["MetricLog"]:
        """Appends to the run's log; everything pending is written on leaving."""
        workdir.mkdir(parents=True, exist_ok=True)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        with (
            open(workdir / "metrics.jsonl", "a", encoding="utf-8") as lines,
            contextlib.closing(SummaryWriter(str(workdir / "tensorboard"))) as board,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            log = cls(lines, board, progress, num_steps=num_steps, every_steps=every_steps, schedule=schedule)
            yield log
            log.flush()

    def step(self, step: int, metrics: Metrics, *, num_segments: int) -> None:
        """Reports step number `step` (counted from 1). Fetches the interval before.

        Raises:
          NonFiniteLossError: the loss of that interval is not finite.
        """
        if step % self._every:
            return
        self.flush()
        now = time.perf_counter()
        rate = (step - self._since[0]) * num_segments / (now - self._since[1]) if self._since else None
        self._since = (step, now)
        self._pending = (step, metrics, rate)

    def flush(self) -> None:
        """Fetches and writes what is pending."""
        if self._pending is None:
            return
        step, metrics, rate = self._pending
        self._pending = None
        values = {name: value.item() for name, value in metrics._asdict().items()}
        values["learning_rate"] = float(np.asarray(self._schedule(step - 1)))
        if rate is not None:  # unknown right after the start and after a validation
            values["segments_per_s"] = round(rate, 1)
        self.scalars(step, values)
        if not math.isfinite(values["loss"]):
            raise NonFiniteLossError(
                f"the loss at step {step} is {values['loss']} (learning rate {values['learning_rate']:.3g}); lower "
                "optimizer.learning_rate or set optimizer.clip_norm=1, and resume from the last checkpoint"
            )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one line at once and shows it."""
        # JSON knows no NaN: null stands for it.
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 1)} | known) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._progress.update(self._task, completed=step)
        line = f"step {step}/{int(self._progress.tasks[0].total or 0)}{self._eta()}  {shown}"
        self._progress.console.print(line, highlight=False, soft_wrap=True)

    def pause(self) -> None:
        """Time spent on something else (validation) is not counted as training."""
        self._since = None

    def _eta(self) -> str:
        if not self._progress.disable:
            return ""  # the bar shows it
        remaining = self._progress.tasks[0].time_remaining
        return f" (eta {remaining / 60:.0f} min)" if remaining is not None else ""
