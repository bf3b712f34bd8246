"""A database ready to be searched, and the answers it gives."""

import dataclasses
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode_blocks
from confp_jax.audio.errors import Losses
from confp_jax.audio.folders import find_audio, is_folder
from confp_jax.audio.microphone import MICROPHONE, microphone_blocks
from confp_jax.audio.stream import STDIN, is_url, stream_blocks
from confp_jax.database import Database, StoredTrack, TrackTags
from confp_jax.fingerprint.embedder import HOP_S, Embedder
from confp_jax.fingerprint.files import reason
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.fingerprint.query import Query
from confp_jax.library.open import database_decision, open_reference
from confp_jax.matching.blocks import Scan, joined_blocks
from confp_jax.matching.decision import FALSE_ALARM_RATE, TAIL_SHARE, Decision
from confp_jax.matching.searchable import Reference
from confp_jax.matching.spans import Span, accepted

NUM_MATCHES = 5


@dataclasses.dataclass(frozen=True)
class NamedTrack:
    """A track by what distinguishes it from others."""

    id: int  # never given to another track
    track: str
    path: str
    title: str
    artist: str
    album: str


@dataclasses.dataclass(frozen=True)
class Match:
    """One candidate: the track's moment `offset_s` sounds at the query's moment
    `query_offset_s`.
    """

    track: str
    path: str
    offset_s: float
    score: float  # mean cosine along the match, at most 1
    confidence: float  # probability that it is right
    query_offset_s: float
    length_s: float  # in the query
    tempo: float  # above 1 the query is played faster than the track
    id: int  # never given to another track
    title: str
    artist: str
    album: str
    tags: TrackTags = TrackTags()
    # other tracks that hold the same recording at this place
    copies: list[NamedTrack] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one query. `notes` says what was unusual, `error` why there is no answer.

    `matches` are the accepted spans, surest first, and after them the nearest other tracks;
    `num_accepted` tells them apart.
    """

    query: str
    verdict: str  # "match" or "unknown"
    matches: list[Match]
    elapsed_s: float
    num_accepted: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    error: str = ""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found: the spans that are accepted, surest first, the nearest of other tracks,
    and what was unusual.
    """

    accepted: list[Span]
    nearest: list[Span]
    notes: list[str]


class ReferenceSearcher:
    """What can be searched, made ready to be asked. Threads may share it.

    Raises:
      ValueError: the rate of false alarms is none.
    """

    def __init__(
        self,
        reference: Reference,
        embedder: Embedder,
        decision: Decision,
        *,
        false_alarm_rate: float | None = None,
    ):
        self.reference = reference
        self.embedder = embedder
        self.decision = decision
        self.false_alarm_rate = FALSE_ALARM_RATE if false_alarm_rate is None else false_alarm_rate
        if not 0 < self.false_alarm_rate < TAIL_SHARE:
            raise ValueError(
                f"false_alarm_rate={false_alarm_rate} must lie between 0 and {TAIL_SHARE}; 0.001 "
                "is usual"
            )

    def identify_file(self, path: pathlib.Path) -> Answer:
        """Answers a file of any length, read as a stream; of a bad one the `error` is set."""
        began = time.perf_counter()
        try:
            if is_folder(path):
                raise DecodeError("a folder without audio files", subject=path)
            losses = Losses()
            rate_hz = self.embedder.sample_rate_hz
            blocks = decode_blocks(path, sample_rate_hz=rate_hz, losses=losses)
            answer = self.identify_blocks(blocks, query=str(path))
            return dataclasses.replace(answer, notes=answer.notes + losses.notes())
        except (DecodeError, AudioError, OSError) as error:
            return _failed(str(path), began, error)

    def identify_blocks(self, blocks: Iterable[Float32[np.ndarray, " n"]], *, query: str) -> Answer:
        """Answers mono audio at the model's rate that comes in blocks.

        Raises:
          AudioError: shorter than 1 s, or silent throughout.
          DecodeError: what `blocks` raises.
        """
        began = time.perf_counter()
        result = self.search(self.embedder.stream(blocks, hop_s=self.reference.hop_s))
        return self.answer(query, result, began=began)

    def search(self, parts: Iterable[Query], *, share: float = 1.0) -> SearchResult:
        """Finds the tracks in consecutive fingerprints of one recording.

        The rate of false alarms is the whole recording's: each of its searches may have its part
        of it.

        Args:
          share: of the rate of false alarms that this search may have, where a recording is asked
            about several times.

        Raises:
          AudioError: silent throughout.
        """
        scanning = Scan(self.reference, self.decision, keep_all=True)
        spans, heard_s, silent = [], 0.0, True
        for block in joined_blocks(parts):
            silent &= not block.query.vectors.any()
            spans += scanning.push(block)
            heard_s = block.start_s + block.query.duration_s
        if silent:
            raise AudioError("is silent", "record it louder or closer to the source")
        rate = share * self.false_alarm_rate / scanning.num_trials
        right = sorted(accepted(spans, false_alarm_rate=rate), key=lambda span: -span.logit)
        named = {track for span in right for track in (span.track, *span.copies)}
        others = []
        for span in sorted(spans, key=lambda span: -span.logit):
            if span.track not in named and len(right) + len(others) < NUM_MATCHES:
                named.update((span.track, *span.copies))
                others.append(span)
        notes = length_notes(heard_s, self.embedder)
        if not self.decision.calibrated:
            notes.append("this model has no calibration (decision.json): the verdict is a guess")
        return SearchResult(right, others, notes)

    def found(self, span: Span) -> Match:
        """Returns a span in a user's terms."""
        tracks = self.reference.snapshot.tracks
        track = tracks[span.track]
        return Match(
            track=track.name,
            path=track.path,
            offset_s=round(span.track_s, 3),
            score=round(min(span.score, 1.0), 4),
            confidence=round(span.confidence, 4),
            query_offset_s=round(span.query_s, 3),
            length_s=round(span.length_s, 3),
            tempo=round(span.tempo, 3),
            id=track.id,
            title=track.title,
            artist=track.artist,
            album=track.album,
            tags=track.tags or TrackTags(),
            copies=[_named(tracks[other]) for other in span.copies],
        )

    def answer(self, query: str, result: SearchResult, *, began: float) -> Answer:
        """Returns what was found in a user's terms; `began` is by `time.perf_counter`."""
        matches = [self.found(span) for span in (*result.accepted, *result.nearest)]
        num, elapsed_s = len(result.accepted), round(time.perf_counter() - began, 4)
        return Answer(query, "match" if num else "unknown", matches, elapsed_s, num, result.notes)


class Searcher(ReferenceSearcher):
    """A database made ready to be asked: its snapshot, index and decision of one moment."""

    def __init__(
        self,
        database: Database,
        embedder: Embedder,
        *,
        false_alarm_rate: float | None = None,
        build_index: bool = True,
        remote: str = "",
    ):
        super().__init__(
            open_reference(database, embedder, build_index=build_index, remote=remote),
            embedder,
            database_decision(database, embedder),
            false_alarm_rate=false_alarm_rate,
        )


def identify_sources(searcher: Searcher, sources: Sequence[str]) -> Iterator[Answer]:
    """Yields one answer a query, in order, as they come.

    A folder stands for the audio files in it, "-" for standard input.
    """
    for source in sources:
        if source != STDIN:
            found = find_audio([pathlib.Path(source)])
            for _, error in found.failed:
                yield Answer(source, "unknown", [], 0.0, error=error)
            for path in found.files or ([] if found.failed else [pathlib.Path(source)]):
                yield searcher.identify_file(path)
            continue
        began = time.perf_counter()
        try:
            losses = Losses()
            blocks = source_blocks(source, searcher.embedder, losses)
            answer = searcher.identify_blocks(blocks, query=source)
            yield dataclasses.replace(answer, notes=answer.notes + losses.notes())
        except (DecodeError, AudioError) as error:
            yield _failed(source, began, error)


def source_blocks(
    source: str, embedder: Embedder, losses: Losses | None = None
) -> Iterator[Float32[np.ndarray, " n"]]:
    """Yields the audio of a file, an address, standard input ("-") or the microphone in blocks;
    `losses` are told what of it is damaged.
    """
    rate_hz = embedder.sample_rate_hz
    if source == MICROPHONE and is_stream(source):
        return microphone_blocks(sample_rate_hz=rate_hz)
    if is_stream(source):
        return stream_blocks(source, sample_rate_hz=rate_hz, losses=losses)
    return decode_blocks(pathlib.Path(source), sample_rate_hz=rate_hz, losses=losses)


def _named(track: StoredTrack) -> NamedTrack:
    return NamedTrack(track.id, track.name, track.path, track.title, track.artist, track.album)


def is_stream(source: str) -> bool:
    """Whether a source is standard input, an address or the microphone, not a file."""
    is_named = is_url(source) or source == MICROPHONE
    return source == STDIN or (is_named and not pathlib.Path(source).exists())


def _failed(query: str, began: float, error: Exception) -> Answer:
    return Answer(
        query,
        "unknown",
        [],
        round(time.perf_counter() - began, 6),
        error=reason(pathlib.Path(query), error),
    )


def length_notes(heard_s: float, embedder: Embedder) -> list[str]:
    """Returns the notes on audio shorter than what one of the model's fingerprints hears."""
    usual_s = embedder.config.audio.heard_s
    if not embedder.config.audio.context_s:
        return (
            [f"shorter than {usual_s:.0f} s ({heard_s:.2f} s), which is less reliable"]
            if heard_s < usual_s
            else []
        )
    # What is heard ends with a whole segment, up to a hop before the audio does.
    return (
        [f"shorter than {usual_s:.0f} s, which is less reliable"]
        if heard_s <= usual_s - HOP_S
        else []
    )
