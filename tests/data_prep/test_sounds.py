"""Noise and rooms as people have them on their disks: found without a setting, and train and test
never mix.
"""

import csv
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from data_prep.augment import Chain
from data_prep.config import ChainConfig, Draw
from data_prep.sounds import PARTS, Sounds, find_sounds, prepare_sounds, read_sound
from data_prep.tracks import SourceError

_RATE_HZ = 16_000


def _write(
    path: pathlib.Path, seed: int, *, rate_hz: int = _RATE_HZ, num: int = 4_000
) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).normal(size=num), rate_hz)
    return path


def _esc50(root: pathlib.Path, num: int = 20) -> pathlib.Path:
    names = [f"{i % 5 + 1}-{1000 + i // 2}-A-{i}.wav" for i in range(num)]
    for i, name in enumerate(names):
        _write(root / "audio" / name, i, rate_hz=44_100)
    (root / "meta").mkdir()
    with open(root / "meta" / "esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["filename", "fold", "target", "category"], *([n, n[0], "0", "dog"] for n in names)]
        )
    return root


def _ms_snsd(root: pathlib.Path) -> pathlib.Path:
    for i in range(4):
        _write(root / "noise_train" / f"Babble_{i}.wav", 100 + i)
        _write(root / "noise_test" / f"Babble_{i}.wav", 200 + i)  # the same names, other recordings
    _write(root / "clean_train" / "speech.wav", 300)  # no noise
    return root


def _mit(root: pathlib.Path) -> pathlib.Path:
    for i in range(1, 272):
        path = root / "Audio" / f"h{i:03d}_Bedroom_{i % 90 + 1}txts.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % i)  # not decoded here
    return root


def _plain(root: pathlib.Path) -> pathlib.Path:
    for i in range(3):
        _write(root / "train" / "rain" / f"{i}.flac", 400 + i)
        _write(root / "test" / "wind" / f"{i}.wav", 500 + i)
    return root


@pytest.mark.parametrize("make", [_esc50, _ms_snsd, _mit, _plain])
def test_train_and_test_share_nothing(tmp_path: pathlib.Path, make) -> None:
    folder = make(tmp_path / "sounds")
    parts = {
        part: {path.read_bytes() for path in find_sounds(folder, part).values()} for part in PARTS
    }
    assert not parts["train"] & parts["test"]
    assert all(parts.values())


def test_esc_50_is_split_by_its_folds(tmp_path: pathlib.Path) -> None:
    folder = _esc50(tmp_path)
    assert {name[0] for name in find_sounds(folder, "train")} == set("1234")
    assert {name[0] for name in find_sounds(folder, "test")} == {"5"}
    (folder / "audio" / "5-1002-A-4.wav").unlink()
    with pytest.raises(SourceError, match=r"5-1002-A-4\.wav and 0 more .* unpack ESC-50 again"):
        find_sounds(folder, "test")
    (folder / "meta" / "esc50.csv").write_text("name,kind\na,b\n")
    with pytest.raises(SourceError, match="columns filename and fold are missing"):
        find_sounds(folder, "train")
    for rows in ("a.wav\n", "a.wav," + "5" * 200_000 + "\n"):
        (folder / "meta" / "esc50.csv").write_text("filename,fold\n" + rows)
        with pytest.raises(SourceError, match="download ESC-50 again"):
            find_sounds(folder, "train")


def test_ms_snsd_is_its_noise_alone(tmp_path: pathlib.Path) -> None:
    folder = _ms_snsd(tmp_path)
    for part in PARTS:
        assert {path.parent.name for path in find_sounds(folder, part).values()} == {
            f"noise_{part}"
        }


def test_the_mit_survey_keeps_its_split(tmp_path: pathlib.Path) -> None:
    """By the room's number: the same when files are missing, or lie elsewhere."""
    folder = _mit(tmp_path / "all")
    parts = {part: set(find_sounds(folder, part)) for part in PARTS}
    assert len(parts["train"] | parts["test"]) == 271
    assert 0.12 < len(parts["test"]) / 271 < 0.28
    few = tmp_path / "few"
    few.mkdir()
    for name in sorted(parts["train"] | parts["test"])[::3]:
        shutil.copy(folder / "Audio" / name, few / name)
    for part in PARTS:
        assert set(find_sounds(few, part)) == {
            name for name in parts[part] if (few / name).exists()
        }


def test_a_copy_in_both_parts_is_test(tmp_path: pathlib.Path) -> None:
    folder = _plain(tmp_path)
    shutil.copy(folder / "test" / "wind" / "0.wav", folder / "train" / "rain" / "the same wind.wav")
    assert "rain/the same wind.wav" not in find_sounds(folder, "train")
    assert len(find_sounds(folder, "train")) == 3
    assert "wind/0.wav" in find_sounds(folder, "test")


def test_several_folders_at_once(tmp_path: pathlib.Path) -> None:
    folders = f"{_esc50(tmp_path / 'esc')}, {_ms_snsd(tmp_path / 'ms')}"
    for part, num_esc in (("train", 16), ("test", 4)):
        sounds = prepare_sounds(
            folders, "", part, cache=tmp_path / "cache", sample_rate_hz=_RATE_HZ
        )
        assert len(sounds.noise) == num_esc + 4
        assert len({read_sound(name).tobytes() for name in sounds.noise}) == num_esc + 4
        assert (
            soundfile.info(sounds.noise[0]).samplerate == _RATE_HZ
        )  # ESC-50's 44.1 kHz is resampled
    _plain(tmp_path / "a")
    _plain(tmp_path / "b")
    with pytest.raises(SourceError, match=r"0\.flac and .* have the same name"):
        prepare_sounds(
            f"{tmp_path / 'a'},{tmp_path / 'b'}",
            "",
            "train",
            cache=tmp_path / "c",
            sample_rate_hz=_RATE_HZ,
        )


def test_a_room_longer_than_the_clip(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "ir" / "train" / "cathedral.wav", 0, num=10 * _RATE_HZ)
    sounds = prepare_sounds(
        "", str(tmp_path / "ir"), "train", cache=tmp_path / "cache", sample_rate_hz=_RATE_HZ
    )
    clip = 0.1 * np.random.default_rng(1).normal(size=_RATE_HZ).astype(np.float32)
    heard = (
        Chain(ChainConfig(reverb_p=1.0), sounds)
        .apply(clip, sample_rate_hz=_RATE_HZ, seed=(0,))
        .samples
    )
    assert heard.shape == clip.shape
    assert np.isfinite(heard).all()


def test_no_such_layout(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "sounds" / "a.wav", 0)
    for folder in (tmp_path / "sounds", tmp_path / "nowhere"):
        with pytest.raises(SourceError, match=r"must hold train/ and test/, or be ESC-50"):
            find_sounds(folder, "train")


def test_varying_noise_has_the_drawn_snr_and_varies(tmp_path: pathlib.Path) -> None:
    sounds = prepare_sounds(
        str(_plain(tmp_path)), "", "train", cache=tmp_path / "cache", sample_rate_hz=_RATE_HZ
    )
    clip = 0.1 * np.random.default_rng(1).normal(size=20 * _RATE_HZ).astype(np.float32)
    heard = Chain(ChainConfig(varying=Draw(1, 3, 3)), Sounds(noise=sounds.noise)).apply(
        clip, sample_rate_hz=16_000, seed=(0,)
    )
    noise = heard.samples.astype(float) - clip
    assert 10 * np.log10(np.mean(clip.astype(float) ** 2) / np.mean(noise**2)) == pytest.approx(
        3, abs=0.01
    )
    levels_db = 10 * np.log10(np.mean(noise.reshape(-1, _RATE_HZ // 4) ** 2, axis=1))
    assert np.ptp(levels_db) > 9
