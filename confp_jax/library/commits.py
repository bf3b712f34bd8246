"""What a run of `add` or `update` writes, gathered into commits of about an hour of audio."""

import os
import pathlib

from confp_jax.database import Database, NewTrack, StoredTrack, TrackTags
from confp_jax.database.records import KnownFile
from confp_jax.library.places import Places

_COMMIT_SECONDS = 3600.0  # of audio: what a kill can lose, and what an add holds in memory
_COMMIT_FILES = 1000  # that were hashed and are there already


class Commits:
    """Gathers what is to be written; each commit is atomic."""

    def __init__(self, database: Database):
        self._database = database
        self._clear()

    def _clear(self) -> None:
        self._tracks: list[NewTrack] = []
        self._tracks_s = 0.0
        self._replaced: list[int] = []
        self._moved: dict[int, str] = {}
        self._tags: dict[int, TrackTags] = {}
        self._files: dict[str, KnownFile] = {}

    def add(self, track: NewTrack) -> None:
        """Adds a track."""
        self._tracks.append(track)
        self._tracks_s += track.duration_s

    def remove(self, track: StoredTrack) -> None:
        """Removes a track."""
        self._replaced.append(track.id)

    def move(self, track: StoredTrack, path: str) -> None:
        """Gives a track another path."""
        self._moved[track.id] = path

    def tag(self, track: StoredTrack, tags: TrackTags) -> None:
        """Gives a track the tags of its file."""
        self._tags[track.id] = tags

    def give_up(self, track: StoredTrack, places: Places) -> bool:
        """Removes a track whose file has other content now, unless its own lies elsewhere; returns
        whether it is removed.
        """
        path = places.moved_to(track)
        if path:
            self.move(track, path)
        else:
            self.remove(track)
        return not path

    def remember(self, path: pathlib.Path, file: KnownFile) -> None:
        """Notes what a file was like."""
        self._files[os.path.realpath(path)] = file

    def when_due(self) -> None:
        """Commits about every hour of audio."""
        if self._tracks_s >= _COMMIT_SECONDS or len(self._files) + len(self._tags) >= _COMMIT_FILES:
            self.commit()

    def commit(self) -> None:
        """Writes what was gathered."""
        tracks = self._tracks
        replaced = self._replaced
        moved = self._moved
        files = self._files
        tags = self._tags
        self._clear()
        self._database.add(tracks, replacing=replaced)
        if moved:
            self._database.move(moved)
        if tags:
            self._database.tag(tags)
        if files:
            self._database.remember(files)
