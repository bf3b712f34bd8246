"""How soon a microphone is answered: real recordings played into a growing clip and a monitor.

Blocks come as they are recorded, half a second at a time; what is reported is how much of each
recording was heard when the first sure answer came, and whether it was right.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Float64
from rich.console import Console
from rich.progress import track as progress

from confp_jax.audio.decode import decode
from confp_jax.evaluation.measure.recordings import Recording
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.library.listening import identify_growing
from confp_jax.library.monitor import monitor
from confp_jax.library.searcher import ReferenceSearcher

AFTER_S = (3.0, 5.0, 7.0, 10.0)
_BLOCK_S = 0.5

Blocks = Iterable[Float32[np.ndarray, " n"]]
Listener = Callable[[ReferenceSearcher, Blocks], Iterator[tuple[float, str]]]


@dataclasses.dataclass(frozen=True)
class ListeningRow:
    """Shares of all recordings that were answered after so many seconds."""

    way: str  # "clip": `confp listen` and the page; "monitor"
    after_s: float
    num_recordings: int
    right: float
    wrong: float
    false_alarms: float  # where only other music is searched


def measure_listening(
    searcher: ReferenceSearcher,
    others: ReferenceSearcher,
    recordings: Sequence[Recording],
    console: Console,
) -> list[ListeningRow]:
    """Returns the shares for each way of listening and each of `AFTER_S`.

    Args:
      searcher: the recordings' references and other music.
      others: the other music alone.
      recordings: what is played, each from its start.
      console: for the progress.
    """
    rows = []
    for way, listen in (("clip", _clip), ("monitor", _monitor)):
        first_s = []
        is_right = []
        alarm_s = []
        for recording in progress(recordings, f"listening, {way}", console=console, transient=True):
            samples = decode(recording.query, sample_rate_hz=searcher.embedder.sample_rate_hz)
            heard_s, track = _first_answer(listen, searcher, samples.samples)
            first_s.append(heard_s)
            is_right.append(track == recording.reference.name)
            alarm_s.append(_first_answer(listen, others, samples.samples)[0])
        rows += _rows(way, np.array(first_s), np.array(is_right), np.array(alarm_s))
    return rows


def _rows(
    way: str,
    first_s: Float64[np.ndarray, " Q"],
    is_right: np.ndarray,
    alarm_s: Float64[np.ndarray, " Q"],
) -> list[ListeningRow]:
    found = []
    for after_s in AFTER_S:
        answered = first_s <= after_s
        right = (answered & is_right).mean()
        wrong = (answered & ~is_right).mean()
        alarms = (alarm_s <= after_s).mean()
        found.append(
            ListeningRow(way, after_s, len(first_s), float(right), float(wrong), float(alarms))
        )
    return found


def _first_answer(
    listen: Listener, searcher: ReferenceSearcher, samples: Float32[np.ndarray, " n"]
) -> tuple[float, str]:
    """Returns how much was heard at the first sure answer (infinity: none) and its track."""
    block = round(_BLOCK_S * searcher.embedder.sample_rate_hz)
    blocks = (samples[first : first + block] for first in range(0, len(samples), block))
    try:
        return next(listen(searcher, blocks), (np.inf, ""))
    except AudioError:  # silent
        return np.inf, ""


def _clip(searcher: ReferenceSearcher, blocks: Blocks) -> Iterator[tuple[float, str]]:
    for heard_s, answer in identify_growing(searcher, blocks, query="recording"):
        if answer.num_accepted:
            yield heard_s, answer.matches[0].track


def _monitor(searcher: ReferenceSearcher, blocks: Blocks) -> Iterator[tuple[float, str]]:
    heard_s = 0.0

    def counted() -> Iterator[Float32[np.ndarray, " n"]]:
        nonlocal heard_s
        for block in blocks:
            heard_s += len(block) / searcher.embedder.sample_rate_hz
            yield block

    for event in monitor(searcher, counted()):
        yield heard_s, event.found.track
