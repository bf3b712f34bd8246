"""Cuts a clip into windows (`cut_windows`): where each begins, and which are worth encoding."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from confp_jax.audio.segments import num_windows

# a short query is also searched at this tempo: music slowed down to 70 or 80 % is found more surely
SPEEDUP = 1.18
# what an edge window sees of its query: with less, slowed music and short queries are found worse
_LEAST_SEEN = 0.7
SILENT_RMS = 10 ** (-70 / 20)
_CPU_BATCHES = (1, 4, 16)
_BATCHES = (1, 8, 64)
_CPU_TOKENS = 1_500  # of a batch: more do not fit a core's cache


@dataclasses.dataclass(frozen=True)
class WindowedClip:
    """A clip cut into segments, and what the conformer hears of the clip for each: `lengths` of
    its samples from `starts` on.

    All are counted at the `tempo` the clip is heard at.
    """

    samples: Float32[np.ndarray, " n"]
    tempo: float
    segments: Int64[np.ndarray, " N"]  # where each segment begins; below 0 before the clip
    starts: Int64[np.ndarray, " N"]
    places: Int64[np.ndarray, " N"]  # in the conformer's window, of the first sample heard
    lengths: Int64[np.ndarray, " N"]
    num_edge_windows: int  # at either end
    loud: Int64[np.ndarray, " L"]

    def phases(self, mel_hop: int) -> list[int]:
        """Returns where on the grid of mel frames the loud windows begin, in samples."""
        return np.unique(self.starts[self.loud] % mel_hop).tolist()


def cut_windows(
    samples: Float32[np.ndarray, " n"],
    *,
    segment: int,
    hop: int,
    context: int = 0,
    lead: int = 0,
    num: int = 0,
    with_edges: bool = False,
    tempo: float = 1.0,
) -> WindowedClip:
    """Returns the segments of a clip, `hop` samples apart.

    Args:
      samples: the clip.
      segment: samples in one.
      hop: from one's first sample to the next one's.
      context: samples that the conformer hears, around a segment's middle; 0: the segment.
      lead: samples before the first segment, which only contexts reach into.
      num: how many segments there are; 0: as many as there is audio for.
      with_edges: whether there are edge windows too, which see a part of the clip: as many as see
        enough of it; none where the conformer hears a context, which reaches over the ends.
      tempo: at which the clip is heard.
    """
    samples = samples / max(
        1.0, float(np.abs(samples).max(initial=0.0))
    )  # louder than full scale would overflow
    num_heard = int(len(samples) / tempo)
    first = whole = lead + first_samples(num_heard - lead, segment, hop)[: num or None]
    if with_edges and not context:
        num_edge_windows = max(0, int(whole[0]) + segment - round(_LEAST_SEEN * segment)) // hop
        first = whole[0] + hop * np.arange(-num_edge_windows, len(whole) + num_edge_windows)
    own_starts, _, own_lengths = _inside(first, segment, num_heard)
    loud = (
        window_rms(
            samples, (tempo * own_starts).astype(np.int64), (tempo * own_lengths).astype(np.int64)
        )
        > SILENT_RMS
    )
    context = context or segment
    heard = _inside(first - (context - segment) // 2, context, num_heard)
    return WindowedClip(
        samples, tempo, first, *heard, (len(first) - len(whole)) // 2, np.flatnonzero(loud)
    )


def _inside(
    first: np.ndarray, length: int, num_samples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the part of each window of `length` that lies in a clip: its start there, its place
    in the window, its length.
    """
    starts = np.maximum(first, 0)
    return starts, np.maximum(-first, 0), np.minimum(first + length, num_samples) - starts


def first_samples(num_samples: int, segment: int, hop: int) -> Int64[np.ndarray, " N"]:
    """Returns where in the clip each window begins that it fills; below 0, before the clip.

    A clip shorter than a segment is whole in each of its windows, which lie about its middle: the
    first begins longest before it.
    """
    if num_samples >= segment:
        return hop * np.arange(num_windows(num_samples, segment_samples=segment, hop_samples=hop))
    unseen = segment - num_samples
    num = 1 + unseen // hop
    return -((unseen + hop * (num - 1 - 2 * np.arange(num))) // 2)


def window_rms(samples: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Root mean square of every window."""
    edges, place = np.unique(np.concatenate([starts, starts + lengths]), return_inverse=True)
    between = np.add.reduceat(np.square(samples[: edges[-1]]), edges[:-1], dtype=np.float64)
    energy = np.concatenate([[0.0], np.cumsum(between)])  # before each edge
    first, last = np.split(place, 2)
    return np.sqrt(np.maximum(energy[last] - energy[first], 0) / lengths)


def batch_shapes(num_tokens: int, *, on_cpu: bool) -> tuple[int, ...]:
    """Returns how many windows of `num_tokens` are encoded together, rising from 1.

    A CPU is fastest with small batches, one for each core (benchmarks/train_step.py), an
    accelerator with large ones.
    """
    return (
        tuple(size for size in _CPU_BATCHES if size <= 4 or size * num_tokens <= _CPU_TOKENS)
        if on_cpu
        else _BATCHES
    )


def batch_sizes(num_windows: int, sizes: Sequence[int]) -> list[int]:
    """Returns how many windows each batch takes, of batches that hold `sizes` (rising, from 1):
    full large ones, then the next size.

    What is left for the second smallest goes together.
    """
    found = []
    while num_windows > 0:
        found.append(
            next(size for size in (*reversed(sizes[1:]), num_windows) if size <= num_windows)
        )
        num_windows -= found[-1]
    return found
