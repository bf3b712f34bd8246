"""Embedder: samples to the fingerprints that are stored, and to the queries that are searched."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import from_samples
from confp_jax.audio.segments import Chunk, window_chunks
from confp_jax.database.records import ModelId
from confp_jax.fingerprint.clip_encoder import ClipEncoder
from confp_jax.fingerprint.engine import Engine, load_engine
from confp_jax.fingerprint.fingerprints import AudioError, Fingerprints
from confp_jax.fingerprint.places import DEFAULT_MODEL, UnknownModelError, home_of, place_of
from confp_jax.fingerprint.query import Later, Query
from confp_jax.fingerprint.query_rows import has_both_parts, heard_of, query_of, sped_up_below
from confp_jax.fingerprint.windows import SPEEDUP, WindowedClip, cut_windows
from confp_jax.model.addresses import is_remote
from confp_jax.model.forked import check_not_forked
from confp_jax.model.parts import mixed
from confp_jax.model.shipped import shipped_models
from confp_jax.typed_config import suggestion

HOP_S = 0.3  # between fingerprints (paper)
SHORTEST_S = 1.0  # what can be encoded at all
_STREAM_WINDOWS = 64


class Embedder:
    """An encoder ready for use: `embed` for arrays; `fingerprint` (to be stored) and `query` (to be
    searched) for audio at the model's sample rate. `load_encoder` makes one.
    """

    def __init__(self, name: str, engine: Engine, *, folder: pathlib.Path | None = None):
        self.name = name
        self.engine = engine
        self.folder = folder
        self.config = engine.config
        self.weights_hash = engine.weights_hash
        self._clips = ClipEncoder(engine)

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate that `fingerprint` and `query` expect, in Hz."""
        return self.config.audio.sample_rate_hz

    @property
    def model_id(self) -> ModelId:
        """Returns the identity that a database of its fingerprints has."""
        return ModelId(self.name, self.weights_hash, HOP_S)

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
        """Returns how a new database stores its fingerprints: those with a projection are as good
        as their signs.
        """
        return "binary" if self.config.encoder.has_projection else "float16"

    @property
    def query_phases(self) -> int:
        """Returns how many windows of a query start within one hop of the stored fingerprints."""
        return self.config.query_phases

    @property
    def margin_samples(self) -> int:
        """Returns how many samples on either side of a segment its fingerprint depends on."""
        audio = self.config.audio
        reach = 0
        if self.config.encoder.has_projection:
            projection = self.config.encoder.projection
            reach = (
                3 * (projection.contrast.box_frames // 2) * projection.mel.hop_samples
                + projection.mel.fft_samples // 2
            )
        return max(reach, (audio.context_samples - audio.segment_samples + 1) // 2)

    def fingerprint(
        self, samples: Float32[np.ndarray, " n"], *, hop_s: float = HOP_S
    ) -> Fingerprints:
        """Returns the fingerprints to be stored of one clip.

        A clip shorter than the model's segment has partial windows: with segments of 3 s, a clip
        of 1 s has 7 of them, one of 2 s 4, one of 2.8 s 1.

        Args:
          samples: [n], mono, at the model's sample rate.
          hop_s: distance of the windows' starts, in seconds.

        Raises:
          AudioError: shorter than 1 s.
        """
        return self.fingerprint_many([samples], hop_s=hop_s)[0]

    def fingerprint_many(
        self, clips: Sequence[Float32[np.ndarray, " n"]], *, hop_s: float = HOP_S
    ) -> list[Fingerprints]:
        """Returns what `fingerprint` gives for each clip. Their windows are encoded in common
        batches, so many short clips cost little more than one.

        Args:
          clips: [n] each, mono, at the model's sample rate.
          hop_s: distance of the windows' starts, in seconds.

        Raises:
          AudioError: one of them is shorter than 1 s.
        """
        self._check_clips(clips, hop_s)
        return self._stored([self._cut(samples, hop_s=hop_s) for samples in clips], hop_s)

    def stored_rows(self, query: Query) -> Float32[np.ndarray, "N E"]:
        """Returns what a database would store of a query's windows: by both parts of the encoder,
        where it has two.
        """
        if query.by_conformer is None:
            return query.vectors
        parts = query.vectors[None], query.by_conformer().vectors[None]
        return mixed(*parts, share=self.config.encoder.projection.share)[0]

    def query(self, samples: Float32[np.ndarray, " n"], *, hop_s: float = HOP_S) -> Query:
        """Returns the query of one clip; arguments and errors are those of `fingerprint`."""
        return self.query_many([samples], hop_s=hop_s)[0]

    def query_many(
        self, clips: Sequence[Float32[np.ndarray, " n"]], *, hop_s: float = HOP_S
    ) -> list[Query]:
        """Returns the query of each clip; arguments and errors are those of `fingerprint_many`."""
        self._check_clips(clips, hop_s)
        cuts = [self._cut(samples, hop_s=hop_s, with_edges=True) for samples in clips]
        segment = self.config.audio.segment_samples
        sped_up = [
            self._cut(samples, hop_s=hop_s, tempo=SPEEDUP)
            if segment <= len(samples) < sped_up_below(self.config)
            else None
            for samples in clips
        ]
        return self._queries(cuts, sped_up, hop_s)

    def fingerprint_chunk(self, chunk: Chunk, *, hop_s: float = HOP_S) -> Fingerprints:
        """Returns the fingerprints of a piece of a stream (`chunk_windows`), to be stored.

        Raises:
          AudioError: the whole stream is shorter than 1 s.
        """
        if chunk.is_whole:
            return self.fingerprint(chunk.samples, hop_s=hop_s)
        return self._stored([self._cut_chunk(chunk, hop_s)], hop_s)[0]

    def query_chunk(self, chunk: Chunk, *, hop_s: float = HOP_S) -> Query:
        """Returns a part of a stream's query; errors are those of `fingerprint_chunk`."""
        if chunk.is_whole:
            return self.query(chunk.samples, hop_s=hop_s)
        return self._queries([self._cut_chunk(chunk, hop_s)], [None], hop_s)[0]

    def chunk_windows(
        self,
        blocks: Iterable[Float32[np.ndarray, " n"]],
        *,
        hop_s: float = HOP_S,
        windows_per_chunk: int,
    ) -> Iterator[Chunk]:
        """Yields pieces of a stream for `fingerprint_chunk`, with all audio that their windows
        depend on.

        Args:
          blocks: [n] each, mono, at the model's sample rate.
          hop_s: distance of the windows' starts, in seconds.
          windows_per_chunk: how many windows start in a piece.
        """
        return window_chunks(
            blocks,
            segment_samples=self.config.audio.segment_samples,
            hop_samples=round(hop_s * self.sample_rate_hz),
            windows_per_chunk=windows_per_chunk,
            margin_samples=self.margin_samples,
        )

    def fingerprint_stream(
        self,
        blocks: Iterable[Float32[np.ndarray, " n"]],
        *,
        hop_s: float = HOP_S,
        windows_at_once: int = _STREAM_WINDOWS,
    ) -> Iterator[Fingerprints]:
        """Yields the fingerprints of a stream, a few windows at a time. Joined, they are what
        `fingerprint` gives for the whole.

        Args:
          blocks: [n] each, mono, at the model's sample rate.
          hop_s: distance of the windows' starts, in seconds.
          windows_at_once: how many windows are encoded at a time; bounds the memory.

        Raises:
          AudioError: the whole is shorter than 1 s.
        """
        for chunk in self.chunk_windows(blocks, hop_s=hop_s, windows_per_chunk=windows_at_once):
            yield self.fingerprint_chunk(chunk, hop_s=hop_s)

    def stream(
        self,
        blocks: Iterable[Float32[np.ndarray, " n"]],
        *,
        hop_s: float = HOP_S,
        windows_at_once: int = _STREAM_WINDOWS,
    ) -> Iterator[Query]:
        """Yields the parts of a stream's query; arguments are those of `fingerprint_stream`.

        Joined, they are what `query` gives for the whole, without edge windows. A stream shorter
        than a segment is one part, with edge windows.

        Raises:
          AudioError: the whole is shorter than 1 s, or nothing at all.
        """
        for chunk in self.chunk_windows(blocks, hop_s=hop_s, windows_per_chunk=windows_at_once):
            if not len(chunk.samples):
                raise AudioError(
                    "holds no audio samples", "check that the recording was written completely"
                )
            yield self.query_chunk(chunk, hop_s=hop_s)

    def _cut(
        self, samples: Float32[np.ndarray, " n"], *, hop_s: float, **options: Any
    ) -> WindowedClip:
        audio = self.config.audio
        context = audio.context_samples if self.config.encoder.has_projection else 0
        hop = round(hop_s * self.sample_rate_hz)
        return cut_windows(
            samples, segment=audio.segment_samples, hop=hop, context=context, **options
        )

    def _cut_chunk(self, chunk: Chunk, hop_s: float) -> WindowedClip:
        return self._cut(chunk.samples, hop_s=hop_s, lead=chunk.lead, num=chunk.num_windows)

    def _check_clips(self, clips: Sequence[Float32[np.ndarray, " n"]], hop_s: float) -> None:
        if not hop_s * self.sample_rate_hz >= 1:
            raise ValueError(
                f"hop_s={hop_s} must be at least one sample, 1 / {self.sample_rate_hz} s; 0.3 is "
                "usual"
            )
        for samples in clips:
            self.check_length(len(samples))

    def check_length(self, num_samples: int) -> None:
        """Checks whether there is enough audio.

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
        rng = np.random.default_rng(0)
        hop = round(HOP_S * self.sample_rate_hz)
        for size in self.engine.batch_shapes:
            num_samples = self.config.audio.segment_samples + (size - 1) * hop
            num_samples = max(num_samples, round(SHORTEST_S * self.sample_rate_hz))
            self.fingerprint(rng.uniform(-0.5, 0.5, num_samples).astype(np.float32))

    def _stored(self, cuts: Sequence[WindowedClip], hop_s: float) -> list[Fingerprints]:
        """Returns the fingerprints of every clip, its silent ones zero.

        Raises:
          ForkedError: the model was loaded before this process was forked.
        """
        rows = self._clips.stored(cuts)
        return [
            Fingerprints(vectors, hop_s, *heard_of(len(cut.samples), self.config, tempo=cut.tempo))
            for cut, vectors in zip(cuts, rows, strict=True)
        ]

    def _queries(
        self, cuts: Sequence[WindowedClip], sped_up: Sequence[WindowedClip | None], hop_s: float
    ) -> list[Query]:
        """Returns what every clip is searched by, silent windows zero; `sped_up` are the same clips
        played faster, where they are searched for so as well.

        Raises:
          ForkedError: the model was loaded before this process was forked.
        """
        shifts_s = [phase * hop_s / self.query_phases for phase in range(self.query_phases)]
        has_both = has_both_parts(self.config)
        faster = [] if has_both else [cut for cut in sped_up if cut is not None]
        found = self._clips.searched([*cuts, *faster], shifts_s)
        queries = [self._query_of(*one, hop_s) for one in zip([*cuts, *faster], found, strict=True)]
        own, others = queries[: len(cuts)], iter(queries[len(cuts) :])
        if not has_both:
            return [
                dataclasses.replace(query, sped_up=None if cut is None else next(others))
                for query, cut in zip(own, sped_up, strict=True)
            ]
        return [
            dataclasses.replace(query, by_conformer=self._by_conformer(cut, fast, hop_s))
            for query, cut, fast in zip(own, cuts, sped_up, strict=True)
        ]

    def _by_conformer(self, cut: WindowedClip, sped_up: WindowedClip | None, hop_s: float) -> Later:
        def encode() -> Query:
            cuts = [cut] if sped_up is None else [cut, sped_up]
            found = self._clips.conformer_alone(cuts)
            own, *fast = [self._query_of(*one, hop_s) for one in zip(cuts, found, strict=True)]
            return dataclasses.replace(own, sped_up=fast[0] if fast else None)

        return Later.of(encode, len(cut.segments) - 2 * cut.num_edge_windows)

    def _query_of(
        self, cut: WindowedClip, phases: Float32[np.ndarray, "P N E"], hop_s: float
    ) -> Query:
        return query_of(
            phases,
            len(cut.samples),
            config=self.config,
            hop_s=hop_s,
            tempo=cut.tempo,
            num_edge_windows=cut.num_edge_windows,
        )


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
    folder = place_of(name)
    if folder is None:
        raise UnknownModelError(
            f"{name!r} is neither a shipped model nor a checkpoint folder or ONNX "
            f"file{suggestion(name, shipped_models())}"
        )
    check_not_forked()
    loaded = load_engine(folder, engine)
    is_named = name in shipped_models() or is_remote(name)
    full_name = name if is_named else str(folder.resolve())
    return Embedder(full_name, loaded, folder=home_of(folder, loaded.weights_hash))
