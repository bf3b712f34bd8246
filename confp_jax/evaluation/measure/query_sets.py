"""Query sets and indexes by what is in them: what was measured once is known again."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from confp_jax.data.clips import read_splits
from confp_jax.data.records import DatasetError, read_manifest, read_summary
from confp_jax.texts import parse_json


@dataclasses.dataclass(frozen=True)
class QuerySet:
    """A folder made by data_prep.make_queries; the sets of one length are runs that are
    averaged.
    """

    folder: pathlib.Path
    length_s: float
    seed: int
    conditions: tuple[str, ...]

    @property
    def name(self) -> str:
        """Returns the folder's name."""
        return self.folder.name


def find_query_sets(places: str, conditions: Sequence[str] = ()) -> list[QuerySet]:
    """Returns the query sets of comma-separated folders; a folder may hold several (3s_seed0, ...).
    Shortest first, then by seed.

    Raises:
      DatasetError: none there, one is no query set, or none has one of the `conditions`.
    """
    folders = []
    for place in (pathlib.Path(part.strip()) for part in places.split(",") if part.strip()):
        inside = sorted(path.parent for path in place.glob("*/confp.json"))
        folders += inside if inside and not (place / "confp.json").is_file() else [place]
    found = [_query_set(folder, conditions) for folder in folders]
    if not found:
        raise DatasetError(
            "queries is empty; name query sets made by data_prep.make_queries, with a comma "
            "between them"
        )
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise DatasetError(
            f"two query sets have one name ({', '.join(names)}), which names their queries; rename "
            "a folder"
        )
    for condition in conditions:
        if not any(condition in one.conditions for one in found):
            raise DatasetError(
                f"no query set has the condition {condition!r}; they have "
                f"{', '.join(read_splits(folders[0]))}"
            )
    return sorted(
        (one for one in found if one.conditions),
        key=lambda one: (one.length_s, one.seed, str(one.folder)),
    )


def dataset_id(folder: str | pathlib.Path, splits: Sequence[str]) -> str:
    """Names the content of a prepared dataset's splits: its shards' checksums, and the tables that
    hold the truth.

    Raises:
      DatasetError: no dataset, or its manifest is damaged.
    """
    place = pathlib.Path(folder)
    if (place / "catalogue.sqlite").is_file():
        raise DatasetError(
            f"{folder} is a database of fingerprints; the benchmark needs the audio: a dataset of "
            "make_train"
        )
    digest = hashlib.sha256(read_summary(folder).settings.encode())
    sums = {shard.file: shard.sha256 for shard in read_manifest(place) if shard.split in splits}
    for split in splits:
        table = place / f"clips-{split}.npy"
        if not table.is_file():
            raise DatasetError(
                f"{folder} has no split {split!r}; it has {', '.join(read_splits(folder))}"
            )
        digest.update(table.read_bytes())
    copies = place / "duplicates.json"
    digest.update(b"one of the last split" + copies.read_bytes() if copies.is_file() else b"")
    digest.update(json.dumps(sums, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def spread(num: int, most: int) -> list[int]:
    """`most` of the first `num` numbers, evenly; all where `most` is 0."""
    return (
        np.unique(np.linspace(0, num - 1, min(most or num, num)).round().astype(int)).tolist()
        if num
        else []
    )


def title(condition: str) -> str:
    """Returns a condition's name for readers: "background_10db" as "background 10 dB"."""
    return condition.replace("_", " ").replace("db", " dB").replace("kbps", " kbit/s")


def _query_set(folder: pathlib.Path, conditions: Sequence[str]) -> QuerySet:
    there = read_splits(folder)
    try:
        settings = parse_json(read_summary(folder).settings)
        length_s = float(settings["segment_s"])
        seed = int(settings["seed"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        remedy = "make one with data_prep.make_queries"
        raise DatasetError(
            f"{folder} is no query set: {error} is not in its settings; {remedy}"
        ) from error
    return QuerySet(
        folder,
        length_s,
        seed,
        tuple(name for name in there if not conditions or name in conditions),
    )


def own_length(sets: Sequence[QuerySet], heard_s: float) -> QuerySet:
    """Returns the first query set of the model's own length, `heard_s`; else the first one."""
    return next((one for one in sets if one.length_s == heard_s), sets[0])
