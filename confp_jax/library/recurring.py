"""`recurring`: which recordings are one message, and which sections come again."""

import contextlib
import dataclasses
import json
import logging
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from confp_jax.audio.folders import find_audio
from confp_jax.database import Database, DatabaseError
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.library.add import Report, add_paths
from confp_jax.library.open import open_database, open_or_create, open_reference
from confp_jax.matching import recurring
from confp_jax.matching.recurring import compare_tracks, recurring_sections, recurring_tracks
from confp_jax.matching.searchable import Reference
from confp_jax.texts import parse_json

_log = logging.getLogger(__name__)
_SETTING = "recurring"  # of a database: the groups of its tracks so far
_NUM_ASKED = 24  # members that a representative is chosen by


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a group's sound lies in one recording; times in seconds."""

    id: int
    track: str
    path: str
    begin_s: float
    end_s: float
    duration_s: float  # of the recording


@dataclasses.dataclass(frozen=True)
class Group:
    """What recurs: the representative is the recording that most others share most with."""

    representative: str  # its path
    size: int
    places: list[Place]


@contextlib.contextmanager
def opened_sources(
    sources: Sequence[pathlib.Path],
    *,
    keep: pathlib.Path | None,
    model: str | None,
    report: Report,
) -> Iterator[tuple[Database, Embedder, int]]:
    """Opens a database, or fingerprints files and folders into one: `keep`, or one that is deleted
    afterwards. Also counts how many files failed.

    Raises:
      DatabaseError: a database among other sources, or no audio.
    """
    is_database = [(source / "catalogue.sqlite").exists() for source in sources]
    if is_database == [True] and keep is None:
        yield *open_database(sources[0], model), 0
        return
    if any(is_database):
        place = sources[is_database.index(True)]
        raise DatabaseError(
            f"{place} is a database: name it alone, or add the files to it first (`confp add "
            f"{place} FOLDER`)"
        )
    if not find_audio(sources).files:
        raise DatabaseError(
            f"no audio files found in {', '.join(map(str, sources))}; name files, folders of them, "
            "or a database"
        )
    with tempfile.TemporaryDirectory(prefix="confp_recurring_") as scratch:
        folder = keep or pathlib.Path(scratch) / "recordings.db"
        database, embedder = open_or_create(folder, model)
        added = add_paths(database, embedder, sources, report=report)
        yield database, embedder, sum(one.status == "failed" for one in added)


def recurring_messages(
    database: Database,
    embedder: Embedder,
    *,
    report: recurring.Report = lambda done, total: None,
) -> list[Group]:
    """Returns the groups of recordings that are the same message, whole or in part, largest first.

    The groups are kept in the database: the next time only new recordings are searched for.
    """
    reference = open_reference(database, embedder)
    tracks = reference.snapshot.tracks
    place_of = {track.id: place for place, track in enumerate(tracks)}
    before, last_id = known_groups(database)
    known = [[place_of[number] for number in group if number in place_of] for group in before]
    new = [place for place, track in enumerate(tracks) if track.id > last_id]
    found = recurring_tracks(
        reference, known=[group for group in known if group], new=new, report=report
    )
    with database.writing():
        last_id = max((track.id for track in tracks), default=0)
        groups = [[tracks[place].id for place in group] for group in found]
        database.set_setting(_SETTING, json.dumps({"last_id": last_id, "groups": groups}))
    return [_described(reference, group) for group in found]


def recurring_parts(
    database: Database,
    embedder: Embedder,
    *,
    shortest_s: float,
    longest_s: float,
    report: recurring.Report = lambda done, total: None,
) -> list[Group]:
    """Returns the sections that recur, those in most places first.

    Args:
      database: holds the recordings.
      embedder: of the database's model.
      shortest_s: the shortest section, in seconds.
      longest_s: the longest one, in seconds.
      report: called with how many recordings are done, and of how many.
    """
    reference = open_reference(database, embedder)
    found = recurring_sections(reference, shortest_s=shortest_s, longest_s=longest_s, report=report)
    groups = []
    for sections in found:
        places = [_place(reference, one.track, one.begin_s, one.end_s) for one in sections]
        longest = max(places, key=lambda place: place.end_s - place.begin_s)
        groups.append(Group(longest.path, len(places), places))
    return groups


def known_groups(database: Database) -> tuple[list[list[int]], int]:
    """Returns the groups (of ids) that were found before, and the newest track then; none where
    what was stored is damaged: all recordings are then searched for again.
    """
    text = database.setting(_SETTING)
    if text is None:
        return [], 0
    try:
        stored = parse_json(text)
        groups, last_id = stored["groups"], stored["last_id"]
        ids = [number for group in groups for number in group]
        if any(type(number) is not int for number in (last_id, *ids)) or len(set(ids)) < len(ids):
            raise ValueError("no groups of ids")
    except (ValueError, TypeError, KeyError) as error:
        _log.warning(
            "%s: the groups of `confp recurring` are damaged (%s); all recordings are searched for "
            "again",
            database.folder,
            error,
        )
        return [], 0
    return [list(group) for group in groups], last_id


def _described(reference: Reference, group: list[int]) -> Group:
    """Returns a group with its representative, and where in each recording lies what it shares with
    it.
    """
    asked = group[:: max(1, len(group) // _NUM_ASKED)]
    shared = {one: {other: _shared(reference, one, other) for other in asked} for one in asked}
    best = max(asked, key=lambda one: sum(end - begin for begin, end in shared[one].values()))
    places = []
    for member in group:
        begin_s, end_s = _shared(reference, member, best)
        places.append(_place(reference, member, begin_s, end_s))
    return Group(reference.snapshot.tracks[best].path, len(group), places)


def _shared(reference: Reference, track: int, other: int) -> tuple[float, float]:
    """Returns where the part of a track that another shares begins and ends; all, for itself."""
    if track == other:
        return 0.0, float(reference.lengths_s[track])
    runs = compare_tracks(reference, track, other, recurring.lines_of(reference, track, other)).runs
    begins_s = [run.track_s for run in runs]
    ends_s = [run.track_s + run.length_s for run in runs]
    return (min(begins_s), max(ends_s)) if runs else (0.0, 0.0)


def _place(reference: Reference, track: int, begin_s: float, end_s: float) -> Place:
    stored = reference.snapshot.tracks[track]
    return Place(
        stored.id,
        stored.name,
        stored.path,
        round(begin_s, 2),
        round(min(end_s, stored.duration_s), 2),
        round(stored.duration_s, 2),
    )
