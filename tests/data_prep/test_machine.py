"""What a long run meets: kills at any step, a full disk, damage on the way; and what TFDS tells
about the result.
"""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from rich.console import Console

from confp_jax.data.clips import ClipSource
from confp_jax.data.records import DatasetError
from data_prep import fma, shards
from data_prep.config import PrepareConfig
from data_prep.sources import one_run
from data_prep.tracks import SourceError
from data_prep.verify import verify

_RATE_HZ = 16_000
_QUIET = Console(quiet=True)


@pytest.fixture
def small(tmp_path: pathlib.Path) -> dict[str, object]:
    """A preparation of a fraction of a second: three wav files, one of them useless, one noise for
    each part.
    """
    from data_prep.folder import read_tracks

    rng = np.random.default_rng(0)
    music = tmp_path / "music"
    splits = set()
    music.mkdir()
    for number in range(200):  # the split hangs on the content
        soundfile.write(music / f"{number}.wav", 0.1 * rng.normal(size=7 * _RATE_HZ), _RATE_HZ)
        (track,) = [track for track in read_tracks(music) if track.path.name == f"{number}.wav"]
        if track.split in splits:
            track.path.unlink()
        splits.add(track.split)
        if len(splits) == 3:
            break
    soundfile.write(music / "short.wav", 0.1 * rng.normal(size=_RATE_HZ), _RATE_HZ)
    for part in ("train", "test"):
        (tmp_path / "noise" / part).mkdir(parents=True)
        soundfile.write(
            tmp_path / "noise" / part / "rain.wav", 0.1 * rng.normal(size=9_000), _RATE_HZ
        )
    folders = {
        "music_dir": str(music),
        "noise_dir": str(tmp_path / "noise"),
        "out": str(tmp_path / "out"),
    }
    chain = {"background": {"p": 0.5, "low": 5.0, "high": 10.0}, "polarity_p": 0.5}
    return folders | {
        "name": "small",
        "num_replicas": 1,
        "tracks_per_shard": 1,
        "num_workers": 1,
        "chain": chain,
    }


@pytest.fixture
def prepare() -> Callable[..., pathlib.Path]:
    from confp_jax.typed_config import from_mapping
    from data_prep.make_train import prepare

    def run(values: dict, console: Console = _QUIET, **overrides: object) -> pathlib.Path:
        config = from_mapping(PrepareConfig, values | overrides)
        prepare(config, console)
        return pathlib.Path(config.out)

    return run


def _killed_at_every(
    small: dict, tmp_path: pathlib.Path, root: pathlib.Path, every: int
) -> list[dict]:
    (tmp_path / "config.json").write_text(json.dumps(small))
    script = root / "tests" / "data_prep" / "killed_preparation.py"
    command = [
        sys.executable,
        str(script),
        str(tmp_path / "config.json"),
        str(tmp_path / "killed"),
        str(every),
    ]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [attempt["killed"] for attempt in attempts] == [True] * (len(attempts) - 1) + [False]
    return attempts


def test_a_kill_at_any_step_loses_and_repeats_nothing(
    small: dict, tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    attempts = _killed_at_every(small, tmp_path, root, every=11)
    assert len(attempts) > 3
    assert all(attempt["same"] for attempt in attempts), attempts


@pytest.mark.slow
def test_a_kill_at_every_step_loses_and_repeats_nothing(
    small: dict, tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    attempts = _killed_at_every(small, tmp_path, root, every=1)
    assert len(attempts) > 40
    assert all(attempt["same"] for attempt in attempts), attempts


def test_verify_finds_any_damage(small: dict, prepare: Callable, tmp_path: pathlib.Path) -> None:
    out = prepare(small)
    shown = io.StringIO()
    verify(out, Console(file=shown, width=300))
    assert "shards and 6 clips are as they were written" in shown.getvalue()
    (shard, *_) = sorted(out.glob("small-*.array_record*"))
    whole = shard.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(5):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        with pytest.raises(DatasetError, match=rf"{shard.name} is damaged: its checksum"):
            verify(out, _QUIET)
    shard.write_bytes(whole[:-1])
    with pytest.raises(
        DatasetError,
        match=rf"{shard.name} has {len(whole) - 1} bytes instead of {len(whole)}; delete that file",
    ):
        verify(out, _QUIET)
    shard.unlink()
    with pytest.raises(DatasetError, match=f"{shard.name} is missing"):
        verify(out, _QUIET)
    prepare(small)  # as the message says
    assert shard.read_bytes() == whole
    verify(out, _QUIET)
    (out / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match=r"manifest\.json is missing or damaged"):
        verify(out, _QUIET)


def test_a_second_run_in_one_folder_is_refused_by_name(small: dict, prepare: Callable) -> None:
    with (
        one_run(pathlib.Path(small["out"])),
        pytest.raises(SourceError, match=r"out is being prepared by process \d+ on .*--config"),
    ):
        prepare(small)
    assert not list(pathlib.Path(small["out"]).glob("*.array_record*"))


def test_damaged_notes_and_caches_are_made_again(small: dict, prepare: Callable) -> None:
    out = prepare(small)
    (shard,) = out.glob("*-test.array_record*")
    whole = shard.read_bytes()
    note = out / ".shards" / f"{shard.name}.json"
    good = json.loads(note.read_text())
    odd = (good | {"clips": 7}, good | {"bytes": "x"}, good | {"failures": [1]}, [good])
    for text in (b"", b"\xff", b"[" * 100_000, *(json.dumps(one).encode() for one in odd)):
        note.write_bytes(text)
        prepare(small)
        assert json.loads(note.read_text()) == good and shard.read_bytes() == whole
    cached = next((out / ".sounds").rglob("*.wav"))
    sound = soundfile.read(cached)[0]
    cached.write_bytes(b"RIFF")
    cached.with_name(f"{cached.name}.source").write_bytes(b"\xff")
    prepare(small)
    np.testing.assert_array_equal(soundfile.read(cached)[0], sound)
    (out / ".shards" / "identity").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="made with other settings"):
        prepare(small)


def test_verify_compares_records_with_the_table(small: dict, prepare: Callable) -> None:
    """A table of another run beside right shards."""
    out = prepare(small)
    table = np.load(out / "clips-training.npy")
    for field, value, message in (
        ("track_id", 5, "no piece of its clip"),
        ("num_samples", 100_000, "has 112000 samples"),
    ):
        changed = table.copy()
        changed[field][1] = value
        np.save(out / "clips-training.npy", changed)
        with pytest.raises(DatasetError, match=message):
            verify(out, _QUIET)


def test_the_manifest_counts_everything(small: dict, prepare: Callable) -> None:
    out = prepare(small)
    entries = json.loads((out / "manifest.json").read_text())["shards"]
    assert sum(entry["tracks"] for entry in entries) == 4
    assert sum(entry["clips"] for entry in entries) == 6  # the short file has none
    assert {out / entry["file"] for entry in entries} == set(out.glob("small-*.array_record*"))
    assert all((out / entry["file"]).stat().st_size == entry["bytes"] for entry in entries)
    assert sum(entry["records"] for entry in entries) == 6 * 3


def _limited(*arguments: str, max_bytes: int, root: pathlib.Path) -> subprocess.CompletedProcess:
    """With a limit on a file's size: the same answer from the system's calls as on a full disk,
    without a disk.
    """
    return subprocess.run(
        # By the shell: a fork of this process warns where another test has loaded JAX.
        [
            *("bash", "-c", f'ulimit -f {max_bytes // 1024} && exec "$@"', "limited"),
            *(
                sys.executable,
                "-m",
                "data_prep.make_train",
                "--config=configs/prepare.py",
                *arguments,
            ),
        ],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def test_a_full_disk_in_the_middle(
    small: dict, prepare: Callable, tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    drawn = (
        "stretch pitch speaker background varying coloured gain tanh clipping telephone resample "
        "mp3 opus aac"
    )
    off = [f"--config.chain.{transform}.p=0" for transform in drawn.split()]
    off += [
        "--config.chain.reverb_p=0",
        "--config.num_replicas=1",
        "--config.num_workers=1",
        "--config.tracks_per_shard=1",
    ]
    folders = [f"--config.music_dir={small['music_dir']}", f"--config.out={small['out']}"]
    done = _limited(*off, *folders, max_bytes=300_000, root=root)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "free space and start again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(pathlib.Path(str(small["out"])).glob("*array_record-*-of-00001"))
    again = _limited(*off, *folders, max_bytes=10_000_000, root=root)
    assert again.returncode == 0, again.stderr
    assert len(ClipSource(pathlib.Path(str(small["out"])), "training")) == 2


def test_no_room_is_said_before_the_start(
    small: dict, prepare: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_bytes = 4 * 7 * _RATE_HZ * 2 * 2  # four files of which one is short
    for free_bytes in (1_000_000_000, 1_000):
        usage = shutil.disk_usage("/")._replace(free=free_bytes)
        monkeypatch.setattr(shards.shutil, "disk_usage", lambda _, usage=usage: usage)
        shown = io.StringIO()
        if free_bytes > expected_bytes:
            out = prepare(small, Console(file=shown, width=300))
            written_bytes = sum(path.stat().st_size for path in out.glob("small-*"))
            said_gb = float(shown.getvalue().split(" GB to write")[0].split()[-1])
            assert abs(said_gb - written_bytes / 1e9) <= 0.005 + 0.3 * written_bytes / 1e9
            shutil.rmtree(out)
        else:
            with pytest.raises(
                SourceError, match=r"0\.0 GB are to be written and 0\.0 GB are free; free more"
            ):
                prepare(small, Console(file=shown, width=300))
            assert not list(pathlib.Path(str(small["out"])).glob("*array_record*"))


def test_tfds_tells_what_it_is(small: dict, prepare: Callable, tmp_path: pathlib.Path) -> None:
    info = tfds.builder_from_directory(str(prepare(small))).info
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        "training": 6,
        "validation": 6,
        "test": 6,
    }
    assert set(info.features) == {
        "track_id",
        "replica",
        "piece",
        "rate",
        "start_s",
        "samples",
        "draws",
    }
    assert "owners of the recordings" in info.redistribution_info.license
    music = tmp_path / "fma"
    source = sorted(pathlib.Path(str(small["music_dir"])).glob("[0-9]*.wav"))[0]
    (music / "000").mkdir(parents=True)
    shutil.copy(source, music / "000" / "000007.wav")
    rows = [",set,set,track,artist,album", ",split,subset,title,name,id", "track_id,,,,,"]
    rows += ["7,training,small,Song,Ann,3", "1486,training,small,Other,Bob,3"]
    (music / "tracks.csv").write_text("\n".join(rows) + "\n")
    out = prepare(
        small,
        music_dir=str(music),
        tracks_csv=str(music / "tracks.csv"),
        out=str(tmp_path / "fma_out"),
    )
    info = tfds.builder_from_directory(str(out)).info
    assert info.citation == fma.CITATION
    assert info.redistribution_info.license == fma.LICENCE
    assert info.homepage == fma.HOMEPAGE
    (failure,) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert (failure["track_id"], "short or broken" in failure["why"]) == (1486, True)
