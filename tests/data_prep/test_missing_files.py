"""Music that is not there yet: refused before anything is written, or listed and made later."""

import csv
import dataclasses
import pathlib
from collections.abc import Collection

import numpy as np
import pytest
import soundfile
from rich.console import Console

from configs.prepare import get_config
from confp_jax.data.clips import ClipSource
from confp_jax.typed_config import from_mapping
from data_prep.config import PrepareConfig, QueryConfig
from data_prep.make_queries import make_queries, query_sets, total_size
from data_prep.make_train import prepare
from data_prep.sounds import prepare_sounds, read_sound
from data_prep.tracks import SourceError

_QUIET = Console(quiet=True)
_IDS = range(1, 13)


@pytest.fixture
def config(tmp_path: pathlib.Path) -> PrepareConfig:
    """A table of 12 training tracks, and no file of theirs yet; 3 tracks a shard."""
    rows = [[f"{track}", "training", "small", f"T{track}", "A", "1"] for track in _IDS]
    header = [["", *["set"] * 2, "track", "artist", "album"],
              ["", "split", "subset", "title", "name", "id"], ["track_id"] + [""] * 5]  # fmt: skip
    with open(tmp_path / "tracks.csv", "w", newline="") as file:
        csv.writer(file).writerows(header + rows)
    return PrepareConfig(
        music_dir=str(tmp_path / "music"),
        tracks_csv=str(tmp_path / "tracks.csv"),
        out=str(tmp_path / "out"),
        num_replicas=0,
        tracks_per_shard=3,
        num_workers=1,
    )


def _unpack(config: PrepareConfig, ids: Collection[int], *, length_s: float = 6.5) -> None:
    (pathlib.Path(config.music_dir) / "000").mkdir(parents=True, exist_ok=True)
    for track in ids:
        tone = 0.1 * np.sin(np.arange(round(length_s * 8000)) * 0.1 * track)
        soundfile.write(pathlib.Path(config.music_dir) / f"000/{track:06d}.wav", tone, 8000)


def _tracks(config: PrepareConfig) -> set[int]:
    return {clip.track_id for clip in ClipSource(pathlib.Path(config.out), "training")}


@pytest.mark.parametrize(("ids", "allowed"), [((), False), ((), True), (range(1, 8), False)])
def test_a_wrong_or_unfinished_folder_is_refused_and_nothing_written(
    config: PrepareConfig, ids: Collection[int], allowed: bool
) -> None:
    _unpack(config, ids)
    config = _with(config, allow_missing=allowed)
    with pytest.raises(SourceError, match=rf"{len(ids)} of 12 files.*--config\.music_dir"):
        prepare(config, _QUIET)
    assert not pathlib.Path(config.out).exists()


def test_what_was_missing_is_made_by_the_next_run(config: PrepareConfig) -> None:
    _unpack(config, range(1, 12))
    outcome = prepare(config, _QUIET)
    assert (outcome.num_clips, outcome.num_missing, outcome.exit_status) == (11, 1, 3)
    before = {p: p.stat().st_mtime_ns for p in pathlib.Path(config.out).glob("*array_record*")}
    _unpack(config, [12])
    assert prepare(config, _QUIET).exit_status == 0
    assert _tracks(config) == set(_IDS)
    assert (pathlib.Path(config.out) / "failures.jsonl").read_text() == ""
    same = [path for path, written in before.items() if path.stat().st_mtime_ns == written]
    assert len(same) == 3, "only the shard with the missing track is made again"


def test_a_file_that_was_being_unpacked_is_read_again(config: PrepareConfig) -> None:
    _unpack(config, _IDS)
    _unpack(config, [5], length_s=3.0)
    outcome = prepare(config, _QUIET)
    assert (outcome.num_clips, outcome.exit_status) == (11, 0), "too short, not missing"
    _unpack(config, [5])
    assert prepare(config, _QUIET).num_clips == 12
    assert _tracks(config) == set(_IDS)


def test_nothing_came(config: PrepareConfig) -> None:
    (pathlib.Path(config.music_dir) / "000").mkdir(parents=True)
    for track in _IDS:
        (pathlib.Path(config.music_dir) / f"000/{track:06d}.mp3").write_bytes(b"not found")
    assert prepare(config, _QUIET).exit_status == 1
    assert not (pathlib.Path(config.out) / "dataset_info.json").exists()
    # Shards that hold nothing belong to nobody: other settings may take the folder.
    for file in pathlib.Path(config.music_dir, "000").iterdir():
        file.unlink()
    _unpack(config, _IDS)
    other = _with(config, tracks_per_shard=4)
    assert prepare(other, _QUIET).exit_status == 0
    assert _tracks(other) == set(_IDS)


def test_query_sets_as_well(config: PrepareConfig) -> None:
    queries = QueryConfig(
        music_dir=config.music_dir,
        tracks_csv=config.tracks_csv,
        split="training",
        out=config.out,
        conditions=("clean",),
        num_workers=1,
    )
    _unpack(config, range(1, 8))
    with pytest.raises(SourceError, match="7 of 12 files"):
        make_queries(queries, _QUIET)
    _unpack(config, range(8, 12))
    assert make_queries(queries, _QUIET).exit_status == 3
    _unpack(config, [12])
    assert make_queries(queries, _QUIET).num_clips == 60


def test_the_size_of_several_query_sets_is_said_first(config: PrepareConfig) -> None:
    sets = query_sets(
        QueryConfig(
            music_dir=config.music_dir,
            tracks_csv=config.tracks_csv,
            split="training",
            out=config.out,
            conditions=("clean", "shift_40"),
            lengths_s=(1000.0, 2000.0),
        )
    )
    # 12 tracks, 5 excerpts, 2 conditions, 3,000 s of 32,000 bytes
    assert total_size(sets).startswith("11.5 GB in 2 query sets (1000s_seed0, 2000s_seed0)")


def test_forgotten_noise_leaves_the_folder_free(config: PrepareConfig) -> None:
    _unpack(config, _IDS)
    chain = get_config().chain.to_dict()
    asked = from_mapping(
        PrepareConfig,
        {"chain": chain, "num_replicas": 1}
        | {name: getattr(config, name) for name in ("music_dir", "tracks_csv", "out")},
    )
    with pytest.raises(SourceError, match=r"--config\.noise_dir"):
        prepare(asked, _QUIET)
    assert not pathlib.Path(config.out).exists()
    without = _with(asked, num_replicas=0, num_workers=1)
    assert prepare(without, _QUIET).num_clips == 12, "no replica hears noise"


def test_settings_without_a_table_are_refused(config: PrepareConfig) -> None:
    _unpack(config, _IDS)
    for change in ({"subset": "small"}, {"allow_missing": True}):
        with pytest.raises(SourceError, match=f"{next(iter(change))}=.*no effect without a table"):
            prepare(_with(config, tracks_csv="", **change), _QUIET)


def test_a_sound_that_changed_is_decoded_again(tmp_path: pathlib.Path) -> None:
    """Half a file, as unpacking leaves it, must not stay in the cache."""
    noise = tmp_path / "noise" / "train"
    noise.mkdir(parents=True)
    lengths = []
    for length in (4000, 8000):
        soundfile.write(noise / "a.wav", np.random.default_rng(0).uniform(-1, 1, length), 8000)
        sounds = prepare_sounds(
            str(noise.parent), "", "train", cache=tmp_path / "cache", sample_rate_hz=8000
        )
        read_sound.cache_clear()
        lengths.append(len(read_sound(sounds.noise[0])))
    assert lengths == [4000, 8000]


def _with(config: PrepareConfig, **changes: object) -> PrepareConfig:
    return dataclasses.replace(config, **changes)
