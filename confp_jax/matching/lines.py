"""How similar a query is to tracks along lines: scored from the stored rows, and refined."""

import math

import numpy as np
from jaxtyping import Float32, Float64, Int64

from confp_jax.matching.query_windows import QueryWindows
from confp_jax.matching.searchable import Reference
from confp_jax.matching.seeds import Seeds, tempo_cost

# for each row beyond the track's first or last: all places there look alike, and the end is the
# likeliest
_BEYOND_COST = 0.05
# Zoom: steps (of the tempo's logarithm, of the place in s) and how many to either side.
# The second reaches as far as the first may be wrong: at a track's end, where lying beyond costs
# least.
ZOOM = (
    ((0.04, 2), (0.15, 4)),
    ((0.013, 1), (0.05, 2)),
    ((0.0045, 1), (0.0167, 1)),
    ((0.0015, 1), (0.0055, 1)),
)


class Lines:
    """Cosines along any line near the seeds, from the stored rows around them."""

    def __init__(self, windows: QueryWindows, seeds: Seeds, reference: Reference):
        self._windows, self._hop_s = windows, reference.hop_s
        self.log_tempos = windows.log_tempos
        reach_s = (
            np.abs(windows.from_middle_s).max(initial=0.0) * np.exp(windows.log_tempos[1]) + 1.5
        )
        first_middles_s = reference.first_middles_s[seeds.tracks]
        middle = np.round((seeds.anchors_s - first_middles_s) / reference.hop_s).astype(np.int64)
        half = math.ceil(reach_s / reference.hop_s) + 1
        num_rows = reference.num_rows[seeds.tracks]
        first = np.clip(middle - half, 0, num_rows - 1)  # the rows that are there, first to last
        last = np.clip(middle + half, 0, num_rows - 1)
        rows = first[:, None] + np.arange(2 * half + 2)
        stored = reference.first_rows[seeds.tracks][:, None] + np.minimum(rows, last[:, None])
        vectors = reference.snapshot.vectors[stored].astype(np.float32)
        flat = (
            vectors.reshape(-1, vectors.shape[2]) @ windows.vectors.T
        )  # one product: many small ones wait for each other
        self._similar = flat.reshape(*vectors.shape[:2], -1)  # [T, R, W]
        if windows.num_phases == 1:  # dense windows count where they lie at a row
            self._neighbours = np.einsum("tre,tre->tr", vectors[:, :-1], vectors[:, 1:])
        self._first_s = first * reference.hop_s + first_middles_s
        self._num = (last - first)[:, None, None]

    def cosines(
        self, tempos: Float64[np.ndarray, "T G"], anchors_s: Float64[np.ndarray, "T G"]
    ) -> tuple[Float32[np.ndarray, "T G W"], Float32[np.ndarray, "T G W"]]:
        """Returns the cosine of each window with the track at its place on each of G lines a
        track, and how much it counts.

        Between two rows the track's vector is interpolated, and every window counts. Dense windows
        count only at a row. Beyond the track's ends, a needed window counts with the cosine 0, and
        other windows do not count.
        """
        place_s = anchors_s[..., None] + tempos[..., None] * self._windows.from_middle_s
        place = (place_s - self._first_s[:, None, None]) / self._hop_s
        inside = (place >= -0.5) & (place <= self._num + 0.5)
        beyond = np.abs(place - np.clip(place, 0, self._num))
        counted = (inside | self._windows.needed) & self._windows.loud
        if self._windows.num_phases == 1:
            cosines, weights = self._between_rows(np.clip(place, 0, self._num)), counted
        else:
            nearest = np.round(place)
            weights = counted * np.maximum(
                1 - self._windows.num_phases * np.abs(place - nearest), 0
            )
            cosines = self._at_rows(np.clip(nearest, 0, self._num).astype(np.int64))
        return cosines * inside * (1 - _BEYOND_COST * beyond), weights.astype(np.float32)

    def _at_rows(self, row: Int64[np.ndarray, "T G W"]) -> Float32[np.ndarray, "T G W"]:
        return self._similar[np.arange(len(row))[:, None, None], row, np.arange(row.shape[2])]

    def _between_rows(self, place: Float64[np.ndarray, "T G W"]) -> Float32[np.ndarray, "T G W"]:
        row = np.minimum(place.astype(np.int64), np.maximum(self._num - 1, 0))
        part = (place - row).astype(np.float32)
        before, after = self._at_rows(row), self._at_rows(row + 1)
        neighbours = self._neighbours[np.arange(len(row))[:, None, None], row]
        norm = (1 - part) ** 2 + part**2 + 2 * part * (1 - part) * neighbours
        return ((1 - part) * before + part * after) / np.sqrt(np.maximum(norm, 1e-6))


def weighted_mean(
    cosines: Float32[np.ndarray, "... W"], weights: Float32[np.ndarray, "... W"]
) -> Float32[np.ndarray, "..."]:
    """Returns the mean of the windows that count; -1 where none does."""
    total = weights.sum(axis=-1)
    return np.where(total > 0, (cosines * weights).sum(axis=-1) / np.maximum(total, 1e-6), -1.0)


def of_each_window(
    cosines: Float32[np.ndarray, "T P*N"], weights: Float32[np.ndarray, "T P*N"], num_phases: int
) -> Float32[np.ndarray, "T N"]:
    """Returns the cosine within each hop, of dense windows; where none of a hop counts, the mean of
    all.
    """
    by_hop = (len(cosines), cosines.shape[1] // num_phases, num_phases)
    cosines, weights = cosines.reshape(by_hop), weights.reshape(by_hop)
    whole = weighted_mean(cosines.reshape(len(cosines), -1), weights.reshape(len(cosines), -1))
    return np.where(weights.sum(axis=-1) > 0, weighted_mean(cosines, weights), whole[:, None])


def zoomed(
    lines: Lines,
    log_tempos: Float64[np.ndarray, " T"],
    anchors_s: Float64[np.ndarray, " T"],
    tempo_steps: tuple[float, int],
    place_steps: tuple[float, int],
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
    """Returns the best line of each track on a grid around the one so far."""
    (tempo_step, num_tempos), (place_step, num_places) = tempo_steps, place_steps
    if tempo_step > lines.log_tempos[1]:
        num_tempos = 0
    tempo_grid = np.repeat(np.arange(-num_tempos, num_tempos + 1) * tempo_step, 2 * num_places + 1)
    place_grid = np.tile(np.arange(-num_places, num_places + 1) * place_step, 2 * num_tempos + 1)
    log_tempo = np.clip(log_tempos[:, None] + tempo_grid, *lines.log_tempos)
    anchor_s = anchors_s[:, None] + place_grid
    scores = weighted_mean(*lines.cosines(np.exp(log_tempo), anchor_s)) - tempo_cost(log_tempo)
    best = scores.argmax(axis=1)
    track = np.arange(len(best))
    return log_tempo[track, best], anchor_s[track, best]
