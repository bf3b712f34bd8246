"""FMA's metadata: official splits, nested subsets, known-bad ids (Defferrard et al., ISMIR
2017).
"""

import csv
import pathlib
from collections.abc import Iterator
from typing import TextIO

from confp_jax.audio.folders import AUDIO_SUFFIXES
from confp_jax.data.records import SUBSETS
from data_prep.tracks import SPLITS, Failure, SourceError, Track

_COLUMNS = (
    ("set", "split"),
    ("set", "subset"),
    ("track", "title"),
    ("artist", "name"),
    ("album", "id"),
)
_NO_ALBUM = ("", "-1")
_ID_DIGITS = 9
CITATION = """@inproceedings{fma_dataset,
  title = {{FMA}: A Dataset for Music Analysis},
  author = {Defferrard, Micha\"el and Benzi, Kirell and Vandergheynst, Pierre and Bresson, Xavier},
  booktitle = {18th International Society for Music Information Retrieval Conference (ISMIR)},
  year = {2017},
  eprint = {1612.01840}
}"""
LICENCE = (
    "Each track under the licence that its artist chose (tracks.csv, track/license); the "
    "metadata under CC BY 4.0."
)
HOMEPAGE = "https://github.com/mdeff/fma"
NO_AUDIO = frozenset({99134, 108925, 133297})
SHORT_OR_BROKEN = frozenset(
    {1486, 2624, 5574, 65753, 80391, *range(98558, 98561), *range(98565, 98570)}
    | {98571, 105247, 108924, 126981, 127336, 143992}
)


def read_tracks(
    tracks_csv: str | pathlib.Path, music_dir: str | pathlib.Path, *, subset: str
) -> list[Track]:
    """Returns the tracks of a subset (subsets are nested: medium holds small), known-bad ids left
    out, sorted by id.

    Raises:
      SourceError: no file, a missing column, an unknown subset, a track in two splits.
    """
    tracks = _read_table(pathlib.Path(tracks_csv), music_dir, subset)
    return [track for track in tracks if track.track_id not in NO_AUDIO | SHORT_OR_BROKEN]


def known_bad(
    tracks_csv: str | pathlib.Path, music_dir: str | pathlib.Path, *, subset: str
) -> list[Failure]:
    """Returns the tracks of a subset that `read_tracks` leaves out, each with the reason; the same
    errors.
    """
    reasons = dict.fromkeys(NO_AUDIO, "FMA has no audio of it") | dict.fromkeys(
        SHORT_OR_BROKEN, "FMA's file is short or broken"
    )
    tracks = _read_table(pathlib.Path(tracks_csv), music_dir, subset)
    return [
        Failure(
            track.track_id,
            str(track.path),
            f"{track.name}: {reasons[track.track_id]} (known-bad id)",
            final=True,
        )
        for track in tracks
        if track.track_id in reasons
    ]


def _read_table(path: pathlib.Path, music_dir: str | pathlib.Path, subset: str) -> list[Track]:
    if subset not in SUBSETS:
        raise SourceError(f"subset {subset!r}: expected one of {', '.join(SUBSETS)}")
    if not path.is_file():
        raise SourceError(f"{path}: no such file; it is in FMA's archive fma_metadata.zip")
    wanted = SUBSETS[: SUBSETS.index(subset) + 1]
    tracks: dict[int, Track] = {}
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = _lines(path, file)
        columns = list(zip(next(rows, []), next(rows, []), strict=False))
        missing = [c for c in _COLUMNS if c not in columns]
        if missing:
            raise SourceError(
                f"{path}: columns {missing} are missing; is it FMA's tracks.csv with its two "
                "header rows?"
            )
        split_at, subset_at, title_at, artist_at, album_at = (columns.index(c) for c in _COLUMNS)
        next(rows, None)  # the row that names the index
        for number, row in enumerate(rows, 4):
            if len(row) != len(columns) or not _is_id(row[0]):
                raise SourceError(
                    f"{path}, line {number}: {len(row)} cells instead of {len(columns)}; download "
                    "it again"
                )
            if row[subset_at] not in wanted:
                continue
            track_id = int(row[0])
            split = row[split_at]
            if split not in SPLITS:
                raise SourceError(
                    f"{path}, line {number}: split {split!r}, expected one of {', '.join(SPLITS)}"
                )
            if track_id in tracks and tracks[track_id].split != split:
                raise SourceError(
                    f"{path}, line {number}: track {track_id} is in {tracks[track_id].split} and "
                    f"in {split}"
                )
            name = " - ".join(part for part in (row[artist_at], row[title_at]) if part)
            album = row[album_at] if row[album_at] not in _NO_ALBUM else ""
            path_of = audio_path(music_dir, track_id)
            tracks[track_id] = Track(track_id, path_of, split, name, album, row[subset_at])
    return sorted(tracks.values(), key=lambda track: track.track_id)


def _lines(path: pathlib.Path, file: TextIO) -> Iterator[list[str]]:
    try:
        yield from csv.reader(file)
    except csv.Error as error:
        raise SourceError(f"{path}: is no table ({error}); download it again") from error


def _is_id(text: str) -> bool:
    return text.isdecimal() and len(text) <= _ID_DIGITS


def audio_path(music_dir: str | pathlib.Path, track_id: int) -> pathlib.Path:
    """FMA's place for a track: 002/002345.mp3, or the same name with another format's suffix."""
    path = pathlib.Path(music_dir) / f"{track_id // 1000:03d}" / f"{track_id:06d}.mp3"
    if path.exists():
        return path
    others = (
        p
        for p in sorted(path.parent.glob(f"{track_id:06d}.*"))
        if p.suffix.lower() in AUDIO_SUFFIXES
    )
    return next(others, path)
