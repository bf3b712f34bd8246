"""Window arithmetic: crops of anchor and replica, the Beta shift, spaced starts, sliding windows.

Times are the original's.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64


@dataclasses.dataclass(frozen=True)
class PairCrop:
    """Where a training pair begins: the anchor in the clean clip, the replica in its own
    (stretched) audio, in seconds.
    """

    anchor_start_s: float
    replica_start_s: float


def draw_shift_s(
    rng: np.random.Generator, *, alpha: float, beta: float, max_shift_s: float
) -> float:
    """Returns the time shift of the replica: Beta(alpha, beta) x max_shift_s with a random sign
    (paper: Beta(8, 2) x 150 ms).
    """
    return float(rng.beta(alpha, beta) * max_shift_s * rng.choice((-1.0, 1.0)))


def replica_start_s(
    anchor_start_s: float, *, shift_s: float, tempo: float, segment_s: float
) -> float:
    """Returns the start of the replica's window so that its centre is the anchor's centre plus the
    shift, in stretched time.

    A clip played at `tempo` has the original's moment t at t / tempo.
    """
    return (anchor_start_s + segment_s / 2 + shift_s) / tempo - segment_s / 2


def draw_pair_crops(
    rng: np.random.Generator,
    *,
    num_crops: int,
    spacing_s: tuple[float, float],
    clean_s: float,
    replica_s: float,
    tempo: float,
    segment_s: float,
    shift: tuple[float, float, float],
) -> list[PairCrop]:
    """Draws pairs of windows that lie wholly inside both clips.

    The first crop is uniform; each further one lies away from the one before, on the side where
    there is space.

    Args:
      rng: the generator that everything is drawn from.
      num_crops: how many pairs.
      spacing_s: the least and the greatest distance of a crop from the one before, in seconds.
      clean_s: length of the clean clip, in seconds.
      replica_s: length of its replica, in seconds.
      tempo: how much faster the replica is played than the clean clip.
      segment_s: length of a window, in seconds.
      shift: (alpha, beta, max_shift_s) of the Beta shift, drawn once for each pair.

    Raises:
      ValueError: the clips are too short to hold one segment.
    """
    alpha, beta, max_shift_s = shift
    crops: list[PairCrop] = []
    low = max(0.0, tempo * segment_s / 2 - segment_s / 2 + max_shift_s)
    high = min(
        clean_s - segment_s, tempo * (replica_s - segment_s / 2) - segment_s / 2 - max_shift_s
    )
    if high < low:
        raise ValueError(
            f"clip of {clean_s:.2f} s (replica {replica_s:.2f} s at tempo {tempo:.2f}) holds no "
            f"{segment_s} s pair"
        )
    start_s = rng.uniform(low, high)
    for _ in range(num_crops):
        if crops:
            step_s = rng.uniform(*spacing_s) * rng.choice((-1.0, 1.0))
            start_s = start_s + step_s if low <= start_s + step_s <= high else start_s - step_s
            start_s = min(max(start_s, low), high)
        shift_s = draw_shift_s(rng, alpha=alpha, beta=beta, max_shift_s=max_shift_s)
        crops.append(
            PairCrop(
                start_s, replica_start_s(start_s, shift_s=shift_s, tempo=tempo, segment_s=segment_s)
            )
        )
    return crops


def spaced_starts_s(
    duration_s: float, *, segment_s: float, num: int
) -> Float64[np.ndarray, " num"]:
    """`num` linearly spaced starts, the first at 0, the last such that its segment ends with the
    clip (paper, evaluation).

    Raises:
      ValueError: the clip is shorter than one segment.
    """
    if duration_s < segment_s:
        raise ValueError(f"a clip of {duration_s:.2f} s holds no segment of {segment_s} s")
    return np.linspace(0.0, duration_s - segment_s, num)


def num_windows(num_samples: int, *, segment_samples: int, hop_samples: int) -> int:
    """Returns how many whole windows fit when one starts every `hop_samples`; 0 if none."""
    return max(0, 1 + (num_samples - segment_samples) // hop_samples)


class Chunk(NamedTuple):
    """A piece of a stream whose `num_windows` sliding windows begin at `lead` samples; what lies
    around them is context.
    """

    samples: Float32[np.ndarray, " m"]
    lead: int
    num_windows: int
    is_whole: bool  # it is the whole stream


def window_chunks(
    blocks: Iterable[Float32[np.ndarray, " n"]],
    *,
    segment_samples: int,
    hop_samples: int,
    windows_per_chunk: int,
    margin_samples: int = 0,
) -> Iterator[Chunk]:
    """Cuts a stream into pieces: their sliding windows, one piece after the other, are the windows
    of the whole stream.

    Each piece holds `windows_per_chunk` windows and so overlaps the next; the last holds the rest.
    A piece also holds `margin_samples` (rounded up to whole hops) before and after its windows,
    where the stream has them. Audio shorter than one window is one piece without windows, so that
    the encoder can report it.
    """
    margin = -(-margin_samples // hop_samples) * hop_samples
    step = windows_per_chunk * hop_samples
    windows_end = step - hop_samples + segment_samples
    parts: list[np.ndarray] = []
    held = lead = 0
    is_first = True
    for block in _no_longer_than(step, blocks):
        parts.append(block)
        held += len(block)
        # More must follow: a stream that is exactly as long as a piece is one whole piece.
        while held > lead + max(windows_end + margin, step):
            joined = np.concatenate(parts)
            yield Chunk(
                joined[: lead + windows_end + margin], lead, windows_per_chunk, is_whole=False
            )
            kept = max(0, lead + step - margin)
            parts = [joined[kept:].copy()]
            held -= kept
            lead += step - kept
            is_first = False
    rest = num_windows(held - lead, segment_samples=segment_samples, hop_samples=hop_samples)
    if rest or is_first:
        yield Chunk(
            np.concatenate(parts) if parts else np.zeros(0, np.float32),
            lead,
            rest,
            is_whole=is_first,
        )


def _no_longer_than(
    num_samples: int, blocks: Iterable[Float32[np.ndarray, " n"]]
) -> Iterator[Float32[np.ndarray, " m"]]:
    """Yields the blocks in parts, so that the memory for a piece does not grow with the blocks."""
    for block in blocks:
        for first in range(0, len(block), num_samples):
            yield block[first : first + num_samples]
