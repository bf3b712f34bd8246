"""Embedder: samples to fingerprints. Mel power is computed once for all overlapping windows; batch shapes are fixed."""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import from_samples
from confp_jax.audio.mel import mel_power
from confp_jax.config import TrainConfig
from confp_jax.mapping import suggestion
from confp_jax.model.compiler import has_fast_bfloat16
from confp_jax.model.conformer import with_narrow_kernels
from confp_jax.model.shipped import shipped_folder, shipped_models
from confp_jax.retrieval.database.records import ModelStamp
from confp_jax.retrieval.windows import FASTER, Cut, batch_shapes, batch_sizes, cut_windows
from confp_jax.training.checkpoint import EncoderState, encoder_identity, load_encoder_state
from confp_jax.training.step import embed as embed_power

DEFAULT_MODEL = "edge"
HOP_S = 0.3  # between fingerprints (paper)
SHORTEST_S = 1.0  # what can be encoded at all
_TELLS_TEMPO_S = 1.5  # windows spread over less tell nothing of the tempo
_STREAM_WINDOWS = 64


class AudioError(ValueError):
    """Audio that cannot be fingerprinted; the message says why and what would do."""


class UnknownModelError(ValueError):
    """Neither a shipped model nor a checkpoint folder."""


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """Fingerprints at a constant hop. A window of silence has the zero vector: it is similar to nothing.

    Audio shorter than a segment is in all of its windows, each of which holds it at another place and sees nothing beyond it.
    Those of a query have overhanging windows beside them, which see a part of it: K begin before it, K end after it. One that
    fills a window but is too short to tell its tempo also has those of what it sounds like played `FASTER` times as fast.
    """

    vectors: Float32[np.ndarray, "N E"]
    hop_s: float
    segment_s: float  # of audio in a window
    is_partial: bool = False  # the audio is shorter than a window
    overhang: Float32[np.ndarray, "2 K E"] = dataclasses.field(default_factory=lambda: np.zeros((2, 0, 0), np.float32))
    faster: "Fingerprints | None" = None

    @property
    def num_silent(self) -> int:
        """How many windows were silent."""
        return int((~self.vectors.any(axis=1)).sum())

    @property
    def overhangs(self) -> bool:
        """Whether it has windows that overhang."""
        return self.overhang.shape[1] > 0

    @property
    def tells_tempo(self) -> bool:
        """Whether its windows spread far enough to be found apart."""
        return not self.is_partial and (len(self.vectors) - 1) * self.hop_s >= _TELLS_TEMPO_S

    @property
    def duration_s(self) -> float:
        """Of the audio that the windows hold."""
        return self.segment_s if self.is_partial else (len(self.vectors) - 1) * self.hop_s + self.segment_s

    @property
    def loud_s(self) -> float:
        """The same without the windows of silence."""
        return self.duration_s if self.is_partial else self.duration_s - self.num_silent * self.hop_s

    def part(self, first: int, last: int) -> "Fingerprints":
        """The windows from `first` to before `last`; what only a whole query has, if these are all."""
        vectors = self.vectors[first:last]
        return dataclasses.replace(self if len(vectors) == len(self.vectors) else self.plain(), vectors=vectors)

    def plain(self) -> "Fingerprints":
        """The same without what only a whole query has."""
        return dataclasses.replace(self, overhang=self.overhang[:, :0], faster=None)


def joined(parts: Sequence[Fingerprints]) -> Fingerprints:
    """Consecutive fingerprints of one recording as one."""
    if len(parts) == 1:
        return parts[0]
    first, last = parts[0], parts[-1]
    both = first.overhang.shape == last.overhang.shape
    overhang = np.stack([first.overhang[0], last.overhang[1]]) if both else first.overhang[:, :0]
    return dataclasses.replace(first.plain(), vectors=np.concatenate([part.vectors for part in parts]), overhang=overhang)


class Embedder:
    """An encoder ready for use: `embed` for arrays, `fingerprint` for audio already at the model's rate."""

    def __init__(self, name: str, config: TrainConfig, state: EncoderState, *, folder: pathlib.Path | None = None):
        self.name, self.config, self.folder = name, config, folder
        self.identity = encoder_identity(config, state)
        self._state = state
        self._params = with_narrow_kernels(state.params) if has_fast_bfloat16() else state.params
        num_tokens = config.mel.num_frames(config.audio.segment_samples) // config.encoder.frames_per_token
        self._batches = batch_shapes(num_tokens, on_cpu=jax.default_backend() == "cpu")
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="encode")

    @property
    def sample_rate_hz(self) -> int:
        """The rate that `fingerprint` expects."""
        return self.config.audio.sample_rate_hz

    @property
    def stamp(self) -> ModelStamp:
        """What a database of its fingerprints is marked with."""
        return ModelStamp(self.name, self.identity, HOP_S)

    def embed(self, samples: np.ndarray, *, sample_rate_hz: int, hop_s: float = HOP_S) -> Float32[np.ndarray, "N E"]:
        """Unit vectors of all segments, `hop_s` apart; of audio shorter than one, those of the windows that hold it.

        Args:
          samples: [n] or [n, channels], float or integer PCM, at least 1 s long.
          sample_rate_hz: of `samples`; anything from 4 to 768 kHz.
          hop_s: distance of the segments' starts in seconds.

        Raises:
          DecodeError: samples of a wrong shape, or not finite.
          AudioError: shorter than 1 s.
        """
        mono = from_samples(samples, from_hz=sample_rate_hz, to_hz=self.sample_rate_hz)
        return self.fingerprint(mono, hop_s=hop_s).vectors

    def fingerprint(self, samples: Float32[np.ndarray, " n"], *, hop_s: float = HOP_S, is_query: bool = False) -> Fingerprints:
        """Fingerprints of mono audio at the model's rate; of 1 to 3 s, partial ones: 7 windows of 1 s, 4 of 2 s, 1 of 2.8 s.

        Those of a query have overhanging windows as well, and from 3 to 4.5 s are also heard faster; what is stored has neither.

        Raises:
          AudioError: shorter than 1 s.
        """
        return self.fingerprint_many([samples], hop_s=hop_s, is_query=is_query)[0]

    def fingerprint_many(
        self, clips: Sequence[Float32[np.ndarray, " n"]], *, hop_s: float = HOP_S, is_query: bool = False
    ) -> list[Fingerprints]:
        """What `fingerprint` gives for each clip; their windows share batches, so many short clips cost little more than one.

        Raises:
          AudioError: one of them is shorter than 1 s.
        """
        if not hop_s * self.sample_rate_hz >= 1:
            raise ValueError(f"hop_s={hop_s} must be at least one sample, 1 / {self.sample_rate_hz} s; 0.3 is usual")
        for samples in clips:
            self.check_length(len(samples))
        segment, hop = self.config.audio.segment_samples, round(hop_s * self.sample_rate_hz)
        cuts = [cut_windows(samples, segment=segment, hop=hop, is_query=is_query) for samples in clips]
        longest = segment + round(_TELLS_TEMPO_S * self.sample_rate_hz)
        twice = [place for place, samples in enumerate(clips) if is_query and segment <= len(samples) < longest]
        faster = [cut_windows(clips[place], segment=segment, hop=hop, tempo=FASTER) for place in twice]
        vectors = self._encode([*cuts, *faster])
        found = [self._of_cut(cut, rows, hop_s) for cut, rows in zip([*cuts, *faster], vectors, strict=True)]
        for place, prints in zip(twice, found[len(clips) :], strict=True):
            found[place] = dataclasses.replace(found[place], faster=prints)
        return found[: len(clips)]

    def _of_cut(self, cut: Cut, vectors: Float32[np.ndarray, "N E"], hop_s: float) -> Fingerprints:
        before, own, after = np.split(vectors, [cut.num_beyond, len(vectors) - cut.num_beyond])
        heard_s, segment_s = len(cut.samples) / cut.tempo / self.sample_rate_hz, self.config.audio.segment_s
        return Fingerprints(own, hop_s, min(heard_s, segment_s), heard_s < segment_s, np.stack([before, after]))

    def stream(
        self,
        blocks: Iterable[Float32[np.ndarray, " n"]],
        *,
        hop_s: float = HOP_S,
        windows_at_once: int = _STREAM_WINDOWS,
        is_query: bool = False,
    ) -> Iterator[Fingerprints]:
        """The fingerprints of audio that comes in blocks (mono, at the model's rate), a few at a time: memory is bounded.

        All together they are what `fingerprint` would give for the whole, and a whole shorter than a segment is one of them.
        The overhanging windows of a query are there where the whole is one part.

        Raises:
          AudioError: the whole is shorter than 1 s, or nothing at all.
        """
        segment, hop = self.config.audio.segment_samples, round(hop_s * self.sample_rate_hz)
        needed = segment + (windows_at_once - 1) * hop
        parts: list[np.ndarray] = [np.zeros(0, np.float32)]
        held, given = 0, False
        for block in blocks:
            parts.append(block)
            held += len(block)
            while held >= needed:
                samples = np.concatenate(parts)
                yield self.fingerprint(samples[:needed], hop_s=hop_s)
                parts, given = [samples[windows_at_once * hop :]], True
                held = len(parts[0])
        if not held and not given:
            raise AudioError("holds no audio samples; check that the recording was written completely")
        if held >= segment or not given:
            yield self.fingerprint(np.concatenate(parts), hop_s=hop_s, is_query=is_query and not given)

    def check_length(self, num_samples: int) -> None:
        """Whether there is enough audio.

        Raises:
          AudioError: shorter than 1 s.
        """
        if num_samples < SHORTEST_S * self.sample_rate_hz:
            raise AudioError(
                f"{num_samples / self.sample_rate_hz:.2f} s of audio is too short; at least {SHORTEST_S:.0f} s is needed, "
                f"{self.config.audio.segment_s:.0f} s and more is better"
            )

    def warm_up(self) -> None:
        """Compiles every shape that audio can have, so that no later call waits for the compiler."""
        rng, hop = np.random.default_rng(0), round(HOP_S * self.sample_rate_hz)
        for size in self._batches:
            num_samples = self.config.audio.segment_samples + (size - 1) * hop
            self.fingerprint(rng.uniform(-0.5, 0.5, num_samples).astype(np.float32))

    def _encode(self, cuts: Sequence[Cut]) -> list[Float32[np.ndarray, "N E"]]:
        """The vectors of every clip's windows, those of silence zero.

        Windows begin on `mel_hop / gcd` different phases of the frame grid: one STFT for each (2 for 300 ms).
        """
        mel = self.config.mel
        phases = [(number, phase) for number, cut in enumerate(cuts) for phase in cut.phases(mel.hop_samples)]

        def transform(of: tuple[int, int]) -> Float32[np.ndarray, "T F"]:
            cut, offset = cuts[of[0]], round(cuts[of[0]].tempo * of[1])
            return mel_power(cut.samples, mel, sample_rate_hz=self.sample_rate_hz, offset_samples=offset, tempo=cut.tempo)

        powers = dict(zip(phases, self._threads.map(transform, phases), strict=True))
        found = [np.zeros((len(cut.starts), self.config.encoder.embedding_dim), np.float32) for cut in cuts]
        windows = [(number, int(row)) for number, cut in enumerate(cuts) for row in cut.loud]
        ends = itertools.accumulate(batch_sizes(len(windows), self._batches), initial=0)
        batches = [windows[first:last] for first, last in itertools.pairwise(ends)]
        encoded = self._threads.map(lambda batch: self._encode_batch(batch, cuts, powers), batches)
        for batch, vectors in zip(batches, encoded, strict=True):
            for (number, row), vector in zip(batch, vectors, strict=False):
                found[number][row] = vector
        return found

    def _encode_batch(
        self,
        windows: Sequence[tuple[int, int]],
        cuts: Sequence[Cut],
        powers: Mapping[tuple[int, int], Float32[np.ndarray, "T F"]],
    ) -> Float32[np.ndarray, "B E"]:
        """The fingerprints of windows (clip, row), and of what fills the batch up behind them; `powers` by clip and phase."""
        mel = self.config.mel
        num_frames = mel.num_frames(self.config.audio.segment_samples)
        size = next(size for size in self._batches if size >= len(windows))
        power = np.ones((size, num_frames, mel.num_mels), np.float32)
        seen = np.tile(np.array([0, num_frames], np.int32), (size, 1))
        for place, (number, row) in enumerate(windows):
            cut = cuts[number]
            frame, phase = divmod(int(cut.starts[row]), mel.hop_samples)
            num_seen = mel.num_frames(int(cut.lengths[row]))
            first_seen = min(round(int(cut.places[row]) / mel.hop_samples), num_frames - num_seen)
            seen[place] = first_seen, first_seen + num_seen
            power[place, first_seen : first_seen + num_seen] = powers[number, phase][frame : frame + num_seen]
        return np.asarray(embed_power(self._params, self._state.statistics, power, seen, config=self.config))


def load_encoder(model: str | pathlib.Path = DEFAULT_MODEL) -> Embedder:
    """A shipped model by name ("edge"), or a checkpoint folder: of a training run, one step of it, or an exported encoder.

    Raises:
      UnknownModelError: neither a shipped name nor a folder.
      CheckpointError: the folder holds no encoder of this project.
    """
    name = str(model)
    is_shipped = name in shipped_models()
    folder = shipped_folder(name) if is_shipped else pathlib.Path(model)
    if not folder.is_dir():
        raise UnknownModelError(
            f"{name!r} is neither a shipped model nor a checkpoint folder{suggestion(name, shipped_models())}"
        )
    config, state = load_encoder_state(folder)
    return Embedder(name if is_shipped else str(folder.resolve()), config, state, folder=folder)


def model_card(name: str) -> dict:
    """What card.json says of a shipped model: parameters, data, measured hit rates, licence."""
    file = shipped_folder(name) / "card.json"
    return json.loads(file.read_text()) if file.is_file() else {}
