"""What a preparation run reads from and writes to."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator

from confp_jax.data.records import VERSION, Credits
from confp_jax.files import RUN_LOCK, one_process
from data_prep import fma, folder
from data_prep.config import PrepareConfig, QueryConfig
from data_prep.sounds import Sounds
from data_prep.tracks import Failure, SourceError, Track

DEFAULT_SUBSET = "large"
LEAST_PRESENT = 0.9  # of a table's files; fewer: the folder is wrong, or still being unpacked


def output_folder(out: str) -> pathlib.Path:
    """Makes the folder that shards go to.

    Raises:
      SourceError: none was named.
    """
    if not out:
        raise SourceError("no output folder: pass --config.out=FOLDER")
    folder_path = pathlib.Path(out)
    try:
        (folder_path / ".shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            f"{out}: cannot be made a folder ({error.strerror}); pass another --config.out"
        ) from error
    return folder_path


@contextlib.contextmanager
def one_run(out: pathlib.Path) -> Iterator[None]:
    """Holds a folder that is written to for this run.

    Raises:
      SourceError: another run writes to it.
    """

    def in_use(by: str) -> SourceError:
        return SourceError(
            f"{out} is being prepared{by}; wait until that run ends, stop it, or write to another "
            "--config.out"
        )

    with one_process(out / ".shards" / RUN_LOCK, in_use):
        yield


def read_tracks(config: PrepareConfig | QueryConfig) -> list[Track]:
    """Returns FMA's tracks where a tracks.csv is named, else every audio file of the folder.

    Raises:
      SourceError: no music is named, or a setting that needs a tracks.csv.
    """
    if not config.music_dir:
        raise SourceError(
            "no music: pass --config.music_dir=FOLDER (and --config.tracks_csv=FILE if it is FMA)"
        )
    if config.tracks_csv:
        return fma.read_tracks(
            config.tracks_csv, config.music_dir, subset=config.subset or DEFAULT_SUBSET
        )
    for name in ("subset", "allow_missing"):
        if getattr(config, name):
            raise SourceError(
                f"{name}={getattr(config, name)!r} has no effect without a table of tracks: pass "
                f"--config.tracks_csv=fma_metadata/tracks.csv, or leave {name} out, for all of "
                f"{config.music_dir} is taken"
            )
    return folder.read_tracks(config.music_dir)


def check_present(tracks: list[Track], config: PrepareConfig | QueryConfig) -> None:
    """Checks whether the music that is listed has been unpacked where it is looked for.

    Raises:
      SourceError: no file is there, or so few that the folder is likely wrong or unfinished.
    """
    missing = [track.path for track in tracks if not track.path.is_file()]
    num_found = len(tracks) - len(missing)
    if not missing or (
        num_found and (config.allow_missing or num_found >= LEAST_PRESENT * len(tracks))
    ):
        return
    found = f"{num_found} of {len(tracks)} files of {config.tracks_csv} are there"
    more = ", or --config.allow_missing to leave out what is not there" if num_found else ""
    raise SourceError(
        f"{config.music_dir}: {found}, {missing[0]} is not; finish unpacking, or pass the folder "
        f"that holds FMA's 000, 001 and so on as --config.music_dir, the subset that you have as "
        f"--config.subset{more}"
    )


def known_bad(config: PrepareConfig | QueryConfig) -> list[Failure]:
    """Returns what `read_tracks` leaves out of FMA, with the reasons."""
    if not config.tracks_csv:
        return []
    return fma.known_bad(
        config.tracks_csv, config.music_dir, subset=config.subset or DEFAULT_SUBSET
    )


def sound_part(split: str) -> str:
    """Returns which noise and rooms a split may hear: what is trained on, or chosen by, never hears
    the test part.
    """
    return "train" if split in ("training", "validation") else "test"


def credits(config: PrepareConfig | QueryConfig, description: str) -> Credits:
    """Returns the citation and licence of what is prepared, as TFDS shows them."""
    if config.tracks_csv:
        return Credits(description, fma.CITATION, fma.LICENCE, fma.HOMEPAGE)
    return Credits(
        description,
        licence="As the owners of the recordings say: prepared from a folder of audio files.",
    )


def settings_json(
    config: PrepareConfig | QueryConfig, tracks: list[Track], sounds: list[Sounds]
) -> str:
    """Returns everything that decides the shards' content, without this machine's folders."""
    values = dataclasses.asdict(config)
    for key in (
        "music_dir",
        "tracks_csv",
        "noise_dir",
        "ir_dir",
        "out",
        "num_workers",
        "allow_missing",
    ):
        values.pop(key)
    values["subset"] = config.subset or DEFAULT_SUBSET
    ids = hashlib.sha256(
        json.dumps([[track.track_id, track.split] for track in tracks]).encode()
    ).hexdigest()
    values |= {
        "num_tracks": len(tracks),
        "tracks": ids,
        "sounds": [s.identity() for s in sounds],
        "format": VERSION,
    }
    return json.dumps(values, sort_keys=True)
