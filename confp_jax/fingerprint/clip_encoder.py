"""Encodes the windows of clips: mel power is computed once for all overlapping windows, batch
shapes are fixed, windows of many clips share batches.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.contrast import clip_contrast
from confp_jax.audio.mel import mel_power
from confp_jax.fingerprint.engine import Engine
from confp_jax.fingerprint.query_rows import conformer_phases
from confp_jax.fingerprint.windows import WindowedClip, batch_sizes
from confp_jax.model.forked import check_not_forked
from confp_jax.model.parts import mixed

_PROJECTED_AT_ONCE = 32  # segments of one matrix product


class ClipEncoder:
    """Gives what the parts of an encoder, conformer and projection, make of windows."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._config = engine.config
        self._rate_hz = engine.config.audio.sample_rate_hz
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")

    def stored(self, cuts: Sequence[WindowedClip]) -> list[Float32[np.ndarray, "N E"]]:
        """Returns the fingerprints of every clip by all parts of the encoder, silent ones zero.

        Raises:
          ForkedError: the model was loaded before this process was forked.
        """
        check_not_forked()
        encoder = self._config.encoder
        if not encoder.has_projection:
            return self._conformed(cuts)
        projected = [rows[0] for rows in self._projected(cuts, [0.0])]
        if not encoder.has_conformer:
            return [mixed(rows, rows, share=1.0) for rows in projected]
        pairs = zip(projected, self._conformed(cuts), strict=True)
        return [mixed(*pair, share=encoder.projection.share) for pair in pairs]

    def searched(
        self, cuts: Sequence[WindowedClip], shifts_s: Sequence[float]
    ) -> list[Float32[np.ndarray, "P N E"]]:
        """Returns what every clip is searched by first, silent windows zero: what the projection
        gives for its segments and for those that begin `shifts_s` later. A conformer alone has one
        shift, 0.

        Raises:
          ForkedError: the model was loaded before this process was forked.
        """
        check_not_forked()
        if not self._config.encoder.has_projection:
            return [rows[None] for rows in self._conformed(cuts)]
        return [mixed(rows, rows, share=1.0) for rows in self._projected(cuts, shifts_s)]

    def conformer_alone(self, cuts: Sequence[WindowedClip]) -> list[Float32[np.ndarray, "2 N E"]]:
        """Returns what the conformer beside a projection gives for every clip, as
        `conformer_phases`.

        Raises:
          ForkedError: the model was loaded before this process was forked.
        """
        check_not_forked()
        return [conformer_phases(rows, self._config) for rows in self._conformed(cuts)]

    def _projected(
        self, cuts: Sequence[WindowedClip], shifts_s: Sequence[float]
    ) -> list[Float32[np.ndarray, "P N E"]]:
        """Returns what the projection gives for the segments of every clip, and for those that
        begin a little later.
        """
        config = self._config.encoder.projection
        batch = _PROJECTED_AT_ONCE
        found = []
        windows = []
        places = []
        contrasts = self._threads.map(self._contrast, cuts)
        for number, (cut, contrast) in enumerate(zip(cuts, contrasts, strict=True)):
            found.append(self._zeros(len(shifts_s), len(cut.segments)))
            for phase, shift_s in enumerate(shifts_s):
                shifted = cut.segments[cut.loud] + round(shift_s * self._rate_hz)
                first = np.round(shifted / config.mel.hop_samples).astype(np.int64)
                whole = first + config.num_frames <= len(contrast)
                windows += [contrast[at : at + config.num_frames] for at in first[whole]]
                places += [(number, phase, row) for row in cut.loud[whole]]
        batches = [np.stack(windows[i : i + batch]) for i in range(0, len(windows), batch)]
        vectors = itertools.chain.from_iterable(self._threads.map(self._engine.project, batches))
        for (number, phase, row), vector in zip(places, vectors, strict=True):
            found[number][phase, row] = vector
        return found

    def _contrast(self, cut: WindowedClip) -> Float32[np.ndarray, "T F"]:
        config = self._config.encoder.projection
        return clip_contrast(cut.samples, config, sample_rate_hz=self._rate_hz, tempo=cut.tempo)

    def _conformed(self, cuts: Sequence[WindowedClip]) -> list[Float32[np.ndarray, "N E"]]:
        """Returns what the conformer gives for every clip's windows, zero for silence.

        Windows begin on `mel_hop / gcd` different phases of the frame grid: one STFT for each (2
        for 300 ms).
        """
        mel = self._config.mel
        phases = [
            (number, phase)
            for number, cut in enumerate(cuts)
            for phase in cut.phases(mel.hop_samples)
        ]

        def transform(of: tuple[int, int]) -> Float32[np.ndarray, "T F"]:
            cut = cuts[of[0]]
            phase = of[1]
            return mel_power(
                cut.samples,
                mel,
                sample_rate_hz=self._rate_hz,
                offset_samples=round(cut.tempo * phase),
                tempo=cut.tempo,
            )

        powers = dict(zip(phases, self._threads.map(transform, phases), strict=True))
        found = [self._zeros(len(cut.starts)) for cut in cuts]
        windows = [(number, int(row)) for number, cut in enumerate(cuts) for row in cut.loud]
        sizes = batch_sizes(len(windows), self._engine.batch_shapes)
        ends = itertools.accumulate(sizes, initial=0)
        batches = [windows[first:last] for first, last in itertools.pairwise(ends)]
        encoded = self._threads.map(lambda batch: self._encode_batch(batch, cuts, powers), batches)
        for batch, vectors in zip(batches, encoded, strict=True):
            for (number, row), vector in zip(batch, vectors, strict=True):
                found[number][row] = vector
        return found

    def _encode_batch(
        self,
        windows: Sequence[tuple[int, int]],
        cuts: Sequence[WindowedClip],
        powers: Mapping[tuple[int, int], Float32[np.ndarray, "T F"]],
    ) -> Float32[np.ndarray, "B E"]:
        """Returns the fingerprints of windows (clip, row); `powers` by clip and phase."""
        mel = self._config.mel
        num_frames = mel.num_frames(self._config.audio.context_samples)
        power = np.ones((len(windows), num_frames, mel.num_mels), np.float32)
        seen = np.empty((len(windows), 2), np.int32)
        for place, (number, row) in enumerate(windows):
            cut = cuts[number]
            frame, phase = divmod(int(cut.starts[row]), mel.hop_samples)
            num_seen = mel.num_frames(int(cut.lengths[row]))
            first_seen = min(round(int(cut.places[row]) / mel.hop_samples), num_frames - num_seen)
            seen[place] = first_seen, first_seen + num_seen
            power[place, first_seen : first_seen + num_seen] = powers[number, phase][
                frame : frame + num_seen
            ]
        return self._engine.conform(power, seen)

    def _zeros(self, *shape: int) -> Float32[np.ndarray, "... E"]:
        return np.zeros((*shape, self._config.encoder.embedding_dim), np.float32)
