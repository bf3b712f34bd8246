"""The calls a user makes of a database: open it, identify clips."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence

from confp_jax.audio.decode import DecodeError, decode, find_audio
from confp_jax.retrieval.database import Database, DatabaseError, ModelStamp
from confp_jax.retrieval.embed import DEFAULT_MODEL, HOP_S, AudioError, Embedder, Fingerprints, UnknownModelError, load_encoder
from confp_jax.retrieval.index.generation import open_index
from confp_jax.retrieval.match import rank
from confp_jax.training.checkpoint import CheckpointError

NUM_MATCHES = 5


@dataclasses.dataclass(frozen=True)
class FoundTrack:
    """One candidate."""

    track: str
    path: str
    offset_s: float  # where in the track the query begins
    score: float  # mean cosine along the match, at most 1


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one query. `notes` says what was unusual, `error` why there is no answer."""

    query: str
    verdict: str  # "match" or "unknown"
    matches: list[FoundTrack]
    elapsed_s: float
    margin: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)
    error: str = ""


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
        raise DatabaseError(
            f"{folder} was made with model {stamp.name!r} ({stamp.identity}), not with {embedder.name!r} "
            f"({embedder.identity}): their fingerprints cannot be compared; leave --model out, or add the music to a new database"
        )
    return database, embedder


def open_or_create(folder: str | pathlib.Path, model: str | None, *, precision: str | None = None) -> tuple[Database, Embedder]:
    """As `open_database`; makes the database (with the default model unless one is named) where there is none.

    Raises:
      DatabaseError: as there, or the database stores its vectors in another precision.
    """
    if (pathlib.Path(folder) / "catalogue.sqlite").exists():
        database, embedder = open_database(folder, model)
        if precision not in (None, database.precision):
            raise DatabaseError(f"{folder} stores vectors as {database.precision}; leave --precision out, or make a new database")
        return database, embedder
    embedder = load_encoder(model or DEFAULT_MODEL)
    stamp = ModelStamp(embedder.name, embedder.identity, HOP_S)
    return Database.create(folder, stamp, precision=precision or "float16"), embedder


def identify_files(database: Database, embedder: Embedder, queries: Sequence[pathlib.Path]) -> Iterator[Answer]:
    """One answer a query, in order, as they come; the index is built once."""
    snapshot = database.snapshot()
    index = open_index(database, snapshot)
    hop_s = database.stamp.hop_s
    for path in [file for query in queries for file in find_audio([query]) or [query]]:
        began = time.perf_counter()
        try:
            if path.is_dir():
                raise DecodeError(f"{path}: a folder without audio files")
            samples = decode(path, sample_rate_hz=embedder.sample_rate_hz).samples
            fingerprints = embedder.fingerprint(samples, hop_s=hop_s)
            if fingerprints.num_silent == len(fingerprints.vectors):
                raise AudioError("is silent; record it louder or closer to the source")
        except (DecodeError, AudioError) as error:
            yield Answer(str(path), "unknown", [], round(time.perf_counter() - began, 4), error=reason(path, error))
            continue
        ranking = rank(fingerprints.vectors, snapshot, index, hop_s=hop_s, decision=embedder.decision)
        notes = length_notes(fingerprints, embedder)
        matches = []
        for match in ranking.matches[:NUM_MATCHES]:
            track = snapshot.tracks[match.track]
            matches.append(FoundTrack(track.name, track.path, round(match.offset_s, 3), round(match.score, 4)))
        verdict = "match" if matches and ranking.margin >= embedder.decision.margin else "unknown"
        elapsed_s = round(time.perf_counter() - began, 4)
        yield Answer(str(path), verdict, matches, elapsed_s, round(ranking.margin, 4), notes)


def reason(path: pathlib.Path, error: Exception) -> str:
    """The error's message, with the file's name before it."""
    return str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}"


def length_notes(fingerprints: Fingerprints, embedder: Embedder) -> list[str]:
    """What to tell of audio that is shorter than the model's segment."""
    segment_s = embedder.config.audio.segment_s
    if fingerprints.segment_s >= segment_s:
        return []
    length = f"{fingerprints.segment_s:.2f} s"
    return [f"shorter than {segment_s:.0f} s: encoded at its own length ({length}), which is less reliable"]
