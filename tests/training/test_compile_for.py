"""Costs against programs whose costs are known; the real step compiled for a TPU slice where libtpu
is installed.
"""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from confp_jax.config import MixConfig, TrainConfig
from confp_jax.data.clips import ClipSource
from confp_jax.training.accelerators import CHIPS, find_chip
from confp_jax.training.step_cost import Collective, StepCost, count_collectives, forecast_largest

MIXED = [field.name for field in dataclasses.fields(MixConfig) if field.name.endswith("_p")]


@pytest.fixture
def compile_for(monkeypatch) -> ModuleType:
    """The command's module, which sets the environment for libtpu before JAX: here for one test."""
    for name in (
        "JAX_PLATFORMS",
        "ALLOW_MULTIPLE_LIBTPU_LOAD",
        "TPU_SKIP_MDS_QUERY",
        "TPU_ACCELERATOR_TYPE",
        "TPU_WORKER_HOSTNAMES",
    ):
        monkeypatch.setenv(name, os.environ.get(name, "cpu"))
    return importlib.import_module("confp_jax.training.compile_for")


def _cost(batch: int, peak: float, **fields: object) -> StepCost:
    values = {
        "num_chips": 8,
        "state_bytes": 0,
        "audio_bytes": 0,
        "flops": 0.0,
        "bytes_moved": 0.0,
        "compile_s": 0.0,
    }
    return StepCost(
        **(values | {"collectives": {}, "batch_size": batch, "peak_bytes": round(peak)} | fields)
    )


def test_collectives_are_counted_with_their_bytes():
    hlo = """
  %all-gather = f32[128,128]{1,0} all-gather(f32[16,128]{1,0} %x), dimensions={0}
  %start = (f32[16,8]{1,0}, f32[128,8]{1,0}) all-gather-start(f32[16,8]{1,0} %y), dimensions={0}
  %done = f32[128,8]{1,0} all-gather-done((f32[16,8]{1,0}, f32[128,8]{1,0}) %start)
  %all-reduce.1 = (bf16[4,4]{1,0}, f32[]) all-reduce(bf16[4,4]{1,0} %a, f32[] %b), to_apply=%add
  %fused = f32[4]{0} fusion(f32[4]{0} %all-reduce.1), kind=kLoop
"""
    assert count_collectives(hlo) == {
        "all-gather": Collective(2, 4 * 128 * (128 + 8)),
        "all-reduce": Collective(1, 36),
    }


@pytest.mark.parametrize(
    ("fields", "chip", "expected_s"),
    [
        ({"flops": 197e12}, "v5e", 1.0),
        ({"flops": 197e12, "bytes_moved": 2 * 819e9}, "v5e", 2.0),
        (
            {"flops": 1.0, "collectives": {"all-reduce": Collective(1, round(448e9 * 4))}},
            "v6e",
            7.0,
        ),
        (
            {"flops": 1.0, "collectives": {"all-gather": Collective(1, round(448e9 * 4))}},
            "v6e",
            3.5,
        ),
        (
            {"flops": 1.0, "collectives": {"reduce-scatter": Collective(1, round(448e9))}},
            "v6e",
            7.0,
        ),
    ],
)
def test_the_roofline_is_the_slowest_part(fields: dict, chip: str, expected_s: float):
    assert _cost(8, 0, **fields).step_s(next(c for c in CHIPS if c.name == chip)) == pytest.approx(
        expected_s
    )


def test_the_largest_batch_leaves_room_for_the_audio(tiny, compile_for, monkeypatch):
    """The compiler fits more than the chip holds beside the set: 4 GB of audio, and more for each
    pair the more there are.
    """
    tried = []

    def compile_step(config: TrainConfig, mesh: object) -> StepCost:
        batch = config.data.batch_size
        tried.append(batch)
        audio = 4 * 1024**3
        growing = 30e6 * batch if batch <= 128 else 60e6 * batch
        return _cost(batch, audio + growing, audio_bytes=audio)

    monkeypatch.setattr(compile_for, "compile_step", compile_step)
    found = compile_for.find_largest(
        tiny(), SimpleNamespace(devices=np.full(8, SimpleNamespace(device_kind="TPU v5 lite")))
    )
    assert found.peak_bytes <= 16 * 1024**3 < 4 * 1024**3 + 60e6 * tried[2]
    assert found.batch_size == tried[-1] < tried[2]


def test_what_is_counted_once_is_said(tiny, compile_for):
    """XLA counts the body of a loop once, and microbatches are a loop."""
    cost = _cost(4, 1e9, flops=1e9)
    assert "one of the 2 microbatches" in compile_for.describe(
        cost, tiny(microbatches=2), "v5e:2x4"
    )
    assert "microbatches" not in compile_for.describe(cost, tiny(), "v5e:2x4")


def test_the_audio_of_each_chip_is_said(tiny, compile_for):
    told = compile_for.describe(
        _cost(4, 3e9, flops=1e9, audio_bytes=2 * 1024**3), tiny(), "v5e:2x4"
    )
    assert "of which state 0.00, audio 2.00" in told
    assert "audio" not in compile_for.describe(_cost(4, 3e9, flops=1e9), tiny(), "v5e:2x4")


def test_chips_are_found_by_what_jax_calls_them():
    assert find_chip("NVIDIA A100-SXM4-40GB").memory_bytes == 40e9
    assert find_chip("TPU v5 lite").name == "v5e"
    assert find_chip("cpu") is None


def test_the_forecast_fills_nine_tenths():
    """Known: 1 GB, 10 MB a pair, and the loss's logits."""

    def peak(batch: int) -> float:
        return 1e9 + 10e6 * batch + 12 * (2 * batch) ** 2 / 8

    found = forecast_largest(_cost(64, peak(64)), _cost(128, peak(128)), 16e9)
    assert found % 64 == 0
    assert peak(found) <= 0.9 * 16e9 < peak(found + 64)


def test_a_step_compiles_for_a_tpu_slice(root, prepared):
    """The real step, all of it: state, features, loss, optimizer, on a topology that is not
    here.
    """
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (pip install -c requirements.lock -e '.[tpu]')")
    flags = [
        "--config=configs/fma.py:tiny",
        "--config.audio.segment_s=1.0",
        "--config.encoder.dim=32",
        "--topology=v5e:2x2",
    ]
    flags += [
        "--config.encoder.num_heads=2",
        f"--config.data.dir={prepared}",
        "--config.data.residency=device",
    ]
    flags += [
        "--config.data.mel_on=device",
        *(f"--config.data.mix.{name}=0.0" for name in MIXED),
        "--config.data.mix.noise_p=0.5",
    ]
    command = [sys.executable, "-m", "confp_jax.training.compile_for", *flags, "--json"]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["num_chips"] == 4
    assert found["collectives"]["all-gather"][0] == 1
    assert 0 < found["state_bytes"] < found["peak_bytes"] < 16 * 1024**3
    assert found["flops"] > 1e6
    source = ClipSource(prepared, "training")
    all_audio = 2 * sum(source.row(clip).num_samples for clip in range(len(source)))
    assert all_audio / 4 < found["audio_bytes"] < found["peak_bytes"]
    assert 0 < found["step_s"]["v6e"] < found["step_s"]["v5e"] < 1
