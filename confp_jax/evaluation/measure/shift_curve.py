"""Figure 4: how similar a shifted query is to its own fingerprint and to the next one on the
index's grid.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from confp_jax.data.clips import ClipSource
from confp_jax.evaluation.measure.cache import read_cached, write_json
from confp_jax.evaluation.measure.query_sets import spread
from confp_jax.fingerprint.embedder import HOP_S, Embedder

_STEPS = 20  # of the hop
_WINDOWS_A_TRACK = 4


@dataclasses.dataclass(frozen=True)
class ShiftCurve:
    """Cosines at each shift: (10th percentile, mean, 90th percentile)."""

    shifts_s: tuple[float, ...]
    own: tuple[tuple[float, float, float], ...]
    following: tuple[tuple[float, float, float], ...]
    crossing_s: float | None  # where the means are equal
    num_windows: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ShiftCurve":
        """Returns what `dataclasses.asdict` made."""
        bands = {
            name: tuple((low, mean, high) for low, mean, high in values[name])
            for name in ("own", "following")
        }
        return cls(
            tuple(values["shifts_s"]),
            bands["own"],
            bands["following"],
            values["crossing_s"],
            values["num_windows"],
        )


def shift_curve(
    embedder: Embedder,
    folder: str,
    split: str,
    *,
    most_tracks: int,
    kept: pathlib.Path,
    console: Console,
) -> ShiftCurve:
    """Returns the curve of clean clips; measured once and then read from `kept`.

    Args:
      embedder: the model.
      folder: a prepared dataset.
      split: its split that clips are taken from.
      most_tracks: how many of them.
      kept: the file that keeps the curve.
      console: shows the progress.
    """
    before = read_cached(kept, lambda file: ShiftCurve.from_json(json.loads(file.read_text())))
    if before is not None:
        return before
    source = ClipSource(folder, split)
    own = []
    following = []
    shifts_s = [HOP_S * step / _STEPS for step in range(_STEPS + 1)]
    for track in progress(
        spread(source.num_tracks, most_tracks), "Figure 4", console=console, transient=True
    ):
        samples = (
            source[track * (1 + source.summary.num_replicas)].samples.astype(np.float32) / 32768
        )
        for start in spread(_whole_windows(samples, embedder), _WINDOWS_A_TRACK):
            # One every step of the shift: the first is the window itself, the last is the next one
            # on the grid.
            begin = round(start * HOP_S * embedder.sample_rate_hz)
            hop = round(HOP_S / _STEPS * embedder.sample_rate_hz)
            piece = samples[begin : begin + embedder.config.audio.segment_samples + _STEPS * hop]
            vectors = embedder.fingerprint(piece, hop_s=HOP_S / _STEPS).vectors
            if vectors.any(axis=1).all():
                own.append(vectors @ vectors[0])
                following.append(vectors @ vectors[-1])
    curve = make_curve(shifts_s, np.array(own), np.array(following))
    write_json(kept, dataclasses.asdict(curve))
    return curve


def make_curve(shifts_s: list[float], own: np.ndarray, following: np.ndarray) -> ShiftCurve:
    """Makes the curve of cosines [windows, shifts]; the crossing by interpolation between the two
    shifts around it.
    """
    difference = (own - following).mean(axis=0)
    after = int(np.argmax(difference <= 0))
    crossing_s = None
    if difference[after] <= 0 and after > 0:
        before = after - 1
        part = difference[before] / (difference[before] - difference[after])
        crossing_s = float(shifts_s[before] + part * (shifts_s[after] - shifts_s[before]))
    bands = [
        tuple(
            (float(np.quantile(v, 0.1)), float(v.mean()), float(np.quantile(v, 0.9)))
            for v in values.T
        )
        for values in (own, following)
    ]
    return ShiftCurve(tuple(shifts_s), bands[0], bands[1], crossing_s, len(own))


def _whole_windows(samples: np.ndarray, embedder: Embedder) -> int:
    room = len(samples) - embedder.config.audio.segment_samples
    return max(0, int(room / (HOP_S * embedder.sample_rate_hz)))
