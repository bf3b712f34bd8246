"""The whole preparation: what it writes, what it leaves out and says so, what it refuses."""

import io
import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from rich.console import Console
from shard_bytes import shard_bytes

from confp_jax.audio.decode import decode
from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.typed_config import ConfigError
from data_prep.config import ChainConfig, Draw, PrepareConfig
from data_prep.tracks import SourceError

_SPLITS = {"training": 6, "validation": 1, "test": 1}
_QUIET = Console(quiet=True)


@pytest.fixture
def prepare() -> Callable[[PrepareConfig, Console], None]:
    from data_prep.make_train import prepare

    return prepare


def _no_chain(
    config: Callable[..., PrepareConfig], out: pathlib.Path, **overrides: object
) -> PrepareConfig:
    """Replicas equal to the clean clip: quick."""
    return config(
        out, **({"chain": {}, "noise_dir": "", "ir_dir": "", "num_replicas": 1} | overrides)
    )


def test_what_it_writes(prepared: pathlib.Path, music_dir: pathlib.Path) -> None:
    for split, num_tracks in _SPLITS.items():
        source = ClipSource(prepared, split)
        assert (source.num_tracks, len(source)) == (num_tracks, 3 * num_tracks)
        for number in range(num_tracks):
            clips = [source[3 * number + i] for i in range(3)]
            assert len({clip.track_id for clip in clips}) == 1
            assert [clip.replica for clip in clips] == [0, 1, 2]
            clean = decode(
                music_dir / source.summary.track_names[str(clips[0].track_id)],
                sample_rate_hz=16_000,
            ).samples
            error = clips[0].samples / 32767 * max(1.0, np.abs(clean).max()) - clean
            assert np.abs(error).max() <= 0.51 / 32767 * max(1.0, np.abs(clean).max())
            assert (clips[0].tempo, clips[0].draws) == (1.0, "[]")
            for clip in clips[1:]:
                assert abs(len(clip.samples) * clip.tempo - len(clean)) <= 2
                stretches = [
                    draw["rate"]
                    for draw in json.loads(clip.draws)
                    if draw["transform"] == "TimeStretch"
                ]
                assert stretches == (
                    [] if clip.tempo == 1.0 else [pytest.approx(clip.tempo, abs=1e-6)]
                )
    assert (prepared / "failures.jsonl").read_text() == ""
    assert not list(prepared.rglob("*.part"))


def test_train_and_test_hear_different_noise(
    prepare_config: Callable[..., PrepareConfig], tmp_path: pathlib.Path
) -> None:
    from data_prep.make_train import make_clips
    from data_prep.sounds import prepare_sounds
    from data_prep.sources import read_tracks, sound_part

    chain = ChainConfig(background=Draw(1, 5, 5), reverb_p=1.0)
    config = prepare_config(
        tmp_path,
        chain={"background": {"p": 1.0, "low": 5.0, "high": 5.0}, "reverb_p": 1.0},
        num_replicas=4,
    )
    assert config.chain == chain
    sounds = {
        part: prepare_sounds(
            config.noise_dir, config.ir_dir, part, cache=tmp_path, sample_rate_hz=16_000
        )
        for part in ("train", "test")
    }
    folders = {
        part: {p.parent.name for p in pathlib.Path(config.noise_dir, part).rglob("*.*")}
        for part in ("train", "test")
    }
    assert not folders["train"] & folders["test"]
    first = {track.split: track for track in read_tracks(config)}
    for split, part in (("training", "train"), ("validation", "train"), ("test", "test")):
        assert sound_part(split) == part
        for clip in make_clips(first[split], split, config=config, sounds=sounds)[1:]:
            reverb, noise = json.loads(clip.draws)
            assert noise["noise_file_path"].split("/")[-3:-1] == [
                part,
                noise["noise_file_path"].split("/")[-2],
            ]
            assert noise["noise_file_path"].split("/")[-2] in folders[part]
            assert reverb["ir_file_path"].startswith(f"ir/{part}/")


def test_bad_files_among_good_ones(
    prepare: Callable,
    prepare_config: Callable[..., PrepareConfig],
    music_dir: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    music = tmp_path / "music"
    shutil.copytree(music_dir, music)
    good = next(iter(sorted(music_dir.glob("*.mp3")))).read_bytes()
    rng = np.random.default_rng(0)
    tone = 0.1 * np.sin(np.arange(10 * 16_000) * 0.3)
    (music / "damaged.mp3").write_bytes(good[:2000] + rng.bytes(40_000))
    (music / "empty.mp3").write_bytes(b"")
    (music / "text.mp3").write_text("404 not found " * 50)
    soundfile.write(music / "short.wav", tone[: 16_000 * 5], 16_000)
    soundfile.write(music / "silent.wav", np.zeros(10 * 16_000), 16_000)
    soundfile.write(
        music / "nan.wav",
        np.where(np.arange(len(tone)) == 5, np.nan, tone),
        16_000,
        subtype="FLOAT",
    )
    soundfile.write(music / "stereo.flac", np.stack([tone, tone], axis=1), 16_000)
    out = tmp_path / "out"
    shown = io.StringIO()
    prepare(_no_chain(prepare_config, out, music_dir=str(music)), Console(file=shown, width=500))
    failures = {
        pathlib.Path(f["path"]).name: f["why"]
        for f in map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    }
    assert sorted(failures) == [
        "damaged.mp3",
        "empty.mp3",
        "nan.wav",
        "short.wav",
        "silent.wav",
        "text.mp3",
    ]
    for name, why in {
        "empty.mp3": "0 bytes",
        "nan.wav": "NaN",
        "short.wav": "min_clip_s=6.0",
        "silent.wav": "silent",
    }.items():
        assert name in failures[name]
        assert why in failures[name]
    assert all(name in shown.getvalue() for name in failures)
    assert f"6 tracks left out; all of them are in {out / 'failures.jsonl'}" in shown.getvalue()
    sources = [ClipSource(out, split) for split in read_splits(out)]
    written = {clip.track_id for source in sources for clip in source}
    names = {sources[0].summary.track_names[str(track_id)] for track_id in written}
    assert names == {path.name for path in music_dir.glob("*.mp3")} | {"stereo.flac"}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"num_replicas": 1},
        {"tracks_per_shard": 2},
        {"chain": {}},
        {"min_clip_s": 7.0},
        {"noise_dir": "smaller"},
        "music",
    ],
    ids=str,
)
def test_other_settings_in_the_same_folder_are_refused(
    prepared: pathlib.Path,
    prepare: Callable,
    prepare_config: Callable[..., PrepareConfig],
    music_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    change: object,
) -> None:
    """Also where the other settings give other shards: the folder would hold a mixture that nobody
    can tell apart.
    """
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    for path in [*out.rglob("*-test.*"), *out.rglob("*-validation.*"), out / "confp.json"]:
        # as a kill in the first split leaves it: no shard of the new plan need have an old shard's
        # name
        path.unlink()
    before = shard_bytes(out)
    assert len(before) == _SPLITS["training"]
    if change == "music":
        shutil.copytree(music_dir, tmp_path / "music")
        _add_training_track(tmp_path / "music")
        change = {"music_dir": str(tmp_path / "music")}
    elif "noise_dir" in change:
        shutil.copytree(prepare_config(out).noise_dir, tmp_path / "noise")
        shutil.rmtree(tmp_path / "noise" / "train" / "helicopter")
        change = {"noise_dir": str(tmp_path / "noise")}
    with pytest.raises(SourceError, match=r"made with other settings.*another --config\.out"):
        prepare(prepare_config(out, **change), _QUIET)
    assert shard_bytes(out) == before, "nothing was touched"


def _add_training_track(music: pathlib.Path) -> None:
    from data_prep.folder import read_tracks

    known = {track.track_id for track in read_tracks(music)}
    for hz in range(200, 300):  # the split hangs on the content
        soundfile.write(
            music / "one more.wav", np.sin(2 * np.pi * hz * np.arange(7 * 16_000) / 16_000), 16_000
        )
        (added,) = [track for track in read_tracks(music) if track.track_id not in known]
        if added.split == "training":
            return


def test_doing_it_again_changes_nothing(
    prepared: pathlib.Path,
    prepare: Callable,
    prepare_config: Callable[..., PrepareConfig],
    tmp_path: pathlib.Path,
) -> None:
    out = tmp_path / "moved"
    shutil.copytree(prepared, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*array_record*")}
    prepare(prepare_config(out, num_workers=2), _QUIET)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*array_record*")} == before


def test_errors(
    prepare: Callable, prepare_config: Callable[..., PrepareConfig], tmp_path: pathlib.Path
) -> None:
    for overrides, message in (
        ({"music_dir": ""}, "no music"),
        ({"music_dir": str(tmp_path / "nowhere")}, "no such folder"),
        ({"noise_dir": ""}, "asks for background noise"),
        ({"ir_dir": str(tmp_path)}, "must hold train/ and test/"),
        ({"tracks_csv": str(tmp_path / "none.csv")}, "no such file"),
        ({"splits": ("train",)}, "'train'"),
        ({"num_replicas": -1}, "num_replicas"),
        ({"tracks_per_shard": 0}, "tracks_per_shard"),
    ):
        with pytest.raises((SourceError, ConfigError), match=message):
            prepare(prepare_config(tmp_path / "out", **overrides), _QUIET)
    (tmp_path / "file").write_text("")
    for out, message in ((tmp_path / "file", "file"), ("", "no output folder")):
        with pytest.raises(SourceError, match=message):
            prepare(prepare_config(out), _QUIET)


def test_no_track_in_any_split(
    prepare: Callable, prepare_config: Callable[..., PrepareConfig], tmp_path: pathlib.Path
) -> None:
    """One file, and its hash sends it elsewhere: say so instead of writing a dataset of nothing."""
    music = tmp_path / "music"
    music.mkdir()
    soundfile.write(music / "a.wav", np.sin(np.arange(7 * 16_000) * 0.3), 16_000)
    from data_prep.folder import read_tracks

    splits = tuple(split for split in _SPLITS if split != read_tracks(music)[0].split)
    with pytest.raises(SourceError, match="no track"):
        prepare(
            _no_chain(prepare_config, tmp_path / "out", music_dir=str(music), splits=splits), _QUIET
        )
