"""The Python API: a database that is opened once and shared by any number of threads."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from confp_jax.audio.decode import from_samples
from confp_jax.database import StoredTrack
from confp_jax.library import maintenance
from confp_jax.library.add import Added, add_paths, update_tracks
from confp_jax.library.live import LiveDatabase
from confp_jax.library.open import open_or_create
from confp_jax.library.searcher import Answer, Searcher
from confp_jax.matching.shared_sections import shared_sections
from confp_jax.model.forked import check_not_forked


@dataclasses.dataclass(frozen=True)
class Removed:
    """One track that was removed, or (`id` 0, `error` set) what was wanted and cannot be."""

    id: int
    name: str
    path: str
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """A section that two tracks share: `track_s` of one is `other_s` of the other."""

    track: StoredTrack
    other: StoredTrack
    track_s: float
    other_s: float
    length_s: float


class Library:
    """A database with its model and index in memory.

    Reading is safe from many threads, also while one adds.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        model: str | None = None,
        false_alarm_rate: float | None = None,
    ):
        """Opens the database, or creates it if it does not exist.

        Args:
          folder: of the database.
          model: a shipped model or a checkpoint folder; default: the database's own, or `edge2`.
          false_alarm_rate: proportion of unknown queries that may be answered; default 0.001.

        Raises:
          DatabaseError: the folder is no database, or `model` is not the database's own.
        """
        self._database, self._embedder = open_or_create(folder, model)
        self._live = LiveDatabase(self._database, self._embedder, false_alarm_rate=false_alarm_rate)

    @property
    def _searcher(self) -> Searcher:
        return self._live.view.searcher

    def add(self, paths: Sequence[str | pathlib.Path] | str | pathlib.Path) -> list[Added]:
        """Adds files and the audio files of folders.

        What was added is found as soon as this returns. If the search index must be rebuilt, a
        thread does it; until it is ready the new fingerprints are searched exactly.

        Args:
          paths: a file or a folder, or several.

        Returns:
          One result for each file; a bad file fails alone and has its `error` set.

        Raises:
          DatabaseError: another process is writing, or the disk is full.

        Examples:
          >>> for added in library.add(["music", "no-audio.txt"]):
          ...     print(added.status)
          unchanged
          unchanged
          failed
        """
        listed = [paths] if isinstance(paths, str | pathlib.Path) else paths
        with self._changing():
            return add_paths(
                self._database,
                self._embedder,
                [pathlib.Path(path) for path in listed],
                rebuild=False,
            )

    def remove(
        self, tracks: Sequence[int | str | pathlib.Path] | int | str | pathlib.Path
    ) -> list[Removed]:
        """Removes tracks in one commit; the audio files stay.

        They are not found any more as soon as this returns.

        Args:
          tracks: an id, a path or a name that only one track has, or several.

        Returns:
          The removed tracks, and after them one result with its `error` set for each that cannot
          be removed.

        Raises:
          DatabaseError: another process is writing.

        Examples:
          >>> [removed.name for removed in library.remove("desert")]
          ['desert']
          >>> library.remove([1_000_000])[0].error
          '1000000: no track has this id; see `confp list ...`'
          >>> [added.status for added in library.add("music/desert.mp3")]
          ['added']
        """
        listed = [tracks] if isinstance(tracks, int | str | pathlib.Path) else list(tracks)
        ids = [track for track in listed if isinstance(track, int)]
        texts = [str(track) for track in listed if not isinstance(track, int)]
        with self._changing():
            removed, refused = maintenance.remove(self._database, texts, ids=ids)
        return [*(Removed(**track) for track in removed), *(Removed(0, "", "", e) for e in refused)]

    def update(self, *, prune: bool = False, force: bool = False) -> list[Added]:
        """Looks at every track's file again, as `confp update`: one that changed is fingerprinted
        again, one that moved gets its new path, one that is gone is reported.

        Args:
          prune: remove the tracks whose files are gone, unless all of a folder that was added, or
            most tracks, are.
          force: remove them also then.

        Returns:
          One result for each track.

        Raises:
          DatabaseError: another process is writing, or the disk is full.

        Examples:
          >>> [track.status for track in library.update()]
          ['unchanged', 'unchanged']
        """
        with self._changing():
            return update_tracks(
                self._database, self._embedder, prune=prune, force=force, rebuild=False
            )

    def settle(self) -> None:
        """Waits until no index is being built."""
        self._live.settle()

    def identify(self, samples: np.ndarray, sample_rate_hz: int) -> Answer:
        """Identifies the tracks in an array of samples.

        Args:
          samples: [n] or [n, channels], float or integer PCM, at least 1 s long.
          sample_rate_hz: of `samples`; anything from 4 to 768 kHz.

        Raises:
          DecodeError: the samples have a wrong shape, or are not finite.
          AudioError: the samples are shorter than 1 s, or silent.

        Examples:
          >>> answer = library.identify(samples, 16_000)
          >>> answer.num_accepted, round(answer.matches[0].offset_s)
          (1, 4)
          >>> noise = np.random.default_rng(0).normal(size=(48_000, 2))
          >>> library.identify(noise, 16_000).verdict
          'unknown'
        """
        mono = from_samples(samples, from_hz=sample_rate_hz, to_hz=self._embedder.sample_rate_hz)
        return self._searcher.identify_blocks([mono], query="samples")

    def identify_file(self, path: str | pathlib.Path) -> Answer:
        """Identifies the tracks in a file of any length; a bad file has the answer's `error` set.

        Examples:
          >>> library.identify_file("clip.wav").matches[0].track
          'the-protagonist'
          >>> library.identify_file("no-audio.txt").error
          'no-audio.txt: ...'
        """
        return self._searcher.identify_file(pathlib.Path(path))

    def tracks(self) -> list[StoredTrack]:
        """Returns the tracks that can be identified.

        Examples:
          >>> sorted(track.name for track in library.tracks())
          ['desert', 'the-protagonist']
        """
        return list(self._searcher.reference.snapshot.tracks)

    def duplicates(self, *, shortest_s: float = 10.0) -> list[Duplicate]:
        """Returns the pairs of tracks that share sections, the longest first.

        Args:
          shortest_s: of the sections.

        Examples:
          >>> library.duplicates()
          []
        """
        check_not_forked()
        searcher = self._searcher
        tracks = searcher.reference.snapshot.tracks
        found = shared_sections(searcher.reference, searcher.decision, shortest_s=shortest_s)
        return [
            Duplicate(
                tracks[section.track],
                tracks[section.other],
                section.track_s,
                section.other_s,
                section.length_s,
            )
            for section in found
        ]

    def refresh(self) -> None:
        """Loads what other processes have added, removed or calibrated since.

        Examples:
          >>> library.refresh()
          >>> len(library.tracks())
          2
        """
        check_not_forked()
        self._live.refresh()
        self._check_current()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, after it a new view, and beside all a thread that builds the index
        if it is due.
        """
        check_not_forked()  # a lock that a thread of the other process held is never released here
        with self._live.changing():
            yield
        self._check_current()
        self._live.build_index()

    def _check_current(self) -> None:
        if self._live.outdated is not None:
            raise self._live.outdated
