"""The calls a user makes of a database: open it, identify clips, compare recordings."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode_blocks, find_audio
from confp_jax.audio.stream import STDIN, is_url, stream_blocks
from confp_jax.retrieval.database import Database, DatabaseError
from confp_jax.retrieval.decision import FALSE_ALARM_RATE, TAIL_SHARE, Decision, load_decision
from confp_jax.retrieval.embed import DEFAULT_MODEL, HOP_S, Embedder, UnknownModelError, load_encoder
from confp_jax.retrieval.fingerprints import AudioError, Fingerprints, joined
from confp_jax.retrieval.index.generation import open_index
from confp_jax.retrieval.overlap import common_sections
from confp_jax.retrieval.reference import Reference
from confp_jax.retrieval.scan import Scan, joined_blocks
from confp_jax.retrieval.spans import Span, accepted
from confp_jax.training.checkpoint import CheckpointError

NUM_MATCHES = 5
CALIBRATION_SETTING = "calibration"  # of a database: what `confp calibrate` measured


@dataclasses.dataclass(frozen=True)
class FoundTrack:
    """One candidate: the track's moment `offset_s` sounds at the query's moment `query_offset_s`."""

    track: str
    path: str
    offset_s: float
    score: float  # mean cosine along the match, at most 1
    confidence: float  # probability that it is right
    query_offset_s: float
    length_s: float  # in the query
    tempo: float  # above 1 the query is played faster than the track


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one query. `notes` says what was unusual, `error` why there is no answer.

    `matches` are the accepted spans, surest first, and after them the nearest other tracks; `num_accepted` tells them apart.
    """

    query: str
    verdict: str  # "match" or "unknown"
    matches: list[FoundTrack]
    elapsed_s: float
    num_accepted: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a search found: the spans that are accepted, surest first, the nearest of other tracks, and what was unusual."""

    right: list[Span]
    others: list[Span]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class CommonSection:
    """A stretch of A, from `a_s` on, that sounds like B from `b_s` on; times in seconds."""

    a_s: float
    b_s: float
    length_s: float
    tempo: float
    score: float
    confidence: float


def open_database(folder: str | pathlib.Path, model: str | None) -> tuple[Database, Embedder]:
    """An existing database with its model.

    Raises:
      DatabaseError: no database, or `model` is another than the one it was made with.
    """
    database = Database(folder)
    stamp = database.stamp
    try:
        embedder = load_encoder(model or stamp.name)
    except (UnknownModelError, CheckpointError) as error:
        if model:
            raise
        raise DatabaseError(f"{folder} was made with {stamp.name}: {error}; say where it is now with --model") from error
    if embedder.identity != stamp.identity:
        other = f"{folder} was made with model {stamp.name!r} ({stamp.identity}), "
        if embedder.name != stamp.name:
            raise DatabaseError(
                f"{other}not with {embedder.name!r} ({embedder.identity}): their fingerprints cannot be compared; leave --model "
                f"out, or make the database one of {model} with `confp reindex {folder} --model {model}`"
            )
        raise DatabaseError(
            f"{other}which has other weights now ({embedder.identity}): their fingerprints cannot be compared; "
            f"`confp reindex {folder} --model {stamp.name}` makes those of its files anew, or --model FOLDER goes on with the "
            "old weights, if you have them"
        )
    return database, embedder


def open_or_create(folder: str | pathlib.Path, model: str | None, *, precision: str | None = None) -> tuple[Database, Embedder]:
    """As `open_database`; makes the database (with the default model unless one is named) where there is none.

    Raises:
      DatabaseError: as there, or the database stores its vectors in another precision.
    """
    catalogue = pathlib.Path(folder) / "catalogue.sqlite"
    embedder = None if catalogue.exists() else load_encoder(model or DEFAULT_MODEL)
    if embedder is None or catalogue.exists():  # also where another process has made it meanwhile
        database, embedder = open_database(folder, model)
        if precision not in (None, database.precision):
            raise DatabaseError(f"{folder} stores vectors as {database.precision}; leave --precision out, or make a new database")
        return database, embedder
    return Database.create(folder, embedder.stamp, precision=precision or embedder.precision), embedder


class Searcher:
    """A database made ready to be asked: its snapshot, index and decision of one moment. Threads may share it."""

    def __init__(
        self, database: Database, embedder: Embedder, *, false_alarm_rate: float | None = None, build_index: bool = True
    ):
        self.embedder = embedder
        self.reference = open_reference(database, embedder, build_index=build_index)
        self.decision = database_decision(database, embedder)
        self.false_alarm_rate = FALSE_ALARM_RATE if false_alarm_rate is None else false_alarm_rate
        if not 0 < self.false_alarm_rate < TAIL_SHARE:
            raise ValueError(f"false_alarm_rate={false_alarm_rate} must lie between 0 and {TAIL_SHARE}; 0.001 is usual")

    def identify_file(self, path: pathlib.Path) -> Answer:
        """The answer to a file; one that cannot be used has its `error` set. Hours are no matter: it is read as a stream."""
        began = time.perf_counter()
        try:
            if path.is_dir():
                raise DecodeError(f"{path}: a folder without audio files")
            return self.identify_blocks(decode_blocks(path, sample_rate_hz=self.embedder.sample_rate_hz), query=str(path))
        except (DecodeError, AudioError) as error:
            return _failed(str(path), began, error)

    def identify_blocks(self, blocks: Iterable[Float32[np.ndarray, " n"]], *, query: str) -> Answer:
        """The answer to mono audio at the model's rate that comes in blocks.

        Raises:
          AudioError: shorter than 1 s, or silent throughout.
          DecodeError: what `blocks` raises.
        """
        began = time.perf_counter()
        return self._answer(query, self.search(self.embedder.stream(blocks, hop_s=self.reference.hop_s)), began)

    def search(self, parts: Iterable[Fingerprints], *, share: float = 1.0) -> Findings:
        """What sounds in consecutive fingerprints of one recording.

        The rate of false alarms is the whole recording's: each of its searches may have its part of it.

        Args:
          share: of the rate of false alarms that this search may have, where a recording is asked about several times.

        Raises:
          AudioError: silent throughout.
        """
        scanning = Scan(self.reference, self.decision, keep_all=True)
        spans, heard_s, silent = [], 0.0, True
        for block in joined_blocks(parts):
            silent &= not block.fingerprints.vectors.any()
            spans += scanning.push(block)
            heard_s = block.start_s + block.fingerprints.duration_s
        if silent:
            raise AudioError("is silent; record it louder or closer to the source")
        rate = share * self.false_alarm_rate / scanning.num_trials
        right = sorted(accepted(spans, false_alarm_rate=rate), key=lambda span: -span.logit)
        named = {span.track for span in right}
        others = []
        for span in sorted(spans, key=lambda span: -span.logit):
            if span.track not in named and len(right) + len(others) < NUM_MATCHES:
                named.add(span.track)
                others.append(span)
        notes = length_notes(heard_s, self.embedder)
        if not self.decision.calibrated:
            notes.append("this model has no calibration (decision.json): the verdict is a guess")
        return Findings(right, others, notes)

    def found(self, span: Span) -> FoundTrack:
        """A span in a user's terms."""
        track = self.reference.snapshot.tracks[span.track]
        times = (round(value, 3) for value in (span.query_s, span.length_s, span.tempo))
        score, sure = round(min(span.score, 1.0), 4), round(span.confidence, 4)
        return FoundTrack(track.name, track.path, round(span.track_s, 3), score, sure, *times)

    def _answer(self, query: str, findings: Findings, began: float) -> Answer:
        matches = [self.found(span) for span in (*findings.right, *findings.others)]
        num, elapsed_s = len(findings.right), round(time.perf_counter() - began, 4)
        return Answer(query, "match" if num else "unknown", matches, elapsed_s, num, findings.notes)


def open_reference(database: Database, embedder: Embedder, *, build_index: bool = True) -> Reference:
    """The database as of now, ready to be searched. Without `build_index` a stale index is taken as it is, new rows exactly.

    Raises:
      OtherModelError: it has become another model's since it was opened.
    """
    expected = dataclasses.replace(embedder.stamp, hop_s=database.stamp.hop_s)
    database.stamp.must_fit(expected)
    snapshot = database.snapshot()
    index = open_index(database, snapshot, build=build_index)
    database.stamp.must_fit(expected)  # nor did it change while it was read
    segment_s, phases = embedder.config.audio.segment_s, embedder.query_phases
    return Reference(snapshot, index, hop_s=database.stamp.hop_s, segment_s=segment_s, query_phases=phases)


def database_decision(database: Database, embedder: Embedder) -> Decision:
    """The model's decision, with the tails that `confp calibrate` measured on this database, if it did.

    Raises:
      DecisionError: the model's calibration is damaged, of another version, or of another model.
    """
    decision = load_decision(embedder.folder, embedder.identity)
    stored = database.setting(CALIBRATION_SETTING)
    if stored is None:
        return decision
    measured = json.loads(stored)
    if measured["identity"] != embedder.identity or not decision.calibrated:
        return decision
    return decision.with_tails(measured["lengths_s"], np.array(measured["tails"]), num_tracks=measured["num_tracks"])


def identify_files(
    database: Database, embedder: Embedder, queries: Sequence[pathlib.Path], *, false_alarm_rate: float | None = None
) -> Iterator[Answer]:
    """One answer a query, in order, as they come; the index is built once. A folder stands for the audio files in it."""
    searcher = Searcher(database, embedder, false_alarm_rate=false_alarm_rate)
    for path in [file for query in queries for file in find_audio([query]) or [query]]:
        yield searcher.identify_file(path)


def identify_sources(searcher: Searcher, sources: Sequence[str]) -> Iterator[Answer]:
    """As `identify_files`, where "-" is standard input."""
    for source in sources:
        if source != STDIN:
            for path in find_audio([pathlib.Path(source)]) or [pathlib.Path(source)]:
                yield searcher.identify_file(path)
            continue
        began = time.perf_counter()
        try:
            yield searcher.identify_blocks(source_blocks(source, searcher.embedder), query=source)
        except (DecodeError, AudioError) as error:
            yield _failed(source, began, error)


def source_blocks(source: str, embedder: Embedder) -> Iterator[Float32[np.ndarray, " n"]]:
    """The audio of a file, an address, or standard input ("-") as blocks."""
    rate_hz = embedder.sample_rate_hz
    streams = source == STDIN or (is_url(source) and not pathlib.Path(source).exists())
    return (
        stream_blocks(source, sample_rate_hz=rate_hz) if streams else decode_blocks(pathlib.Path(source), sample_rate_hz=rate_hz)
    )


def compare_files(a: pathlib.Path, b: pathlib.Path, model: str | None) -> list[CommonSection]:
    """What two recordings have in common, in the order of the first.

    Raises:
      DecodeError: one of them cannot be decoded.
      AudioError: one of them is too short.
    """
    embedder = load_encoder(model or DEFAULT_MODEL)
    first, second = (fingerprint_file(path, embedder) for path in (a, b))
    spans = common_sections(first, second, load_decision(embedder.folder, embedder.identity))
    names = "query_s", "track_s", "length_s", "tempo", "score", "confidence"
    return [CommonSection(*(round(min(getattr(s, n), 1.0) if n == "score" else getattr(s, n), 4) for n in names)) for s in spans]


def fingerprint_file(path: pathlib.Path, embedder: Embedder) -> Fingerprints:
    """All fingerprints of a file, decoded as a stream.

    Raises:
      DecodeError: it cannot be decoded.
      AudioError: it is too short.
    """
    try:
        parts = list(embedder.stream(decode_blocks(path, sample_rate_hz=embedder.sample_rate_hz)))
    except AudioError as error:
        raise AudioError(reason(path, error)) from error
    return joined(parts)


def _failed(query: str, began: float, error: Exception) -> Answer:
    return Answer(query, "unknown", [], round(time.perf_counter() - began, 6), error=reason(pathlib.Path(query), error))


def reason(path: pathlib.Path, error: Exception) -> str:
    """The error's message, with the file's name before it."""
    return str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}"


def length_notes(heard_s: float, embedder: Embedder) -> list[str]:
    """What to tell of audio that is shorter than what one of the model's fingerprints hears."""
    usual_s = embedder.config.audio.heard_s
    if not embedder.config.audio.context_s:
        return [f"shorter than {usual_s:.0f} s ({heard_s:.2f} s), which is less reliable"] if heard_s < usual_s else []
    # What is heard ends with a whole segment, up to a hop before the audio does.
    return [f"shorter than {usual_s:.0f} s, which is less reliable"] if heard_s <= usual_s - HOP_S else []
