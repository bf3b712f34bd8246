"""What `monitor` writes at its end: a cue sheet and a table."""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any

_FRAMES_PER_S = 75  # of a compact disc


def write_cue(path: pathlib.Path, source: str, matches: Sequence[Any]) -> None:
    """Writes a cue sheet with one entry for each match, in order; times are min:s:frames."""
    lines = [f'FILE "{_quoted(source)}" WAVE']
    for number, match in enumerate(matches, start=1):
        lines += [
            f"  TRACK {number:02d} AUDIO",
            f'    TITLE "{_quoted(match.title or match.track)}"',
            *([f'    PERFORMER "{_quoted(match.artist)}"'] if match.artist else []),
            f"    REM ID {match.id}",
            f"    REM CONFIDENCE {match.confidence:.4f}",
            f"    INDEX 01 {_cue_time(match.query_offset_s)}",
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def write_csv(path: pathlib.Path, source: str, matches: Sequence[Any]) -> None:
    """Writes a table with one row for each match, in order; times in seconds."""
    header = (
        "source",
        "begin_s",
        "end_s",
        "track",
        "id",
        "title",
        "artist",
        "album",
        "path",
        "track_offset_s",
        "tempo",
        "score",
        "confidence",
    )
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        for m in matches:
            end_s = round(m.query_offset_s + m.length_s, 3)
            table.writerow(
                (
                    source,
                    m.query_offset_s,
                    end_s,
                    m.track,
                    m.id,
                    m.title,
                    m.artist,
                    m.album,
                    m.path,
                    m.offset_s,
                    m.tempo,
                    m.score,
                    m.confidence,
                )
            )


def _cue_time(seconds: float) -> str:
    frames = round(seconds * _FRAMES_PER_S)
    seconds, rest = divmod(frames, _FRAMES_PER_S)
    return f"{seconds // 60:02d}:{seconds % 60:02d}:{rest:02d}"


def _quoted(text: str) -> str:
    """Replaces what a cue sheet cannot escape: quotation marks and line ends."""
    return text.replace('"', "'").replace("\n", " ").replace("\r", " ")
