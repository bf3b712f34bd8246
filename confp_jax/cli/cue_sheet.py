"""What `monitor` writes at its end: cue sheets, a table, a tracklist, chapters."""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from confp_jax.texts import one_line, plain

_FRAMES_PER_S = 75  # of a compact disc
_MOST_TRACKS = 99  # of a cue sheet
_FILE_TYPES = {".mp3": "MP3", ".aif": "AIFF", ".aiff": "AIFF"}


def check_writable(path: pathlib.Path) -> None:
    """Tries whether a file can be written, and leaves what is there as it is.

    Raises:
      OSError: it cannot.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        return  # a pipe or a terminal, whose reader would see the end
    is_new = not os.path.lexists(path)
    with open(path, "ab"):
        pass
    if is_new:
        path.unlink()


def write_cue(path: pathlib.Path, source: str, played: Sequence[tuple[Any, str]]) -> None:
    """Writes a cue sheet with one entry for each match and its moment; times are min:s:frames.

    What exceeds the 99 tracks of a sheet goes to further ones: x.cue, x.2.cue, ...
    """
    for number, first in enumerate(range(0, max(1, len(played)), _MOST_TRACKS), start=1):
        target = path if number == 1 else path.with_suffix(f".{number}{path.suffix}")
        text = _sheet(source, played[first : first + _MOST_TRACKS])
        target.write_text(text, encoding="utf-8", errors="surrogateescape")  # the file's own bytes


def _sheet(source: str, played: Sequence[tuple[Any, str]]) -> str:
    kind = _FILE_TYPES.get(pathlib.PurePath(source).suffix.lower(), "WAVE")
    lines = [f'FILE "{one_line(_without_quotes(source))}" {kind}']
    for number, (match, moment) in enumerate(played, start=1):
        lines += [
            f"  TRACK {number:02d} AUDIO",
            f'    TITLE "{_quoted(match.title or match.track)}"',
            *([f'    PERFORMER "{_quoted(match.artist)}"'] if match.artist else []),
            f"    REM ID {match.id}",
            f"    REM CONFIDENCE {match.confidence:.4f}",
            *([f"    REM PLAYED {moment}"] if moment else []),
            *([f"    ISRC {match.tags.isrc}"] if match.tags.isrc else []),
            f"    INDEX 01 {_cue_time(match.query_offset_s)}",
        ]
    return "\n".join(lines) + "\n"


def write_csv(path: pathlib.Path, source: str, played: Sequence[tuple[Any, str]]) -> None:
    """Writes a table with one row for each match and its moment; times in seconds."""
    from confp_jax.database.records import TAG_NAMES

    times = ("source", "begin_s", "end_s", "track", "id", "title", "artist", "album", "path")
    measured = ("track_offset_s", "tempo", "score", "confidence", "played_at")
    header = (*times, *measured, *TAG_NAMES)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        for m, moment in played:
            texts = [plain(text) for text in (m.title, m.artist, m.album, m.path)]
            end_s = round(m.query_offset_s + m.length_s, 3)
            row = (plain(source), m.query_offset_s, end_s, plain(m.track), m.id, *texts)
            tags = [plain(text) for text in dataclasses.astuple(m.tags)]
            table.writerow((*row, m.offset_s, m.tempo, m.score, m.confidence, moment, *tags))


def write_tracklist(path: pathlib.Path, source: str, played: Sequence[tuple[Any, str]]) -> None:
    """Writes a line for each match, as people post tracklists; what sounds over another track
    begins with "w/".
    """
    lines = [f"{plain(source)}", ""]
    until_s = 0.0
    for m, _ in played:
        time_s = int(m.query_offset_s)
        clock = f"{time_s // 3600}:{time_s // 60 % 60:02d}:{time_s % 60:02d}"
        is_over = m.query_offset_s + m.length_s <= until_s
        label = f" [{plain(m.tags.label).upper()}]" if m.tags.label else ""
        lines.append(f"[{'w/' if is_over else clock}] {_named(m)}{label}")
        until_s = max(until_s, m.query_offset_s + m.length_s)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_chapters(path: pathlib.Path, source: str, played: Sequence[tuple[Any, str]]) -> None:
    """Writes chapters that `ffmpeg -i MIX -i FILE -map_chapters 1 -codec copy OUT` puts into a
    file; a chapter ends where the next one begins.
    """
    lines = [";FFMETADATA1", f"title={_escaped(source)}"]
    for number, (m, _) in enumerate(played):
        begin_ms = round(1000 * m.query_offset_s)
        end_s = m.query_offset_s + m.length_s
        if number + 1 < len(played):
            end_s = played[number + 1][0].query_offset_s
        end_ms = max(begin_ms + 1, round(1000 * end_s))
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={begin_ms}", f"END={end_ms}"]
        lines.append(f"title={_escaped(_named(m))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _named(match: Any) -> str:
    return plain(" - ".join(filter(None, (match.artist, match.title or match.track))))


def _escaped(text: str) -> str:
    """Returns a text as FFmpeg's metadata files want it."""
    return re.sub(r"([=;#\\])", r"\\\1", plain(text))


def _cue_time(seconds: float) -> str:
    frames = round(seconds * _FRAMES_PER_S)
    seconds, rest = divmod(frames, _FRAMES_PER_S)
    return f"{seconds // 60:02d}:{seconds % 60:02d}:{rest:02d}"


def _quoted(text: str) -> str:
    return plain(_without_quotes(text))


def _without_quotes(text: str) -> str:
    """Replaces what a cue sheet cannot escape: quotation marks and line ends."""
    return text.replace('"', "'").replace("\n", " ").replace("\r", " ")
