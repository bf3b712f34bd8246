"""beets plug-in: `beet confp CLIP`, `confpdups`, `confpindex`; indexes what is imported, and offers
the library's own tags for files whose recordings it has.
"""

import collections
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from beets.autotag.hooks import AlbumInfo, TrackInfo
from beets.dbcore.query import PathQuery
from beets.metadata_plugins import MetadataSourcePlugin
from beets.ui import Subcommand, UserError

import confp_jax
import confp_jax.errors


class ConfpPlugin(MetadataSourcePlugin):
    """Identifies audio among what the library holds."""

    data_source = "confp"

    def __init__(self) -> None:
        super().__init__()
        self.config.add(
            {
                "database": "~/music.db",
                "model": "",
                "auto": True,
                "candidates": True,
            }
        )
        self._library: Any = None  # of beets, during an import
        self._changed: set[str] = set()
        self._removed: set[str] = set()
        self.register_listener("import_task_start", self._note_library)
        if self.config["auto"].get(bool):
            self.register_listener("item_imported", self._note_item)
            self.register_listener("album_imported", self._note_album)
            self.register_listener("item_removed", self._note_removed)
            self.register_listener("cli_exit", self._index_changed)

    @functools.cached_property
    def _music(self) -> confp_jax.Library:
        folder = self.config["database"].as_filename()
        try:
            return confp_jax.open(folder, model=self.config["model"].get(str) or None)
        except confp_jax.errors.UserError as error:
            raise UserError(f"confp: {error}") from error

    def commands(self) -> list[Subcommand]:
        """Returns the commands."""
        identify = Subcommand("confp", help="say which track of the library a clip is")
        identify.func = self._identify
        index = Subcommand("confpindex", help="index the library for `beet confp`")
        index.func = self._index
        dups = Subcommand("confpdups", help="list tracks that share long sections")
        dups.parser.add_option(
            "--shortest", type="float", default=30.0, help="shortest section in seconds (30)"
        )
        dups.func = self._dups
        return [identify, index, dups]

    def _identify(self, lib: Any, _opts: Any, args: list[str]) -> None:
        if not args:
            raise UserError("confp: name a clip, as in `beet confp clip.wav`")
        for clip in args:
            answer = self._music.identify_file(clip)
            if answer.error:
                print(f"failed {answer.error}")
            for found in answer.matches[: answer.num_accepted]:
                minutes, seconds = divmod(found.offset_s, 60)
                place = f"{minutes:.0f}:{seconds:04.1f}"
                print(f"{clip}: {_named(lib, found.path)} at {place} ({found.confidence:.3f})")
            if not answer.error and not answer.num_accepted:
                print(f"{clip}: unknown")

    def _index(self, lib: Any, _opts: Any, args: list[str]) -> None:
        results = self._music.add([_path(item) for item in lib.items(args)])
        counts = collections.Counter(result.status for result in results)
        for result in results:
            if result.error:
                print(f"failed {result.error}")
        print(", ".join(f"{num} {status}" for status, num in sorted(counts.items())))

    def _dups(self, lib: Any, opts: Any, _args: list[str]) -> None:
        found = self._music.duplicates(shortest_s=opts.shortest)
        for pair in found:
            names = [_named(lib, track.path) for track in (pair.track, pair.other)]
            print(f"{pair.length_s:.0f} s: {names[0]} and {names[1]}")
        print(f"{len(found)} pairs share {opts.shortest:g} s or more")

    def _note_library(self, session: Any) -> None:
        self._library = session.lib

    def _note_item(self, item: Any) -> None:
        self._changed.add(_path(item))

    def _note_album(self, album: Any) -> None:
        self._changed |= {_path(item) for item in album.items()}

    def _note_removed(self, item: Any) -> None:
        self._removed.add(_path(item))

    def _index_changed(self) -> None:
        """Brings the database up to date when beets ends: files lie where they stay then."""
        there = sorted(path for path in self._changed if pathlib.Path(path).exists())
        gone = {path for path in self._removed - self._changed if not pathlib.Path(path).exists()}
        if gone:
            gone &= {track.path for track in self._music.tracks()}
        if there:
            for result in self._music.add(there):
                if result.error:
                    self._log.warning("{}", result.error)
        if gone:
            self._music.remove(sorted(gone))
        if there or gone:
            self._music.settle()

    def item_candidates(self, item: Any, artist: str, title: str) -> Iterable[TrackInfo]:
        """Returns the tags of the recording that a file is, if the library has it."""
        return [_track_info(known, number) for number, known in enumerate(self._known(item), 1)]

    def candidates(
        self, items: Sequence[Any], artist: str, album: str, va_likely: bool
    ) -> Iterable[AlbumInfo]:
        """Returns the albums of the library whose recordings the files are, fullest first."""
        albums = collections.Counter(
            known.album_id for item in items for known in self._known(item) if known.album_id
        )
        found = [self._library.get_album(number) for number, _ in albums.most_common(3)]
        return [_album_info(album) for album in found if album]

    def _known(self, item: Any) -> list[Any]:
        if self._library is None or not self.config["candidates"].get(bool):
            return []
        answer = self._music.identify_file(_path(item))
        paths = [found.path for found in answer.matches[: answer.num_accepted]]
        known = [_item_at(self._library, path) for path in paths if path != _path(item)]
        return [item for item in known if item is not None]

    def album_for_id(self, album_id: str) -> AlbumInfo | None:
        """Returns nothing: sound has no identifiers."""
        return None

    def track_for_id(self, track_id: str) -> TrackInfo | None:
        """Returns nothing: sound has no identifiers."""
        return None


def _path(item: Any) -> str:
    return os.fsdecode(item.path)


def _item_at(lib: Any, path: str) -> Any:
    """Returns the library's item at a path of the database."""
    wanted = pathlib.Path(path)
    same = lib.items(PathQuery("path", os.fsencode(path)))
    found = next(iter(same), None)
    if found is not None:
        return found
    items = lib.items()  # the database names files without links on the way
    return next((item for item in items if pathlib.Path(_path(item)).resolve() == wanted), None)


def _named(lib: Any, path: str) -> str:
    item = _item_at(lib, path)
    return format(item) if item is not None else path


def _track_info(item: Any, index: int) -> TrackInfo:
    return TrackInfo(
        title=item.title,
        artist=item.artist,
        album=item.album,
        track_id=item.mb_trackid or None,
        length=item.length,
        isrc=item.isrc or None,
        index=item.track or index,
        data_source=ConfpPlugin.data_source,
    )


def _album_info(album: Any) -> AlbumInfo:
    return AlbumInfo(
        tracks=[_track_info(item, number) for number, item in enumerate(album.items(), 1)],
        album=album.album,
        album_id=album.mb_albumid or None,
        artist=album.albumartist,
        year=album.year or None,
        label=album.label or None,
        data_source=ConfpPlugin.data_source,
    )
