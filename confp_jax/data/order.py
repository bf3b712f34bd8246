"""Which tracks are trained on, and in which order where those of an album are to meet in a batch."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.duplicates import places_without_duplicates, read_duplicates
from confp_jax.data.records import DatasetError

_NUM_EPOCHS = 1_000_000  # more than anybody trains: Grain wants to know how many elements there are


def tracks_to_train(source: ClipSource) -> Sequence[int]:
    """Numbers of the split's tracks without duplicates of each other, or of a track in another split (which is measured by)."""
    group_of = read_duplicates(source.folder)
    if not group_of:
        return range(source.num_tracks)
    others = [ClipSource(source.folder, name) for name in read_splits(source.folder) if name != source.split]
    held_out = [track_id for other in others for track_id in other.track_ids()]
    return places_without_duplicates(source.track_ids(), held_out, group_of)


class AlbumOrder:
    """Track numbers, epoch after epoch: `together` tracks of an album stand side by side, all else is shuffled anew every time.

    Args:
      tracks: numbers of the source's tracks that may be trained on.
      per_epoch: how many of them an epoch has.

    Raises:
      DatasetError: the set does not know its tracks' albums.
    """

    def __init__(self, source: ClipSource, tracks: Sequence[int], per_epoch: int, *, together: int, seed: int):
        known, ids = source.summary.albums, source.track_ids()
        self._albums = [known.get(str(ids[track]), "") for track in tracks]
        if not any(self._albums):
            raise DatasetError(
                f"{source.folder} does not know its tracks' albums, which data.tracks_per_album={together} needs; prepare it "
                "again, of FMA with its tracks.csv or of music with a folder for every album"
            )
        self._tracks, self._per_epoch, self._together, self._seed = np.array(tracks), per_epoch, together, seed
        self._orders: dict[int, Int64[np.ndarray, " tracks"]] = {}

    def __len__(self) -> int:
        return self._per_epoch * _NUM_EPOCHS

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self._per_epoch)
        if epoch not in self._orders:  # a few threads may be in two epochs at a time
            kept = {number: order for number, order in self._orders.items() if abs(number - epoch) <= 1}
            order = album_order(self._albums, together=self._together, rng=np.random.default_rng([self._seed, epoch]))
            self._orders = kept | {epoch: self._tracks[order]}
        return int(self._orders[epoch][place])


def album_order(albums: Sequence[str], *, together: int, rng: np.random.Generator) -> Int64[np.ndarray, " tracks"]:
    """A permutation in which the tracks of an album stand in groups of `together`; those without an album ("") stand alone."""
    groups: dict[tuple[str, int], list[int]] = {}
    num_of: dict[str, int] = {}
    for place in rng.permutation(len(albums)).tolist():
        album = albums[place]
        number = num_of[album] = num_of.get(album, -1) + 1
        groups.setdefault((album, number // together if album else place), []).append(place)
    members = list(groups.values())
    return np.concatenate([members[i] for i in rng.permutation(len(members))])
