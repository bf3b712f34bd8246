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

    Attributes:
      track: the track's name.
      path: of its file when it was added.
      offset_s: where the match begins in the track, in seconds.
      score: mean cosine along the match, at most 1.
      confidence: probability that it is right, 0 to 1.
      query_offset_s: where the match begins in the query, in seconds.
      length_s: how long it is in the query, in seconds.
      tempo: above 1 the query is played faster than the track.
      id: the track's number, which no other track ever gets.
      title: from the tags; "" if unknown, like artist and album.
      artist: from the tags.
      album: from the tags.
      tags: further tags.
      copies: other tracks that hold the same recording at this place.
    """

    track: str
    path: str
    offset_s: float
    score: float
    confidence: float
    query_offset_s: float
    length_s: float
    tempo: float
    id: int
    title: str
    artist: str
    album: str
    tags: TrackTags = TrackTags()
    copies: list[NamedTrack] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one query.

    Attributes:
      query: the file or other source, as it was given.
      verdict: "match" or "unknown".
      matches: the accepted ones, surest first, then the nearest other tracks.
      elapsed_s: how long the search took, in seconds.
      num_accepted: how many of `matches` are accepted.
      notes: what was unusual in the query.
      error: why there is no answer; "" if there is one.
    """

    query: str
    verdict: str
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
    """A reference with the model and the decision that it is searched by. Threads may share it.

    Args:
      reference: the tracks that are searched, with their index.
      embedder: of the same model; computes the fingerprints of queries.
      decision: turns a ranking into a probability and a threshold.
      false_alarm_rate: proportion of unknown queries that may be answered; None: 0.001.

    Raises:
      ValueError: `false_alarm_rate` is not between 0 and 0.05.
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
        """Identifies the tracks in a file of any length; of a bad one, the `error` is set."""
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
        """Identifies the tracks in audio that comes in blocks.

        Args:
          blocks: mono samples at the model's sample rate; all blocks are one recording.
          query: the name that the answer gives the recording.

        Raises:
          AudioError: shorter than 1 s, or silent throughout.
          DecodeError: what `blocks` raises.
        """
        began = time.perf_counter()
        result = self.search(self.embedder.stream(blocks, hop_s=self.reference.hop_s))
        return self.answer(query, result, began=began)

    def search(self, parts: Iterable[Query], *, alarm_budget: float = 1.0) -> SearchResult:
        """Finds the tracks in consecutive fingerprints of one recording.

        The false-alarm rate holds for the whole recording: it is divided among its searches.

        Args:
          parts: consecutive parts of one recording's query.
          alarm_budget: the fraction of the false-alarm rate that this search may use; less than 1
            for a recording that is searched several times.

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
        rate = alarm_budget * self.false_alarm_rate / scanning.num_trials
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
        """Returns a span of the reference as a `Match`."""
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
        """Returns a search result as an `Answer`.

        Args:
          query: the name of the query.
          result: what `search` returned.
          began: when the search began, by `time.perf_counter`.
        """
        matches = [self.found(span) for span in (*result.accepted, *result.nearest)]
        num, elapsed_s = len(result.accepted), round(time.perf_counter() - began, 4)
        return Answer(query, "match" if num else "unknown", matches, elapsed_s, num, result.notes)


class Searcher(ReferenceSearcher):
    """A database ready to be searched: its snapshot, index and decision of one moment.

    Args:
      database: the one to search.
      embedder: of the database's model.
      false_alarm_rate: proportion of unknown queries that may be answered; None: 0.001.
      build_index: build the index if it is missing or out of date.
      remote: a Milvus address to read the fingerprints from; "": the database's own files.

    Raises:
      DatabaseError: the database is damaged, or has another model.
      ValueError: `false_alarm_rate` is not between 0 and 0.05.
    """

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
    """Yields one answer for each query, in order.

    Args:
      searcher: what is searched.
      sources: audio files, folders (each audio file in them is a query), or "-" for standard input.

    Yields:
      An answer; a bad file has its `error` set, and the others follow.
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
    """Yields audio in blocks of mono samples at the model's sample rate.

    Args:
      source: a file, an address, "-" (standard input) or "microphone".
      embedder: whose sample rate it is.
      losses: records what is damaged.
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
    """Returns whether a source is standard input, an address or the microphone, not a file."""
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
