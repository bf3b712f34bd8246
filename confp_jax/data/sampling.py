"""Which tracks are trained on, and in which order: tracks of an album may stand together in a
batch, and a batch may draw evenly from groups of shards.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from confp_jax.data.clips import ClipSource, read_splits, track_ids
from confp_jax.data.duplicates import places_without_duplicates, read_duplicates
from confp_jax.data.records import SUBSETS, DatasetError

_NUM_EPOCHS = 1_000_000  # more than anybody trains: Grain wants to know how many elements there are


def tracks_to_train(source: ClipSource, subset: str = "") -> Sequence[int]:
    """Returns numbers of the split's tracks without duplicates of each other, or of a track in
    another split (which is measured by); those of one of FMA's subsets, where one is named.

    Raises:
      DatasetError: the set does not know its tracks' subsets.
    """
    tracks = _distinct_tracks(source)
    if not subset:
        return tracks
    known = source.summary.subsets
    ids = source.track_ids()
    if not known:
        raise DatasetError(
            f"{source.folder} does not know its tracks' subsets, which data.subset={subset!r} asks "
            "for: set --config.data.subset= to train on all of it, or run data_prep.make_train "
            "again with the same settings (finished shards stay) if it is FMA"
        )
    wanted = SUBSETS[: SUBSETS.index(subset) + 1]
    found = [track for track in tracks if known.get(str(ids[track])) in wanted]
    if not found:
        raise DatasetError(
            f"{source.folder} holds no {source.split} track of FMA's subset {subset!r}; set "
            "--config.data.subset= to train on all of it"
        )
    return found


def _distinct_tracks(source: ClipSource) -> Sequence[int]:
    group_of = read_duplicates(source.folder)
    if not group_of:
        return range(source.num_tracks)
    others = [name for name in read_splits(source.folder) if name != source.split]
    held_out = [track_id for name in others for track_id in track_ids(source.folder, name)]
    return places_without_duplicates(source.track_ids(), held_out, group_of)


class EpochOrder:
    """Track numbers, epoch after epoch, each in an order of its own.

    Args:
      per_epoch: how many tracks of a drawn order an epoch has.
      draw: an order of at least so many.
    """

    def __init__(
        self,
        per_epoch: int,
        draw: Callable[[np.random.Generator], Int64[np.ndarray, " tracks"]],
        *,
        seed: int,
    ):
        self._per_epoch = per_epoch
        self._draw = draw
        self._seed = seed
        self._orders: dict[int, Int64[np.ndarray, " tracks"]] = {}

    def __len__(self) -> int:
        return self._per_epoch * _NUM_EPOCHS

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self._per_epoch)
        if epoch not in self._orders:  # a few threads may be in two epochs at a time
            kept = {
                number: order for number, order in self._orders.items() if abs(number - epoch) <= 1
            }
            self._orders = kept | {epoch: self._draw(np.random.default_rng([self._seed, epoch]))}
        return int(self._orders[epoch][place])


@dataclasses.dataclass(frozen=True)
class AlbumDraw:
    """Orders of `tracks` in which `together` tracks of an album stand side by side, all else
    shuffled.
    """

    tracks: Int64[np.ndarray, " tracks"]
    albums: Sequence[str]
    together: int

    @classmethod
    def of(cls, source: ClipSource, tracks: Sequence[int], together: int) -> "AlbumDraw":
        """Raises DatasetError where the set does not know its tracks' albums."""
        known = source.summary.albums
        ids = source.track_ids()
        albums = [known.get(str(ids[track]), "") for track in tracks]
        if not any(albums):
            raise DatasetError(
                f"{source.folder} does not know its tracks' albums, which "
                f"data.tracks_per_album={together} needs; prepare it again, of FMA with its "
                "tracks.csv or of music with a folder for every album"
            )
        return cls(np.array(tracks), albums, together)

    def __call__(self, rng: np.random.Generator) -> Int64[np.ndarray, " tracks"]:
        return self.tracks[album_order(self.albums, together=self.together, rng=rng)]


@dataclasses.dataclass(frozen=True)
class ShardGroupDraw:
    """Orders in which place j of every batch is a track of shard group j % n, each of the n groups
    shuffled by itself.

    Group k holds the tracks of shards k, k + n, k + 2 n, ... So a host that takes every m-th place
    of a batch reads every m-th shard alone, for any m that divides n, and the batches are the same
    for every m.
    """

    groups: Sequence[Int64[np.ndarray, " tracks"]]
    num_batches: int  # an epoch
    each: int  # tracks of a group in a batch

    @classmethod
    def of(
        cls, source: ClipSource, tracks: Sequence[int], *, num_groups: int, tracks_per_batch: int
    ) -> "ShardGroupDraw":
        """Raises DatasetError where a group has too few tracks for a batch."""
        group = source.track_shards()[np.asarray(tracks)] % num_groups
        groups = [np.asarray(tracks)[group == number] for number in range(num_groups)]
        each = tracks_per_batch // num_groups
        fewest = min(map(len, groups))
        if fewest < each:
            raise DatasetError(
                f"{source.folder}: one of data.num_shares={num_groups} groups of shards has "
                f"{fewest} tracks, and a batch takes {each} of each group; prepare it again with "
                "fewer --config.tracks_per_shard, or set a smaller data.num_shares"
            )
        return cls(groups, fewest // each, each)

    def __call__(self, rng: np.random.Generator) -> Int64[np.ndarray, " tracks"]:
        drawn = np.stack(
            [rng.permutation(group)[: self.num_batches * self.each] for group in self.groups]
        )
        return (
            drawn.reshape(len(self.groups), self.num_batches, self.each)
            .transpose(1, 2, 0)
            .reshape(-1)
        )


def album_order(
    albums: Sequence[str], *, together: int, rng: np.random.Generator
) -> Int64[np.ndarray, " tracks"]:
    """Returns a permutation in which the tracks of an album stand in groups of `together`; those
    without an album ("") stand alone.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    num_of: dict[str, int] = {}
    for place in rng.permutation(len(albums)).tolist():
        album = albums[place]
        number = num_of[album] = num_of.get(album, -1) + 1
        groups.setdefault((album, number // together if album else place), []).append(place)
    members = list(groups.values())
    return np.concatenate([members[i] for i in rng.permutation(len(members))])
