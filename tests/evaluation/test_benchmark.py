"""The whole benchmark on real clips; an untrained encoder still finds an undistorted excerpt that starts on the grid."""

import json
import pathlib

import pytest
from rich.console import Console

from configs.benchmark import get_config as benchmark_config
from configs.fma import get_config as model_config
from configs.queries import get_config as query_config
from confp_jax.config import TrainConfig, from_mapping
from confp_jax.data.clips import ClipSource
from confp_jax.data.records import DatasetError
from confp_jax.evaluation.benchmark import BenchmarkConfig, run
from data_prep.config import QueryConfig
from data_prep.make_queries import CONDITIONS, make_queries

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def queries(music_dir, tmp_path_factory):
    """Two excerpts of each of eight tracks: clean, and with noise at 5 dB."""
    values = query_config("all").to_dict() | {
        "music_dir": str(music_dir),
        "noise_dir": str(EXAMPLES / "noise"),
        "ir_dir": str(EXAMPLES / "ir"),
        "out": str(tmp_path_factory.mktemp("queries") / "set"),
        "excerpts_per_track": 2,
        "num_workers": 1,
        "conditions": ("clean", "shift_40", "stretch_85", "background_5db"),
    }
    config = from_mapping(QueryConfig, values)
    make_queries(config, Console(quiet=True))
    return pathlib.Path(config.out)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from flax import nnx

    from confp_jax.model.encoder import Encoder
    from confp_jax.training.checkpoint import EncoderState, save_encoder

    config = from_mapping(TrainConfig, model_config("tiny"))
    _, params, statistics = nnx.split(Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(7)), nnx.Param, ...)
    folder = tmp_path_factory.mktemp("model") / "untrained"
    save_encoder(folder, config, EncoderState(params, statistics))
    return folder


def _config(model, prepared, queries, **overrides):
    values = benchmark_config().to_dict() | {"model": str(model), "index": str(prepared), "queries": str(queries)}
    return from_mapping(BenchmarkConfig, values | overrides)


def test_both_searches_agree_and_the_results_are_written(model, prepared, queries, tmp_path, capsys):
    results = run(_config(model, prepared, queries, conditions=("clean", "background_5db")), tmp_path / "out")
    assert [(r.condition, r.search) for r in results] == [
        (condition, search) for condition in ("clean", "background_5db") for search in ("exact", "scann")
    ]
    for exact, scann in zip(results[::2], results[1::2], strict=True):
        assert exact.top1 == scann.top1  # below 20,000 rows ScaNN's search is exhaustive
    assert results[0].top1.track >= 0.9
    assert results[0].top1.num_queries == 16
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["condition"] for row in written["results"]] == [r.condition for r in results]
    assert (tmp_path / "out" / "hit_rates.png").stat().st_size > 10_000
    assert "| clean | exact |" in capsys.readouterr().out


def test_query_records_tell_the_truth(queries, music_dir):
    """A clean excerpt is the decoded file's samples at its start; a shifted start lies 120 ms off the grid."""
    import numpy as np

    from confp_jax.audio.decode import decode
    from data_prep.folder import read_tracks

    paths = {track.track_id: track.path for track in read_tracks(music_dir)}
    for clip in ClipSource(queries, "clean"):
        whole = decode(paths[clip.track_id], sample_rate_hz=16_000).samples
        begin = round(clip.start_s * 16_000)
        np.testing.assert_allclose(clip.samples / 32767, whole[begin : begin + 48_000], atol=2 / 32768)
    for clip in ClipSource(queries, "shift_40"):
        off_grid = clip.start_s / 0.3 - round(clip.start_s / 0.3)
        assert abs(abs(off_grid) - 0.4) < 1e-3
    for clip in ClipSource(queries, "stretch_85"):
        assert clip.rate == pytest.approx(0.85)
        assert len(clip.samples) == 48_000
    for clip in ClipSource(queries, "background_5db"):
        (draw,) = json.loads(clip.draws)
        assert draw["transform"] == "AddBackgroundNoise" and draw["snr_db"] == pytest.approx(5)
        assert draw["noise_file_path"].startswith("test/")  # never the training part


def test_every_condition_has_a_distinct_name_and_does_something():
    distortions = [condition for name, condition in CONDITIONS.items() if name != "clean"]
    assert len({repr(c) for c in distortions}) == len(distortions)
    assert CONDITIONS["clean"] not in distortions


def test_a_missing_query_set_says_what_to_do(model, prepared, tmp_path):
    with pytest.raises(DatasetError, match="no prepared dataset here"):
        run(_config(model, prepared, tmp_path / "nothing"), tmp_path / "out")
