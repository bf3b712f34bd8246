"""Reports of what was played: tables, a cue sheet, and the columns that societies ask for."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confp_jax.database import DatabaseError
from confp_jax.database.shards import write_error
from confp_jax.files import write_atomically
from confp_jax.radio.air_log import (
    file_name,
    read_events,
    read_under_way,
    seconds_of,
    written_event,
)
from confp_jax.radio.plays import play_event
from confp_jax.radio.plays import read_plays as plays_of
from confp_jax.texts import plain

Event = dict[str, Any]
Row = Sequence[object]

_MOST_CUE_TRACKS = 99  # of a sheet
_NEEDED = {
    *("play", "at", "ended", "id", "track", "title", "artist", "album", "album_artist"),
    *("label", "isrc", "played_s", "gaps_s"),
}


@dataclasses.dataclass(frozen=True)
class Service:
    """What reports call a service."""

    name: str
    category: str = ""


def read_plays(log: pathlib.Path, day: str) -> list[Event]:
    """Returns the plays of a day (2026-11-30) or a month (2026-11), by station and time; those that
    are still under way, as far as they have come.

    Raises:
      DatabaseError: nothing was logged then.
    """
    files = sorted(log.glob(f"{day}*.jsonl"))
    if not files:
        raise DatabaseError(f"{log}: has no log of {day}; `confp radio` writes one a day")
    events = [event for path in files for event in read_events(path)]
    plays = [event for event in events if event["event"] == "play" and event.keys() >= _NEEDED]
    known = {play["play"] for play in plays}
    plays += [play for play in _under_way(log, day) if play["play"] not in known]
    return sorted(plays, key=lambda play: (play["station"], seconds_of(play["at"])))


def _under_way(log: pathlib.Path, day: str) -> Iterable[Event]:
    for state in read_under_way(log):
        for play in plays_of(state.get("plays")):
            event = written_event(state["station"], play_event(play))
            if play.is_told and event["at"].startswith(day):
                yield event | {"station_title": state.get("title", "")}


def write_reports(
    log: pathlib.Path, day: str, folder: pathlib.Path, service: Service
) -> list[pathlib.Path]:
    """Writes all reports of a day or a month; returns their files.

    Raises:
      DatabaseError: nothing was logged then, or the files cannot be written.
    """
    plays = read_plays(log, day)
    written = []
    try:
        for name, header, rows in (
            ("plays", _PLAYS, map(_play_row, plays)),
            ("gema", _GEMA, map(_gema_row, plays)),
            ("prs", _PRS, _prs_rows(plays)),
            ("sums", _SUMS, _sums(plays)),
        ):
            written.append(_write_table(folder / f"{day}-{name}.csv", header, rows))
        written.append(_write_soundexchange(folder / f"{day}-soundexchange.txt", plays, service))
        for station in sorted({play["station"] for play in plays}):
            own = [play for play in plays if play["station"] == station]
            written += _write_cues(folder, f"{day}-{file_name(station)}", station, own)
    except OSError as error:
        raise write_error(folder, error) from error
    return written


_PLAYS = (
    *("station", "begin", "end", "played_s", "gaps_s", "first_s", "last_s", "track", "id"),
    *("title", "artist", "album", "album_artist", "track_number", "year", "label", "isrc"),
    *("musicbrainz_recording_id", "acoustid", "station_title", "score", "confidence", "tempo"),
)


def _play_row(play: Event) -> Row:
    gaps = " ".join(f"{begin:g}+{length:g}" for begin, length in play["gaps_s"])
    own = {"begin": play["at"], "end": play["ended"], "gaps_s": gaps}
    return [own.get(name, play.get(name, "")) for name in _PLAYS]


# 37 CFR 370.4(d)(2): what identifies a recording is its ISRC, or album title and marketing label.
_SOUNDEXCHANGE = (
    *("NAME_OF_SERVICE", "TRANSMISSION_CATEGORY", "FEATURED_ARTIST", "SOUND_RECORDING_TITLE"),
    *("ISRC", "ALBUM_TITLE", "MARKETING_LABEL", "ACTUAL_TOTAL_PERFORMANCES"),
    *("AGGREGATE_TUNING_HOURS", "CHANNEL_OR_PROGRAM_NAME", "PLAY_FREQUENCY"),
)


def _write_soundexchange(
    path: pathlib.Path, plays: Sequence[Event], service: Service
) -> pathlib.Path:
    """Writes a report of use: texts between carets, fields separated by pipes. How many listeners
    there were is the service's own count: its columns are left empty.
    """
    lines: list[str] = ["|".join(_SOUNDEXCHANGE)]
    for (station, _), own in _grouped(plays, lambda play: (play["station"], play["id"])):
        first = own[0]
        name = service.name or station
        names = (name, service.category, _artist(first), _title(first), first["isrc"])
        texts = [f"^{_bare(text)}^" for text in (*names, first["album"], first["label"])]
        lines.append("|".join([*texts, "", "", f"^{_bare(station)}^", str(len(own))]))
    return _write(path, "\r\n".join(lines) + "\r\n")


_GEMA = (
    *("Sender", "Sendedatum", "Sendezeit", "Spieldauer", "Titel", "Interpret", "Komponist"),
    *("Textdichter", "Bearbeiter", "Verlag", "Album", "Label", "Labelcode", "ISRC"),
)


def _gema_row(play: Event) -> Row:
    date = f"{play['at'][8:10]}.{play['at'][5:7]}.{play['at'][:4]}"
    clock = play["at"][11:19]
    names = (play["station"], date, clock, _length(play["played_s"]), _title(play), _artist(play))
    return (*names, "", "", "", "", play["album"], play["label"], "", play["isrc"])


_PRS = (
    *("STATION", "TRANSMISSION DATE", "TIME BAND", "MUSIC TITLE", "COMPOSER", "PERFORMER"),
    *("DURATION", "NUMBER OF PLAYS", "ALBUM TITLE", "RECORD LABEL", "ISRC"),
)
_BANDS = ((0, "00:00-05:59"), (6, "06:00-11:59"), (12, "12:00-17:59"), (18, "18:00-23:59"))


def _prs_rows(plays: Sequence[Event]) -> Iterable[Row]:
    def key(play: Event) -> tuple:
        band = next(name for hour, name in reversed(_BANDS) if int(play["at"][11:13]) >= hour)
        return play["station"], play["at"][:10], band, play["id"]

    for (station, date, band, _), own in _grouped(plays, key):
        first = own[0]
        length = _length(sum(play["played_s"] for play in own) / len(own))  # of one play
        names = (station, date, band, _title(first), "", _artist(first), length, len(own))
        yield (*names, first["album"], first["label"], first["isrc"])


_SUMS = ("day", "station", "track", "id", "title", "artist", "isrc", "plays", "played_s")


def _sums(plays: Sequence[Event]) -> Iterable[Row]:
    for (day, station, number), own in _grouped(
        plays, lambda play: (play["at"][:10], play["station"], play["id"])
    ):
        first = own[0]
        names = (day, station, first["track"], number, _title(first), _artist(first))
        yield (*names, first["isrc"], len(own), round(sum(p["played_s"] for p in own), 1))


def _write_cues(
    folder: pathlib.Path, name: str, station: str, plays: Sequence[Event]
) -> Iterable[pathlib.Path]:
    """Writes a sheet for every 99 plays: name.cue, name.2.cue and so on. Times count from midnight
    of the first day.
    """
    midnight_s = seconds_of(plays[0]["at"][:10] + "T00:00:00" + plays[0]["at"][23:])
    for number, first in enumerate(range(0, len(plays), _MOST_CUE_TRACKS), start=1):
        path = folder / f"{name}{'' if number == 1 else f'.{number}'}.cue"
        yield _write(path, _cue(station, plays[first : first + _MOST_CUE_TRACKS], midnight_s))


def _cue(station: str, plays: Sequence[Event], midnight_s: float) -> str:
    lines = [f'TITLE "{_quoted(station)}"', f'FILE "{_quoted(station)}" WAVE']
    for number, play in enumerate(plays, 1):
        frames = round((seconds_of(play["at"]) - midnight_s) * 75)
        lines += [
            f"  TRACK {number:02d} AUDIO",
            f'    TITLE "{_quoted(_title(play))}"',
            *([f'    PERFORMER "{_quoted(_artist(play))}"'] if _artist(play) else []),
            *([f"    ISRC {play['isrc']}"] if play["isrc"] else []),
            f"    REM PLAYED {play['at']}",
            f"    REM LENGTH {play['played_s']:g}",
            f"    INDEX 01 {frames // 4500:02d}:{frames // 75 % 60:02d}:{frames % 75:02d}",
        ]
    return "\n".join(lines) + "\n"


def _grouped(
    plays: Sequence[Event], key: Callable[[Event], tuple]
) -> list[tuple[Any, list[Event]]]:
    groups: dict[tuple, list[Event]] = {}
    for play in plays:
        groups.setdefault(key(play), []).append(play)
    return sorted(groups.items())


def _write_table(path: pathlib.Path, header: Row, rows: Iterable[Row]) -> pathlib.Path:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(header)
    table.writerows([plain(x) if isinstance(x, str) else x for x in row] for row in rows)
    return _write(path, text.getvalue())


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
    return write_atomically(path, lambda file: file.write(text.encode()))


def _title(play: Event) -> str:
    return play["title"] or play["track"]


def _artist(play: Event) -> str:
    return play["artist"] or play["album_artist"]


def _length(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _bare(value: object) -> str:
    """Returns a text without what separates and encloses fields."""
    return plain(" ".join(str(value).replace("^", "'").replace("|", "/").split()))


def _quoted(text: str) -> str:
    return plain(" ".join(text.replace('"', "'").split()))
