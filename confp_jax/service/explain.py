"""Why an answer is what it is: spectrograms, the similarity along the recording, the runner-up and
the margin.
"""

import base64
import dataclasses
import math

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.mel import mel_power
from confp_jax.config import MelConfig
from confp_jax.matching.blocks import BLOCK_WINDOWS
from confp_jax.matching.query_windows import centres_s
from confp_jax.matching.ranking import Ranking, rank
from confp_jax.service.engine import Identification

SHOWN_S = 12.0  # of a match: what is compared and drawn
_COLUMNS = 240
_RANGE_DB = 60.0


@dataclasses.dataclass(frozen=True)
class Place:
    """The stretch that is explained: in the recording, and in the best track (an index into the
    snapshot's tracks).
    """

    track: int
    query_s: float
    length_s: float
    track_s: float
    track_length_s: float


def place_of(heard: Identification) -> Place | None:
    """Returns where the best match lies; None where the database is empty."""
    spans = heard.result.accepted or heard.result.nearest
    if not spans:
        return None
    best = spans[0]
    length_s = min(best.length_s, SHOWN_S)
    return Place(best.track, best.query_s, length_s, best.track_s, length_s * best.tempo)


def compare(heard: Identification, place: Place) -> dict[str, object]:
    """Returns similarity for each second, runner-up and margin."""
    query = heard.query
    first = round(place.query_s / query.hop_s)
    first = max(0, min(first, len(query.vectors) - 1))
    some = query.part(first, first + BLOCK_WINDOWS)
    ranking = rank(some, heard.view.searcher.reference)
    own = ranking.only(place.track)
    others = ranking.without(place.track)
    if not len(own.tracks):
        return {"scores": [], "runner_up": None, "margin": None}
    second = None
    if len(others.tracks):
        track = heard.view.searcher.reference.snapshot.tracks[int(others.tracks[0])]
        names = {"id": track.id, "track": track.name, "title": track.title, "artist": track.artist}
        second = names | {"score": round(float(others.scores[0]), 4)}
    margin = round(float(own.scores[0] - others.scores[0]), 4) if second else None
    centres = (
        np.full(len(some.vectors), query.duration_s / 2)
        if query.is_partial
        else centres_s(some) + first * query.hop_s
    )
    return {
        "scores": _each_second(own, centres, query.segment_s),
        "runner_up": second,
        "margin": margin,
    }


def _each_second(own: Ranking, centres: np.ndarray, segment_s: float) -> list[dict[str, float]]:
    """Returns the mean cosine of the windows that hold each second's middle."""
    begin_s = centres[0] - segment_s / 2
    end_s = centres[-1] + segment_s / 2
    seconds = []
    for second in range(math.floor(begin_s + 0.01), math.ceil(end_s - 0.01)):
        middle = min(max(second + 0.5, begin_s), end_s)
        holding = np.abs(centres - middle) <= segment_s / 2 + 1e-6
        if holding.any():
            score = round(float(own.cosines[0][holding].mean()), 4)
            seconds.append({"query_offset_s": float(second), "score": score})
    return seconds


def cut(
    samples: Float32[np.ndarray, " n"], start_s: float, length_s: float, rate_hz: int
) -> Float32[np.ndarray, " m"]:
    """Returns a stretch of samples."""
    first = max(0, round(start_s * rate_hz))
    return samples[first : first + round(length_s * rate_hz)]


def spectrogram(
    samples: Float32[np.ndarray, " n"], mel: MelConfig, *, sample_rate_hz: int
) -> dict[str, object] | None:
    """Returns what the model hears, to be drawn: rows of mel bands, low ones first, 0 to 255 for
    the loudest 60 dB; base64.

    None where there is too little to draw.
    """
    power = mel_power(samples, mel, sample_rate_hz=sample_rate_hz)
    if len(power) < 2:
        return None
    edges = np.linspace(0, len(power), min(_COLUMNS, len(power)) + 1).astype(int)
    columns = np.add.reduceat(power, edges[:-1], axis=0) / np.diff(edges)[:, None]
    level_db = 10 * np.log10(np.maximum(columns, 1e-12) / max(float(columns.max()), 1e-12))
    shades = np.clip(255 * (1 + level_db / _RANGE_DB), 0, 255).astype(np.uint8).T
    pixels = base64.b64encode(np.ascontiguousarray(shades).tobytes()).decode()
    length_s = len(samples) / sample_rate_hz
    return {
        "num_bands": shades.shape[0],
        "num_columns": shades.shape[1],
        "length_s": round(length_s, 3),
        "pixels": pixels,
    }
