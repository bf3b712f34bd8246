"""Configuration: what goes through JSON comes back, and a wrong field is refused with a
suggestion.
"""

import dataclasses
import importlib
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from confp_jax.command_line import check_config_flags, load_config
from confp_jax.config import (
    AudioConfig,
    CheckpointConfig,
    DataConfig,
    EncoderConfig,
    MelConfig,
    OptimizerConfig,
    TrainConfig,
)
from confp_jax.training.effects import check_effects
from confp_jax.typed_config import ConfigError, default_values, from_mapping
from data_prep.config import ChainConfig, Draw, PrepareConfig, QueryConfig

_FLOATS = st.floats(0.1, 1e6)


@given(
    st.builds(
        TrainConfig,
        name=st.text(),
        seed=st.integers(0, 2**31 - 1),
        temperature=_FLOATS,
        audio=st.builds(
            AudioConfig, sample_rate_hz=st.integers(16_000, 48_000), segment_s=st.floats(1, 1e6)
        ),
        optimizer=st.builds(
            OptimizerConfig, learning_rate=_FLOATS, schedule=st.sampled_from(["constant", "cosine"])
        ),
        data=st.builds(
            DataConfig,
            dir=st.text(),
            crop_spacing_s=st.tuples(_FLOATS, _FLOATS),
            mel_on=st.sampled_from(["host", "device"]),
        ),
    )
)
def test_json_round_trip(config: TrainConfig) -> None:
    again = TrainConfig.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config), "a jitted step takes it as a static argument"


NOT_TRAINED = ("encoder.projection.", "audio.context_s")  # made by training/fit_projection.py


@pytest.mark.parametrize("name", ["small", "medium", "large", "large_online", "edge", "tiny"])
def test_every_model(name: str) -> None:
    from configs.fma import get_config

    values = get_config(name)
    config = from_mapping(TrainConfig, values)
    assert config.name == name.removesuffix("_online")
    assert TrainConfig.from_json(config.to_json()) == config
    fields = {
        name for name in _leaves(dataclasses.asdict(config)) if not name.startswith(NOT_TRAINED)
    }
    assert set(_leaves(values.to_dict())) == fields, "a field is missing in configs/fma.py"


def test_a_file_of_settings_starts_from_the_defaults() -> None:
    values = default_values(DataConfig, without=("mix.tempo", "short_s"))
    assert from_mapping(DataConfig, values) == DataConfig()
    assert "short_s" not in values and "tempo" not in values["mix"] and "tempo_p" in values["mix"]


def test_a_file_of_settings_names_no_field_that_there_is_not() -> None:
    from configs.prepare import get_config

    with pytest.raises(KeyError, match="no_such_field"):
        get_config().update({"no_such_field": 1})


def test_unknown_model() -> None:
    from configs.fma import get_config

    with pytest.raises(
        ValueError,
        match="unknown model 'smal'; known: small, medium, large, edge, tiny, small_online",
    ):
        get_config("smal")


@pytest.mark.parametrize(("module", "kind"), [("prepare", PrepareConfig), ("queries", QueryConfig)])
def test_preparation(module: str, kind: type) -> None:
    values = importlib.import_module(f"configs.{module}").get_config()
    config = from_mapping(kind, values)
    assert set(_leaves(values.to_dict())) == set(_leaves(dataclasses.asdict(config)))
    json.dumps(dataclasses.asdict(config))


def test_every_config_file_is_tested(root: pathlib.Path) -> None:
    """A new configs/*.py must parse, too: add it here."""
    known = {"__init__", "fma", "prepare", "queries", "benchmark", "calibrate", "open_set"}
    assert {path.stem for path in (root / "configs").glob("*.py")} == known
    for name in known - {"__init__"}:
        assert isinstance(importlib.import_module(f"configs.{name}").get_config(), ConfigDict)


def test_the_paper_s_numbers() -> None:
    """The table of docs/research/paper.md."""
    from configs.fma import get_config

    expected = {
        "small": (256, 2, 4, 80, 0.07, 1e-4),
        "medium": (512, 3, 8, 80, 0.05, 2e-4),
        "large": (768, 4, 12, 96, 0.05, 2e-4),
    }
    for name, numbers in expected.items():
        config = from_mapping(TrainConfig, get_config(name))
        encoder = config.encoder
        assert (encoder.dim, encoder.num_layers, encoder.num_heads) == numbers[:3]
        assert (config.mel.num_mels, config.temperature, config.optimizer.learning_rate) == numbers[
            3:
        ]
        assert (encoder.conv_kernel, encoder.embedding_dim, encoder.dropout) == (5, 128, 0.5)
        assert (encoder.frames_per_token, encoder.pool_segments) == (1, 1)
        assert (config.mel.fft_samples, config.mel.hop_samples, config.audio.segment_samples) == (
            1024,
            128,
            48_000,
        )
        assert (config.num_epochs, config.data.batch_size, config.optimizer.weight_decay) == (
            100,
            64,
            5e-4,
        )
        assert (config.optimizer.schedule, config.optimizer.decoupled) == ("constant", False)
        data = config.data
        assert (data.crops_per_track, data.shift_alpha, data.shift_beta, data.max_shift_s) == (
            1,
            8.0,
            2.0,
            0.150,
        )


def test_frames_of_a_segment() -> None:
    assert MelConfig().num_frames(48_000) == 368  # docs/develop/facts.md
    assert MelConfig().num_frames(1024) == 1
    assert MelConfig().num_frames(1023) <= 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_epoch": 3}, "unknown field 'num_epoch'; did you mean 'num_epochs'?"),
        ({"data": {"batchsize": 3}}, "unknown field 'data.batchsize'; did you mean 'batch_size'?"),
        ({"zzz": 3}, "unknown field 'zzz'; known: name, seed,"),
        ({"num_epochs": 2.5}, "num_epochs must be int, found 2.5"),
        ({"num_epochs": "3"}, "num_epochs must be int, found '3'"),
        ({"num_epochs": True}, "num_epochs must be int, found True"),
        ({"temperature": True}, "temperature must be float, found True"),
        ({"temperature": "cold"}, "temperature must be float, found 'cold'"),
        ({"data": 3}, "data must be a group of fields, found 3"),
        ({"mel": {"scale": "bark"}}, "mel.scale='bark' must be one of 'slaney', 'htk'"),
        ({"data": {"crop_spacing_s": (0.3,)}}, "data.crop_spacing_s needs 2 values, found 1"),
        (
            {"data": {"crop_spacing_s": (0.3, "far")}},
            r"data.crop_spacing_s\[1\] must be float, found 'far'",
        ),
        ({"data": {"crop_spacing_s": 0.3}}, "data.crop_spacing_s"),
        ({"data": {"mel_on": ["host"]}}, "data.mel_on"),
    ],
)
def test_wrong_values(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, values)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"data": {"mel_on": "host", "residency": "device"}}, "data.mel_on=device"),
        (
            {"data": {"mel_on": "device", "mix": {"tempo_p": 0.5}}},
            "data.mel_on=host, data.residency=device",
        ),
        ({"temperature": 0.0}, "temperature"),
        ({"encoder": {"dim": 250}}, "encoder.dim"),
        ({"encoder": {"conv_kernel": 4}}, "encoder.conv_kernel"),
        ({"encoder": {"dropout": 1.0}}, "encoder.dropout"),
        (
            {"audio": {"context_s": 2.0}},
            "audio.context_s=2.0 must be 0, or at least audio.segment_s=3.0",
        ),
        ({"encoder": {"projection": {"share": 1.5}}}, "encoder.projection.share=1.5"),
        ({"encoder": {"projection": {"contrast": {"box_mels": 4}}}}, "box_mels must be odd"),
        (
            {"encoder": {"projection": {"num_frames": 0}}},
            "encoder.projection.num_frames=0 must be positive",
        ),
        ({"data": {"batch_size": 7, "crops_per_track": 2}}, "data.batch_size"),
        # Zeros that would otherwise end in a ZeroDivisionError somewhere else.
        ({"encoder": {"num_heads": 0}}, "num_heads"),
        ({"encoder": {"frames_per_token": 0}}, "frames_per_token"),
        ({"encoder": {"pool_segments": 0}}, "pool_segments"),
        ({"encoder": {"num_layers": -1}}, "num_layers"),
        ({"mel": {"hop_samples": 0}}, "hop_samples"),
        ({"data": {"batch_size": 0}}, "batch_size"),
        ({"data": {"crops_per_track": 0}}, "crops_per_track"),
        ({"log_every_steps": 0}, "log_every_steps"),
        ({"data": {"num_shares": 3}}, "num_shares=3; set data.batch_size to a multiple"),
        ({"data": {"num_shares": 2, "tracks_per_album": 2}}, "set data.num_shares=1"),
        ({"freeze_statistics": True}, "freeze_statistics=True .* set init_from"),
        (
            {"freeze_statistics": True, "init_from": "x", "encoder": {"conv_norm": "layer"}},
            "encoder.conv_norm=batch",
        ),
        ({"num_epochs": 0}, "num_epochs"),
        ({"checkpoint": {"every_steps": 0}}, "every_steps"),
        ({"checkpoint": {"num_kept": 0}}, "num_kept"),
        ({"validation": {"queries_per_track": 0}}, "queries_per_track"),
        ({"validation": {"index_hop_s": 0.0}}, "index_hop_s"),
        ({"audio": {"segment_s": 0.01}}, "segment_s"),
        ({"data": {"short_p": 1.5}}, "short_p"),
        ({"data": {"short_p": 0.3, "short_s": (2.0, 1.0)}}, "short_s"),
        ({"data": {"short_p": 0.3, "short_s": (1.0, 3.5)}}, "short_s"),
        ({"data": {"short_p": 0.3, "short_s": (0.0, 2.0)}}, "short_s"),
        ({"data": {"mix": {"room_p": 1.5}}}, "room_p"),
        ({"data": {"mix": {"tempo": (1.2, 0.8)}}}, "tempo"),
        ({"data": {"mix": {"room_speed": (0.0, 1.0)}}}, "room_speed"),
        ({"data": {"mix": {"lead_s": -1.0}}}, "lead_s"),
        ({"mel": {"fmax_hz": 9000.0}}, "mel.fmax_hz=9000.0 must rise from 0 to 8000"),
        ({"mel": {"fmin_hz": 50.0, "fmax_hz": 40.0}}, "mel.fmax_hz"),
        ({"mel": {"fmin_hz": -5.0}}, "mel.fmin_hz"),
        ({"mel": {"fmax_hz": float("nan")}}, "mel.fmax_hz"),
        ({"seed": -1}, "seed=-1 must lie in"),
        ({"seed": 2**31}, "seed="),
    ],
    ids=str,
)
def test_impossible_values(values: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        from_mapping(TrainConfig, values)


def test_an_int_will_do_for_a_float() -> None:
    config = from_mapping(TrainConfig, {"temperature": 1, "data": {"crop_spacing_s": [1, 2]}})
    assert (type(config.temperature), config.data.crop_spacing_s) == (float, (1.0, 2.0))
    chain = from_mapping(ChainConfig, {"stretch": {"p": 1, "low": 1, "high": 2}})
    assert chain.stretch == Draw(1.0, 1.0, 2.0)


def test_a_config_dict_is_a_mapping() -> None:
    values = ConfigDict(
        {"name": "x", "checkpoint": {"every_steps": 7}, "data": {"crop_spacing_s": (1.0, 2.0)}}
    )
    config = from_mapping(TrainConfig, values)
    assert config.checkpoint == CheckpointConfig(every_steps=7)
    assert config.encoder == EncoderConfig()


def test_json_of_another_version() -> None:
    values = json.loads(TrainConfig().to_json()) | {"invented_later": 1}
    with pytest.raises(ConfigError, match="invented_later"):
        TrainConfig.from_json(json.dumps(values))


def _leaves(values: dict, prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        names += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return names


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/fma.py:smal"], "fma.py:smal: unknown model 'smal'; known: small, "),
        (["--config", "configs/fma.py:smal"], "unknown model 'smal'"),
        (
            ["--config=configs/benchmark.py:papers"],
            "'papers' is no benchmark; known: paper",
        ),
        (["--config=configs/fmaa.py"], "configs/fmaa.py: no such file; did you mean .*fma.py"),
        (["--config=nowhere/x.py"], "no such file; run the command in the repository's folder"),
        (["--config.data.dri=x"], "data.dri: .*no such field; did you mean 'data.dir'"),
        (["--config.nam", "x"], "did you mean 'name'"),
        (["--noconfig.decuple"], "no such field"),
    ],
)
def test_a_mistyped_configuration_is_one_line(
    flags: list[str], message: str, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(ConfigError, match=message):
        check_config_flags(flags, "configs/fma.py:small")


def test_a_file_that_is_no_configuration_is_one_line(tmp_path: pathlib.Path) -> None:
    for text in ("def get_config(: pass", "x = 1", "import nothing_like_it"):
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(ConfigError, match=r"mine\.py: \w+Error"):
            load_config(str(tmp_path / "mine.py"))


def test_a_setting_without_effect_is_refused_or_said(root: pathlib.Path) -> None:
    from configs.fma import get_config

    large = from_mapping(TrainConfig, get_config("large"))
    for field in ("num_epochs", "optimizer.learning_rate", "data.batch_size"):
        with pytest.raises(ConfigError, match=rf"--config\.{field} has no effect: phases="):
            check_effects(large, [field])
    assert check_effects(large, ["seed", "data.dir"]) == []
    small = from_mapping(TrainConfig, get_config("small"))
    assert check_effects(small, ["data.batch_size"]) == []
    (line,) = check_effects(small, ["data.mix.tempo", "temperature"])
    assert line == "--config.data.mix.tempo has no effect: data.mix.tempo_p is 0"


def test_an_unknown_subset_or_split_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="subset='larg' .*did you mean 'large'"):
        PrepareConfig(subset="larg")
    with pytest.raises(ConfigError, match="split='tests' .*did you mean 'test'"):
        QueryConfig(split="tests")


def test_the_papers_presets_have_its_transforms_alone() -> None:
    from configs.fma import get_config as model_config
    from configs.prepare import get_config as prepare_config
    from configs.queries import get_config as query_config
    from data_prep.make_queries import CONDITIONS

    for subset in ("small", "medium", "large"):
        config = from_mapping(PrepareConfig, prepare_config(f"paper_{subset}"))
        assert config.subset == subset
        drawn = {name for name, value in vars(config.chain).items() if getattr(value, "p", 0) > 0}
        assert drawn == {"stretch", "pitch", "background", "coloured", "tanh"}
        assert min(config.chain.reverb_p, config.chain.polarity_p) > 0
        assert config.chain.replay_p == 0
        online = from_mapping(TrainConfig, model_config(f"{subset}_online"))
        assert (online.data.subset, online.data.mix.clean_p) == (subset, 1.0)
        stretch = config.chain.stretch
        mix = online.data.mix
        assert (mix.tempo_p, mix.tempo, mix.turntable) == (
            stretch.p,
            (stretch.low, stretch.high),
            0,
        )
        assert mix.noise_snr_db == (config.chain.background.low, config.chain.background.high)
    queries = from_mapping(QueryConfig, query_config("paper"))
    assert queries.split == "test"
    assert set(queries.conditions) < set(CONDITIONS)
    for wrong in ("paper", "paper_", "smal"):
        with pytest.raises(ValueError, match="unknown subset"):
            prepare_config(wrong)


@pytest.mark.parametrize("text", ["[]", "7", "null", '"x"', "[" * 100_000, '{"audio": 7}'])
def test_json_that_is_no_configuration(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a group of fields|nested too deeply"):
        TrainConfig.from_json(text)
