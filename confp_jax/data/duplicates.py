"""Which tracks of a dataset are the same recording: written by `python -m data_prep.duplicates`,
read by training and scoring.

A duplicate in a batch would be pushed away as a negative, and a query answered with the other copy
counted as a miss.
"""

import pathlib
from collections.abc import Iterable, Sequence

from confp_jax.data.records import DatasetError
from confp_jax.texts import parse_json

DUPLICATES_FILE = "duplicates.json"


def read_duplicates(folder: str | pathlib.Path) -> dict[int, int]:
    """Returns the group of each track that has a duplicate, by track id; {} if duplicates have not
    been searched.

    Raises:
      DatasetError: the file is damaged.
    """
    file = pathlib.Path(folder) / DUPLICATES_FILE
    if not file.is_file():
        return {}
    try:
        groups = parse_json(file.read_text())["groups"]
        return {int(track_id): int(min(group)) for group in groups for track_id in group}
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise DatasetError(
            f"{file} is damaged ({error}); run `python -m data_prep.duplicates` again"
        ) from error


def places_without_duplicates(
    track_ids: Sequence[int], held_out: Iterable[int], group_of: dict[int, int]
) -> list[int]:
    """Returns places in `track_ids` of the tracks to train on: one of each group, and none of a
    group with a held-out track.
    """
    taken = {group_of[track_id] for track_id in held_out if track_id in group_of}
    places = []
    for place, track_id in enumerate(track_ids):
        group = group_of.get(track_id)
        if group is None or group not in taken:
            places.append(place)
        if group is not None:
            taken.add(group)
    return places
