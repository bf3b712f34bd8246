"""Query sets: what is heard in an excerpt lies where the record says, as loud as its condition
says.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from rich.console import Console

from confp_jax.audio.decode import decode
from confp_jax.data.clips import ClipSource, read_splits
from confp_jax.data.records import Clip, to_int16
from confp_jax.typed_config import ConfigError, from_mapping
from data_prep.config import QueryConfig
from data_prep.sources import one_run
from data_prep.tracks import SourceError

_RATE_HZ = 16_000
_SEGMENT = 48_000
_QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def make(root: pathlib.Path, music_dir: pathlib.Path) -> Callable[..., pathlib.Path]:
    """`make(out, conditions, **overrides)`: a query set of the example clips by configs/queries.py,
    in this process.
    """
    from configs.queries import get_config
    from data_prep.make_queries import make_queries

    def run(out: pathlib.Path, *conditions: str, **overrides: object) -> pathlib.Path:
        folders = {
            "noise_dir": str(root / "examples/noise"),
            "ir_dir": str(root / "examples/ir"),
            "music_dir": str(music_dir),
        }
        values = (
            get_config().to_dict()
            | folders
            | {"conditions": conditions, "out": str(out), "num_workers": 1}
        )
        make_queries(from_mapping(QueryConfig, values | overrides), _QUIET)
        return out

    return run


@pytest.fixture(scope="module")
def original(
    make: Callable, music_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> np.ndarray:
    """The one test track of the example clips."""
    from data_prep.folder import read_tracks

    (track,) = [track for track in read_tracks(music_dir) if track.split == "test"]
    return decode(track.path, sample_rate_hz=_RATE_HZ).samples


@pytest.fixture(scope="module")
def queries(make: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Clip]]:
    conditions = (
        "clean",
        "shift_10",
        "shift_40",
        "background_10db",
        "coloured_5db",
        "reverb_background_10db",
    )
    out = make(tmp_path_factory.mktemp("queries"), *conditions)
    assert tuple(read_splits(out)) == conditions
    return {name: list(ClipSource(out, name)) for name in conditions}


def test_five_excerpts_of_three_seconds(
    queries: dict[str, list[Clip]], original: np.ndarray
) -> None:
    for clips in queries.values():
        assert [clip.replica for clip in clips] == [0, 1, 2, 3, 4]
        assert len({clip.track_id for clip in clips}) == 1
        assert {len(clip.samples) for clip in clips} == {_SEGMENT}
    spacing = np.diff([clip.start_s for clip in queries["clean"]])
    np.testing.assert_allclose(spacing, (len(original) / _RATE_HZ - 3) / 4, atol=1e-4)


def _heard(original: np.ndarray, clip: Clip) -> np.ndarray:
    """The original at the record's start; float32 seconds leave half a sample open, which the
    correlation decides.
    """
    start = round(clip.start_s * _RATE_HZ)
    windows = [
        original[s : s + _SEGMENT]
        for s in (start - 1, start, start + 1)
        if 0 <= s <= len(original) - _SEGMENT
    ]
    return max(windows, key=lambda window: float(np.dot(window, clip.samples.astype(np.float32))))


@pytest.mark.parametrize("name", ["clean", "shift_10", "shift_40"])
def test_the_excerpt_is_the_original_at_its_start(
    queries: dict[str, list[Clip]], original: np.ndarray, name: str
) -> None:
    for clip in queries[name]:
        np.testing.assert_array_equal(clip.samples, to_int16(_heard(original, clip)))


@pytest.mark.parametrize(("name", "shift_s"), [("shift_10", 0.03), ("shift_40", 0.12)])
def test_shifted_excerpts_start_beside_the_index_s_grid(
    queries: dict[str, list[Clip]], name: str, shift_s: float
) -> None:
    off_s = np.array([clip.start_s - round(clip.start_s / 0.3) * 0.3 for clip in queries[name]])
    np.testing.assert_allclose(np.abs(off_s), shift_s, atol=1e-4)
    assert {-1.0, 1.0} == set(np.sign(off_s)), "both directions"


@pytest.mark.parametrize(("name", "snr_db"), [("background_10db", 10.0), ("coloured_5db", 5.0)])
def test_the_noise_is_as_loud_as_the_name_says(
    queries: dict[str, list[Clip]], original: np.ndarray, name: str, snr_db: float
) -> None:
    """In each excerpt by itself, not on average over the track."""
    for clip in queries[name]:
        clean = _heard(original, clip).astype(np.float64)
        assert np.abs(clip.samples.astype(int)).max() < 32767, (
            "a sum above full scale is scaled down: choose quieter music"
        )
        noise = clip.samples / 32767.0 - clean
        assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(
            snr_db, abs=0.15
        )


def test_test_queries_hear_the_test_part(
    queries: dict[str, list[Clip]], root: pathlib.Path
) -> None:
    folders = {path.parent.name for path in (root / "examples/noise/test").rglob("*.ogg")}
    for clip in queries["reverb_background_10db"]:
        reverb, noise = json.loads(clip.draws)
        assert (reverb["transform"], noise["transform"]) == (
            "ApplyImpulseResponse",
            "AddBackgroundNoise",
        )
        assert reverb["ir_file_path"].startswith("ir/test/")
        assert noise["noise_file_path"].split("/")[-2] in folders
    assert (
        len(
            {
                json.loads(clip.draws)[0]["ir_file_path"]
                for clip in queries["reverb_background_10db"]
            }
        )
        == 1
    ), "one room a track"


@pytest.mark.parametrize("name", ["clean", "stretch_70", "stretch_130", "pitch_up_1"])
def test_windows_are_aligned_at_their_centres(
    make: Callable, tmp_path: pathlib.Path, name: str
) -> None:
    """Bursts at known moments: one at t is heard at 1.5 s + (t - centre) / tempo."""
    from data_prep.folder import read_tracks

    rng = np.random.default_rng(0)
    moments_s = np.cumsum(rng.uniform(0.35, 0.65, 40))
    samples = np.zeros(round((moments_s[-1] + 1) * _RATE_HZ))
    for t in moments_s:
        samples[round(t * _RATE_HZ) :][:800] = (
            0.3 * rng.normal(size=800) * np.exp(-np.arange(800) / 120)
        )
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music" / "bursts.wav", samples, _RATE_HZ)
    (track,) = read_tracks(tmp_path / "music")
    out = make(tmp_path / "out", name, music_dir=str(tmp_path / "music"), split=track.split)
    tempo = {"stretch_70": 0.7, "stretch_130": 1.3}.get(name, 1.0)
    heard = 0
    for clip in ClipSource(out, name):
        assert clip.tempo == pytest.approx(tempo)
        energy = np.convolve((clip.samples / 32767.0) ** 2, np.ones(64), "same")
        expected_s = 1.5 + (moments_s - (clip.start_s + 1.5)) / tempo
        for t in expected_s[(expected_s > 0.2) & (expected_s < 2.7)]:
            first = round((t - 0.1) * _RATE_HZ)
            found_s = (first + np.argmax(energy[first : first + 3200])) / _RATE_HZ
            assert found_s - t == pytest.approx(
                0.002, abs=0.006
            )  # a burst is loudest 2 ms after it begins
            heard += 1
    assert heard >= 15


def test_same_seed_same_bytes(make: Callable, tmp_path: pathlib.Path) -> None:
    folders = [
        make(tmp_path / name, "background_10db", "shift_20", seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    shards = [
        {path.name: path.read_bytes() for path in folder.glob("*array_record*")}
        for folder in folders
    ]
    assert shards[0] == shards[1] != shards[2]


def test_a_second_run_in_one_folder_is_refused_by_name(
    make: Callable, tmp_path: pathlib.Path
) -> None:
    with (
        one_run(tmp_path / "set"),
        pytest.raises(SourceError, match=r"set is being prepared by process \d+ on"),
    ):
        make(tmp_path / "set", "clean")


def test_lengths_and_seeds(
    make: Callable, music_dir: pathlib.Path, root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A folder for each; a shorter excerpt lies inside the longer one, and the room is the same."""
    from configs.queries import get_config
    from data_prep.make_queries import make_queries, query_sets

    values = get_config().to_dict() | {
        "music_dir": str(music_dir),
        "ir_dir": str(root / "examples/ir"),
        "out": str(tmp_path / "q"),
    }
    values |= {
        "conditions": ("clean", "reverb"),
        "lengths_s": (1.0, 5.0),
        "seeds": (0, 7),
        "num_workers": 1,
    }
    sets = query_sets(from_mapping(QueryConfig, values))
    assert [pathlib.Path(one.out).name for one in sets] == [
        "1s_seed0",
        "1s_seed7",
        "5s_seed0",
        "5s_seed7",
    ]
    for one in (sets[0], sets[2]):
        make_queries(one, _QUIET)
    for name in ("clean", "reverb"):
        short, long = (list(ClipSource(one.out, name)) for one in (sets[0], sets[2]))
        for a, b in zip(short, long, strict=True):
            assert (len(a.samples), len(b.samples)) == (_RATE_HZ, 5 * _RATE_HZ)
            assert b.start_s - 1e-4 <= a.start_s <= b.start_s + 4 + 1e-4
            assert a.draws == b.draws
            offset = round((a.start_s - b.start_s) * _RATE_HZ)
            inside = b.samples.astype(float)[max(0, offset - 1) :][: _RATE_HZ + 2]
            # Each is scaled to fit on its own: the shape must agree.
            best = np.correlate(inside, a.samples.astype(float), "valid").max()
            assert (
                best
                > 0.999 * np.linalg.norm(a.samples.astype(float)) * np.linalg.norm(inside[1:-1])
                - 1e-3
            )


def test_errors(make: Callable, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="unknown condition 'clan'; did you mean 'clean'?"):
        make(tmp_path / "a", "clan")
    with pytest.raises((ConfigError, SourceError), match="tset"):
        make(tmp_path / "b", "clean", split="tset")
    with pytest.raises(SourceError, match="speech_dir"):
        make(tmp_path / "c", "speech_over_music_0db")
    (tmp_path / "music").mkdir()
    with pytest.raises(SourceError, match="music: no recordings of speech in this folder"):
        make(tmp_path / "c", "clean", speech_dir=str(tmp_path / "music"))
    soundfile.write(
        tmp_path / "music" / "short.wav", np.sin(np.arange(4 * _RATE_HZ) * 0.3), _RATE_HZ
    )
    from data_prep.folder import read_tracks

    (track,) = read_tracks(tmp_path / "music")
    others = [split for split in ("training", "validation", "test") if split != track.split]
    with pytest.raises(SourceError, match=f"no {others[0]} tracks"):
        make(tmp_path / "c", "clean", music_dir=str(tmp_path / "music"), split=others[0])
    make(tmp_path / "d", "clean", music_dir=str(tmp_path / "music"), split=track.split)
    (failure,) = [
        json.loads(line) for line in (tmp_path / "d" / "failures.jsonl").read_text().splitlines()
    ]
    assert "short.wav: 4.0 s is too short" in failure["why"]


def test_every_condition_s_chain_can_be_built(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Conditions are code: each must name sounds and values that audiomentations takes."""
    from data_prep.augment import Chain
    from data_prep.make_queries import CONDITIONS
    from data_prep.sounds import prepare_sounds

    examples = root / "examples"
    sounds = prepare_sounds(
        str(examples / "noise"),
        str(examples / "ir"),
        "test",
        cache=tmp_path,
        sample_rate_hz=_RATE_HZ,
    )
    others = (str(examples / "music/jordan-trudgett_battle2.mp3"),)
    sounds = dataclasses.replace(sounds, music=others, speech=others)
    assert {
        "clean",
        "reverb",
        *(f"shift_{p}" for p in (10, 20, 30, 40)),
        *(f"background_{d}db" for d in (5, 10, 15)),
    } <= CONDITIONS.keys()
    tone = np.sin(np.arange(_SEGMENT) * 0.3).astype(np.float32) * 0.1
    for name, condition in CONDITIONS.items():
        for config in (condition.clip, condition.excerpt):
            distorted = Chain(config, sounds).apply(tone, sample_rate_hz=_RATE_HZ, seed=(0,))
            assert np.isfinite(distorted.samples).all(), name
            assert bool(json.loads(distorted.draws)) == (config != type(config)()), name
