"""The queries that went wrong, worst first, with what they look like."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.mel import mel_power
from confp_jax.config import AudioConfig, MelConfig
from confp_jax.data.clips import ClipSource
from confp_jax.evaluation.measure.indexed_dataset import one_of_each
from confp_jax.evaluation.measure.query_results import Outcomes
from confp_jax.evaluation.measure.query_sets import QuerySet
from confp_jax.evaluation.measure.summary import RATES
from confp_jax.evaluation.report import figures

_MOST_A_PAIR = 2  # mistakes of the same two tracks


@dataclasses.dataclass(frozen=True)
class Failure:
    """A query whose best match is another track; `logit` is how sure the program was of it."""

    queries: QuerySet
    condition: str
    row: int
    track_id: int
    start_s: float
    tempo: float
    mistaken_id: int
    mistaken_s: float
    logit: float
    accepted: bool  # at 1 false alarm in 1,000: a user would have got the wrong name


def worst_failures(
    measured: Mapping[tuple[QuerySet, str], Outcomes], *, most: int
) -> list[Failure]:
    """Returns the mistakes, surest first; at most `_MOST_A_PAIR` of the same two tracks, so that
    one mistake is not shown ten times.
    """
    found = []
    for (queries, condition), one in measured.items():
        trials = one.trials
        for i in np.flatnonzero(~trials.right & (trials.known_track >= 0)):
            truth = (
                int(one.rows[i]),
                int(one.track_ids[i]),
                float(one.start_s[i]),
                float(one.tempo[i]),
            )
            accepted = bool(trials.known_rate[i] <= RATES[0])
            mistaken = (
                int(trials.known_track[i]),
                float(trials.offset_s[i]),
                float(trials.known_logit[i]),
                accepted,
            )
            found.append(Failure(queries, condition, *truth, *mistaken))
    found.sort(
        key=lambda failure: (-failure.logit, failure.condition, failure.row, failure.queries.name)
    )
    pairs: dict[tuple[int, int], int] = {}
    out = []
    for failure in found:
        pair = failure.track_id, failure.mistaken_id
        pairs[pair] = pairs.get(pair, 0) + 1
        if pairs[pair] <= _MOST_A_PAIR and len(out) < most:
            out.append(failure)
    return out


@dataclasses.dataclass(frozen=True)
class Sounds:
    """The index's clean clips by track id; `names` are their names in it."""

    places: dict[int, tuple[ClipSource, int]]
    names: dict[int, str]

    @classmethod
    def of(cls, folder: str | pathlib.Path, splits: Sequence[str]) -> "Sounds":
        """Returns a prepared dataset's sounds; copies of a recording under their group's id."""
        clips = one_of_each(folder, splits)
        ids = {group: str(source.row(record).track_id) for group, source, record in clips}
        names = {
            group: source.summary.track_names.get(ids[group], ids[group])
            for group, source, _ in clips
        }
        return cls({group: (source, record) for group, source, record in clips}, names)

    def part(self, track_id: int, begin_s: float, length_s: float) -> Float32[np.ndarray, " n"]:
        """Returns a part of a recording, padded with silence beyond the ends of its clip."""
        source, index = self.places[track_id]
        rate_hz = source.summary.sample_rate_hz
        row = source.row(index)
        begin = round((begin_s - row.start_s) * rate_hz)
        num = round(length_s * rate_hz)
        total = row.num_samples
        first, last = (min(max(at, 0), total) for at in (begin, begin + num))
        out = np.zeros(num, np.float32)
        out[first - begin : last - begin] = (
            source.crop(index, first, last).astype(np.float32) / 32768
        )
        return out


def spectrograms(failure: Failure, sounds: Sounds, audio: AudioConfig, mel: MelConfig) -> bytes:
    """PNG: the query, the true place, and what it was mistaken for, each as long as what the query
    plays of it.
    """
    source = ClipSource(failure.queries.folder, failure.condition)
    query = source[failure.row].samples.astype(np.float32) / 32768
    length_s = len(query) / audio.sample_rate_hz
    parts = {
        "query": query,
        "true place": sounds.part(failure.track_id, failure.start_s, length_s * failure.tempo),
        "mistaken for": sounds.part(failure.mistaken_id, failure.mistaken_s, length_s),
    }
    pictures = [(name, _log_mel(samples, audio, mel)) for name, samples in parts.items()]
    return figures.png(figures.draw_spectrograms, pictures, size=(9, 2.2), length_s=length_s)


def _log_mel(samples: Float32[np.ndarray, " n"], audio: AudioConfig, mel: MelConfig) -> np.ndarray:
    power = np.log(
        mel_power(samples, mel, sample_rate_hz=audio.sample_rate_hz, offset_samples=0) + 1e-6
    )
    return (power - power.mean()) / max(float(power.std()), 1e-6)
