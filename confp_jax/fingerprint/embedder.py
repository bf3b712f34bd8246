"""Embedder: samples to fingerprints. Mel power is computed once for all overlapping windows; batch
shapes are fixed.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.contrast import clip_contrast
from confp_jax.audio.decode import from_samples
from confp_jax.audio.mel import mel_power
from confp_jax.audio.segments import Chunk, window_chunks
from confp_jax.database.records import ModelId
from confp_jax.errors import UserError
from confp_jax.fingerprint.engine import Engine, check_jax, load_engine
from confp_jax.fingerprint.fingerprints import TELLS_TEMPO_S, AudioError, Fingerprints
from confp_jax.fingerprint.windows import SPEEDUP, WindowedClip, batch_sizes, cut_windows
from confp_jax.model.addresses import is_remote
from confp_jax.model.forked import check_not_forked
from confp_jax.model.parts import mixed, moved_phases
from confp_jax.model.shipped import DECISION, shipped_folder, shipped_identity, shipped_models
from confp_jax.typed_config import suggestion

DEFAULT_MODEL = "edge2"
HOP_S = 0.3  # between fingerprints (paper)
SHORTEST_S = 1.0  # what can be encoded at all
_STREAM_WINDOWS = 64
_PROJECTED_AT_ONCE = 32  # segments of one matrix product


class UnknownModelError(UserError):
    """Neither a shipped model nor a checkpoint folder."""


class Embedder:
    """An encoder ready for use: `embed` for arrays, `fingerprint` for audio already at the model's
    rate.
    """

    def __init__(self, name: str, engine: Engine, *, folder: pathlib.Path | None = None):
        self.name, self.engine, self.folder = name, engine, folder
        self.config, self.identity = engine.config, engine.identity
        self._batches = engine.batch_shapes
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")

    @property
    def sample_rate_hz(self) -> int:
        """The rate that `fingerprint` expects."""
        return self.config.audio.sample_rate_hz

    @property
    def model_id(self) -> ModelId:
        """What a database of its fingerprints is marked with."""
        return ModelId(self.name, self.identity, HOP_S)

    def embed(
        self, samples: np.ndarray, *, sample_rate_hz: int, hop_s: float = HOP_S
    ) -> Float32[np.ndarray, "N E"]:
        """Returns the fingerprints of all segments as unit vectors, `hop_s` apart.

        Audio shorter than a segment has those of the windows that hold it.

        Args:
          samples: [n] or [n, channels], float or integer PCM, at least 1 s long.
          sample_rate_hz: of `samples`; anything from 4 to 768 kHz.
          hop_s: distance of the segments' starts in seconds.

        Raises:
          DecodeError: the samples have a wrong shape, or are not finite.
          AudioError: the samples are shorter than 1 s.

        Examples:
          >>> fingerprints = encoder.embed(samples, sample_rate_hz=16_000)
          >>> fingerprints.shape, fingerprints.dtype
          ((11, 640), dtype('float32'))
        """
        mono = from_samples(samples, from_hz=sample_rate_hz, to_hz=self.sample_rate_hz)
        return self.fingerprint(mono, hop_s=hop_s).vectors

    @property
    def precision(self) -> str:
        """How a new database stores its fingerprints: those with a projection are as good as their
        signs.
        """
        return "binary" if self.config.encoder.has_projection else "float16"

    @property
    def query_phases(self) -> int:
        """How many times as densely as stored fingerprints those of a query lie."""
        return self.config.query_phases

    @property
    def margin_samples(self) -> int:
        """How far around a segment there is audio that its fingerprint depends on."""
        audio, reach = self.config.audio, 0
        if self.config.encoder.has_projection:
            projection = self.config.encoder.projection
            reach = (
                3 * (projection.contrast.box_frames // 2) * projection.mel.hop_samples
                + projection.mel.fft_samples // 2
            )
        return max(reach, (audio.context_samples - audio.segment_samples + 1) // 2)

    def fingerprint(
        self, samples: Float32[np.ndarray, " n"], *, hop_s: float = HOP_S, is_query: bool = False
    ) -> Fingerprints:
        """Fingerprints of mono audio at the model's rate.

        Audio shorter than the model's segment has partial ones: of segments of 3 s 7 windows of 1
        s, 4 of 2 s, 1 of 2.8 s. Those of a query have what only a query has (`Fingerprints`); what
        is stored has none of it.

        Raises:
          AudioError: shorter than 1 s.
        """
        return self.fingerprint_many([samples], hop_s=hop_s, is_query=is_query)[0]

    def fingerprint_many(
        self,
        clips: Sequence[Float32[np.ndarray, " n"]],
        *,
        hop_s: float = HOP_S,
        is_query: bool = False,
    ) -> list[Fingerprints]:
        """What `fingerprint` gives for each clip; their windows share batches, so many short clips
        cost little more than one.

        Raises:
          AudioError: one of them is shorter than 1 s.
        """
        if not hop_s * self.sample_rate_hz >= 1:
            raise ValueError(
                f"hop_s={hop_s} must be at least one sample, 1 / {self.sample_rate_hz} s; 0.3 is "
                "usual"
            )
        for samples in clips:
            self.check_length(len(samples))
        segment = self.config.audio.segment_samples
        cut = functools.partial(self._cut, hop_s=hop_s)
        cuts = [cut(samples, is_query=is_query) for samples in clips]
        longest = segment + round(TELLS_TEMPO_S * self.sample_rate_hz)
        twice = [
            place
            for place, samples in enumerate(clips)
            if is_query and segment <= len(samples) < longest
        ]
        faster = [cut(clips[place], tempo=SPEEDUP) for place in twice]
        found = self._fingerprints([*cuts, *faster], hop_s=hop_s, is_dense=is_query)
        for place, prints in zip(twice, found[len(clips) :], strict=True):
            found[place] = dataclasses.replace(found[place], faster=prints)
        return found[: len(clips)]

    def fingerprint_chunk(
        self, chunk: Chunk, *, hop_s: float = HOP_S, is_query: bool = False
    ) -> Fingerprints:
        """Returns the fingerprints of a piece of a stream (`chunk_windows`), dense ones of a query.

        Raises:
          AudioError: the whole stream is shorter than 1 s.
        """
        if chunk.is_whole:
            return self.fingerprint(chunk.samples, hop_s=hop_s, is_query=is_query)
        cut = self._cut(chunk.samples, hop_s=hop_s, lead=chunk.lead, num=chunk.num_windows)
        return self._fingerprints([cut], hop_s=hop_s, is_dense=is_query)[0]

    def chunk_windows(
        self,
        blocks: Iterable[Float32[np.ndarray, " n"]],
        *,
        hop_s: float = HOP_S,
        windows_per_chunk: int,
    ) -> Iterator[Chunk]:
        """Cuts mono audio at the model's rate into pieces for `fingerprint_chunk`, with all that
        their windows depend on.
        """
        return window_chunks(
            blocks,
            segment_samples=self.config.audio.segment_samples,
            hop_samples=round(hop_s * self.sample_rate_hz),
            windows_per_chunk=windows_per_chunk,
            margin_samples=self.margin_samples,
        )

    def stream(
        self,
        blocks: Iterable[Float32[np.ndarray, " n"]],
        *,
        hop_s: float = HOP_S,
        windows_at_once: int = _STREAM_WINDOWS,
    ) -> Iterator[Fingerprints]:
        """The fingerprints of a query that comes in blocks (mono, at the model's rate), a few at a
        time: memory is bounded.

        All together they are what `fingerprint` would give for the whole, and a whole shorter than
        a segment is one of them. Overhanging windows are there where the whole is one part.

        Raises:
          AudioError: the whole is shorter than 1 s, or nothing at all.
        """
        for chunk in self.chunk_windows(blocks, hop_s=hop_s, windows_per_chunk=windows_at_once):
            if not len(chunk.samples):
                raise AudioError(
                    "holds no audio samples", "check that the recording was written completely"
                )
            yield self.fingerprint_chunk(chunk, hop_s=hop_s, is_query=True)

    def _cut(
        self, samples: Float32[np.ndarray, " n"], *, hop_s: float, **options: Any
    ) -> WindowedClip:
        audio = self.config.audio
        context = audio.context_samples if self.config.encoder.has_projection else 0
        hop = round(hop_s * self.sample_rate_hz)
        return cut_windows(
            samples, segment=audio.segment_samples, hop=hop, context=context, **options
        )

    def check_length(self, num_samples: int) -> None:
        """Whether there is enough audio.

        Raises:
          AudioError: shorter than 1 s.
        """
        if num_samples < SHORTEST_S * self.sample_rate_hz:
            raise AudioError(
                f"{num_samples / self.sample_rate_hz:.2f} s of audio is too short",
                f"at least {SHORTEST_S:.0f} s is needed, {self.config.audio.heard_s:.0f} "
                "s and more is better",
            )

    def warm_up(self) -> None:
        """Compiles every shape that audio can have, so that no later call waits for the
        compiler.
        """
        rng, hop = np.random.default_rng(0), round(HOP_S * self.sample_rate_hz)
        for size in self._batches:
            num_samples = self.config.audio.segment_samples + (size - 1) * hop
            num_samples = max(num_samples, round(SHORTEST_S * self.sample_rate_hz))
            self.fingerprint(rng.uniform(-0.5, 0.5, num_samples).astype(np.float32))

    def _fingerprints(
        self, cuts: Sequence[WindowedClip], *, hop_s: float, is_dense: bool
    ) -> list[Fingerprints]:
        """The fingerprints of every clip, its silent ones zero; with those between them, if
        `is_dense`.

        Raises:
          ForkedError: the model was loaded before this process was forked.
        """
        check_not_forked()
        config, num_phases = self.config.encoder, self.query_phases if is_dense else 1
        contrasts = self._threads.map(self._contrast, cuts if config.has_projection else ())
        conformed = self._conformed(cuts) if config.has_conformer else []
        if not config.has_projection:
            return [
                self._of_cut(cut, rows[None], hop_s)
                for cut, rows in zip(cuts, conformed, strict=True)
            ]
        projected = self._projected(
            cuts, contrasts, [phase * hop_s / num_phases for phase in range(num_phases)]
        )
        if not config.has_conformer:
            phases = [mixed(rows, rows, share=1.0) for rows in projected]
            return [self._of_cut(cut, rows, hop_s) for cut, rows in zip(cuts, phases, strict=True)]
        moved = [moved_phases(rows, num_phases) for rows in conformed]
        return [
            self._of_both(self._of_cut(cut, first, hop_s), second, is_dense)
            for cut, first, second in zip(cuts, projected, moved, strict=True)
        ]

    def _of_both(
        self, projected: Fingerprints, conformed: Float32[np.ndarray, "P N E"], is_query: bool
    ) -> Fingerprints:
        """Fingerprints that hold what the projection gives, made those of both parts."""
        config = self.config.encoder.projection
        both = np.concatenate([projected.vectors[None], projected.between])
        alone = conformed * (np.any(both, axis=-1, keepdims=True) / np.sqrt(1 - config.share))
        both = mixed(both, conformed, share=config.query_share if is_query else config.share)
        by_conformer = alone.astype(np.float32) if is_query else projected.by_conformer
        return dataclasses.replace(
            projected, vectors=both[0], between=both[1:], by_conformer=by_conformer
        )

    def _of_cut(
        self, cut: WindowedClip, phases: Float32[np.ndarray, "P N E"], hop_s: float
    ) -> Fingerprints:
        before, own, after = np.split(
            phases[0], [cut.num_edge_windows, len(phases[0]) - cut.num_edge_windows]
        )
        heard_s, segment_s = (
            len(cut.samples) / cut.tempo / self.sample_rate_hz,
            self.config.audio.segment_s,
        )
        is_partial, edge_windows = heard_s < segment_s, np.stack([before, after])
        return Fingerprints(
            own, hop_s, min(heard_s, segment_s), is_partial, edge_windows, between=phases[1:]
        )

    def _projected(
        self,
        cuts: Sequence[WindowedClip],
        contrasts: Iterable[Float32[np.ndarray, "T F"]],
        shifts_s: Sequence[float],
    ) -> list[Float32[np.ndarray, "P N E"]]:
        """What the projection gives for the segments of every clip, and for those that begin a
        little later.
        """
        config, batch = self.config.encoder.projection, _PROJECTED_AT_ONCE
        found, windows, places = [], [], []
        for number, (cut, contrast) in enumerate(zip(cuts, contrasts, strict=True)):
            found.append(
                np.zeros(
                    (len(shifts_s), len(cut.segments), self.config.encoder.embedding_dim),
                    np.float32,
                )
            )
            for phase, shift_s in enumerate(shifts_s):
                shifted = cut.segments[cut.loud] + round(shift_s * self.sample_rate_hz)
                first = np.round(shifted / config.mel.hop_samples).astype(np.int64)
                whole = first + config.num_frames <= len(contrast)
                windows += [contrast[at : at + config.num_frames] for at in first[whole]]
                places += [(number, phase, row) for row in cut.loud[whole]]
        batches = [np.stack(windows[i : i + batch]) for i in range(0, len(windows), batch)]
        vectors = itertools.chain.from_iterable(self._threads.map(self.engine.project, batches))
        for (number, phase, row), vector in zip(places, vectors, strict=True):
            found[number][phase, row] = vector
        return found

    def _contrast(self, cut: WindowedClip) -> Float32[np.ndarray, "T F"]:
        config = self.config.encoder.projection
        return clip_contrast(
            cut.samples, config, sample_rate_hz=self.sample_rate_hz, tempo=cut.tempo
        )

    def _conformed(self, cuts: Sequence[WindowedClip]) -> list[Float32[np.ndarray, "N E"]]:
        """What the conformer gives for every clip's windows, zero for silence.

        Windows begin on `mel_hop / gcd` different phases of the frame grid: one STFT for each (2
        for 300 ms).
        """
        mel = self.config.mel
        phases = [
            (number, phase)
            for number, cut in enumerate(cuts)
            for phase in cut.phases(mel.hop_samples)
        ]

        def transform(of: tuple[int, int]) -> Float32[np.ndarray, "T F"]:
            cut, offset = cuts[of[0]], round(cuts[of[0]].tempo * of[1])
            return mel_power(
                cut.samples,
                mel,
                sample_rate_hz=self.sample_rate_hz,
                offset_samples=offset,
                tempo=cut.tempo,
            )

        powers = dict(zip(phases, self._threads.map(transform, phases), strict=True))
        found = [
            np.zeros((len(cut.starts), self.config.encoder.embedding_dim), np.float32)
            for cut in cuts
        ]
        windows = [(number, int(row)) for number, cut in enumerate(cuts) for row in cut.loud]
        ends = itertools.accumulate(batch_sizes(len(windows), self._batches), initial=0)
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
        """The fingerprints of windows (clip, row); `powers` by clip and phase."""
        mel = self.config.mel
        num_frames = mel.num_frames(self.config.audio.context_samples)
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
        return self.engine.conform(power, seen)


def load_encoder(
    model: str | pathlib.Path = DEFAULT_MODEL, *, engine: str | None = None
) -> Embedder:
    """Loads a model, ready for use.

    Args:
      model: a shipped model by name, a checkpoint folder (gs:// as well; of a training run, one
        step of it, or an exported encoder), or an ONNX file of `confp export`.
      engine: "onnx", "int8", "jax", or None: what the environment's CONFP_ENGINE names, else JAX
        on an accelerator and ONNX Runtime in float32 on a CPU.

    Raises:
      UnknownModelError: neither a shipped name nor a folder or ONNX file.
      CheckpointError: it holds no encoder of this project, or a damaged one.
      EngineError: the engine is not installed, or has no file of this model.
      ForkedError: this process was forked from one in which a model was loaded.

    Examples:
      >>> encoder = confp_jax.load_encoder("edge2")
      >>> encoder.sample_rate_hz, encoder.precision
      (16000, 'binary')
    """
    name = str(model)
    folder = _place_of(name)
    if folder is None:
        raise UnknownModelError(
            f"{name!r} is neither a shipped model nor a checkpoint folder or ONNX "
            f"file{suggestion(name, shipped_models())}"
        )
    check_not_forked()
    loaded = load_engine(folder, engine)
    is_named = name in shipped_models() or is_remote(name)
    full_name = name if is_named else str(folder.resolve())
    return Embedder(full_name, loaded, folder=_home(folder, loaded.identity))


def _place_of(name: str) -> pathlib.Path | None:
    """Where a model lies, None if there is none."""
    if is_remote(name):
        check_jax(name)
        from confp_jax.fingerprint.jax_engine import bucket_folder

        return bucket_folder(name)
    is_shipped = name in shipped_models()
    place = shipped_folder(name) if is_shipped else pathlib.Path(name).expanduser().absolute()
    return place if place.is_dir() or (place.suffix == ".onnx" and place.is_file()) else None


def _home(source: pathlib.Path, identity: str) -> pathlib.Path:
    """Where a model's calibration lies: beside an ONNX file, or with the shipped model that it was
    made of.
    """
    folder = source.parent if source.suffix == ".onnx" else source
    if (folder / DECISION).is_file():
        return folder
    made_of = (name for name in shipped_models() if shipped_identity(name) == identity)
    return next(map(shipped_folder, made_of), folder)


def model_card(name: str) -> dict:
    """What card.json says of a shipped model: parameters, data, measured hit rates, licence."""
    file = shipped_folder(name) / "card.json"
    return json.loads(file.read_text()) if file.is_file() else {}
