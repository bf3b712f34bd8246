"""A query made of the vectors of its windows, wherever they were computed: here, in a browser, on a
phone.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int8

from confp_jax.config import ModelConfig
from confp_jax.fingerprint.query import TELLS_TEMPO_S, Later, Query
from confp_jax.fingerprint.windows import SPEEDUP, first_samples
from confp_jax.model.parts import mixed, unit_rows, with_halves


def query_of(
    phases: Float32[np.ndarray, "P N E"],
    num_samples: int,
    *,
    config: ModelConfig,
    hop_s: float,
    tempo: float = 1.0,
    num_edge_windows: int = 0,
) -> Query:
    """Returns the query of a clip.

    Args:
      phases: the vectors of its windows, and of those that begin a part of a hop later.
      num_samples: of the clip.
      config: of the model.
      hop_s: distance of the windows' starts, in seconds.
      tempo: at which the clip is heard.
      num_edge_windows: how many of the windows lie before the clip's own, and behind them.
    """
    before, own, after = np.split(phases[0], [num_edge_windows, len(phases[0]) - num_edge_windows])
    heard = heard_of(num_samples, config, tempo=tempo)
    edge_windows = np.stack([before, after])
    return Query(own, hop_s, *heard, edge_windows=edge_windows, between=phases[1:])


def heard_of(num_samples: int, config: ModelConfig, *, tempo: float = 1.0) -> tuple[float, bool]:
    """Returns how much of a clip a window holds, in seconds, and whether that is less than it
    could.
    """
    heard_s = num_samples / tempo / config.audio.sample_rate_hz
    segment_s = config.audio.segment_s
    return min(heard_s, segment_s), heard_s < segment_s


def conformer_phases(
    rows: Float32[np.ndarray, "N E"], config: ModelConfig
) -> Float32[np.ndarray, "2 N E"]:
    """Returns what a query is searched by of a conformer beside a projection: for its segments, and
    for those half a hop later. It changes slowly, so that these lie between their neighbours.
    Products with stored fingerprints are the cosines of the conformer's parts.
    """
    length = 1 / np.sqrt(1 - config.encoder.projection.share)
    return (length * with_halves(rows)).astype(np.float32)


def sped_up_below(config: ModelConfig) -> int:
    """Returns from how many samples on a clip tells its tempo: shorter ones that fill a window are
    also searched for at `SPEEDUP`.
    """
    audio = config.audio
    return audio.segment_samples + round(TELLS_TEMPO_S * audio.sample_rate_hz)


def has_both_parts(config: ModelConfig) -> bool:
    """Returns whether an encoder has a projection and a conformer, as `QueryRows` needs."""
    return config.encoder.has_projection and config.encoder.has_conformer


def packed_rows(query: Query) -> Int8[np.ndarray, "R E"]:
    """Returns the rows of `QueryRows` that make a query of a model with both parts. Each vector is
    scaled so that its greatest value becomes 127: the cosine of what is lost is above 0.9999.

    Raises:
      ValueError: the query has no conformer's part.
    """
    if query.by_conformer is None:
        raise ValueError("a query of a model with one part: expected a projection and a conformer")
    conformed = query.by_conformer()
    faster = [] if conformed.sped_up is None else [conformed.sped_up.vectors]
    rows = np.concatenate([query.vectors, *query.between, conformed.vectors, *faster])
    greatest = np.abs(rows).max(axis=1, keepdims=True)
    return np.rint(127 * rows / np.where(greatest > 0, greatest, 1)).astype(np.int8)


@dataclasses.dataclass(frozen=True)
class QueryRows:
    """Which vectors make the query of a clip by a model that has both parts: the projection's of
    each phase after the other, the conformer's, and the conformer's of the clip played faster.

    A row of bytes gives a vector's direction, which is all that counts; a silent window's is zero.
    """

    num_samples: int
    config: ModelConfig
    hop_s: float

    @property
    def shape(self) -> tuple[int, int]:
        """Returns how many rows there are, and the length of each."""
        num = (self.config.query_phases + 1) * self._num_windows(1.0) + self._num_sped_up
        return num, self.config.encoder.embedding_dim

    def query(self, rows: Int8[np.ndarray, "R E"]) -> Query:
        """Returns the query that has these vectors, of `shape`."""
        num = self._num_windows(1.0)
        num_phases = self.config.query_phases
        given = rows.astype(np.float32)
        projected = given[: num_phases * num].reshape(num_phases, num, -1)
        conformed = given[num_phases * num :]
        by_conformer = self._conformed(conformed[:num], 1.0)
        if self._num_sped_up:
            sped_up = self._conformed(conformed[num:], SPEEDUP)
            by_conformer = dataclasses.replace(by_conformer, sped_up=sped_up)
        return dataclasses.replace(
            self._made(mixed(projected, projected, share=1.0), 1.0),
            by_conformer=Later.of(lambda: by_conformer, num),
        )

    @property
    def _num_sped_up(self) -> int:
        audio = self.config.audio
        is_short = audio.segment_samples <= self.num_samples < sped_up_below(self.config)
        return self._num_windows(SPEEDUP) if is_short else 0

    def _num_windows(self, tempo: float) -> int:
        audio = self.config.audio
        hop = round(self.hop_s * audio.sample_rate_hz)
        return len(first_samples(int(self.num_samples / tempo), audio.segment_samples, hop))

    def _conformed(self, rows: Float32[np.ndarray, "N E"], tempo: float) -> Query:
        return self._made(conformer_phases(unit_rows(rows), self.config), tempo)

    def _made(self, phases: Float32[np.ndarray, "P N E"], tempo: float) -> Query:
        return query_of(phases, self.num_samples, config=self.config, hop_s=self.hop_s, tempo=tempo)
