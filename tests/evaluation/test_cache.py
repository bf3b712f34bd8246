"""What is kept of an evaluation: damage is measured again, and one run at a time writes there."""

import dataclasses
import io
import os
import pathlib

import numpy as np
import pytest

from confp_jax.evaluation.measure.cache import (
    EvaluationInUseError,
    cached_rows,
    one_run,
    read_cached,
    write_json,
)
from confp_jax.evaluation.systems.registry import SystemSpec
from confp_jax.evaluation.systems.runner import IndexCost, SystemRunner
from confp_jax.files import RUN_LOCK

BROKEN = (b"", b"[{", b"\xff\xfe", b"7", b'[{"other": 1}]', b"[[1]]", b"[" * 100_000)


@dataclasses.dataclass(frozen=True)
class Row:
    value: float


@pytest.mark.parametrize("content", BROKEN)
def test_broken_rows_are_measured_again(tmp_path, caplog, content):
    path = tmp_path / "rows.json"
    assert cached_rows(path, Row, lambda: [Row(1.5)]) == [Row(1.5)]
    assert cached_rows(path, Row, lambda: [Row(2.5)]) == [Row(1.5)]
    path.write_bytes(content)
    assert cached_rows(path, Row, lambda: [Row(2.5)]) == [Row(2.5)]
    assert caplog.text.count("it is made again") == 1 and str(path) in caplog.text
    assert cached_rows(path, Row, lambda: [Row(3.5)]) == [Row(2.5)]


def test_every_damage_to_arrays_is_none_or_the_same(tmp_path):
    path = tmp_path / "a.npz"
    kept = io.BytesIO()
    np.savez(kept, a=np.arange(9), b=np.ones(3))
    whole = kept.getvalue()

    def read(path: pathlib.Path) -> list:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["a"].tolist() + arrays["b"].tolist()

    rng = np.random.default_rng(0)
    for cut in (0, 1, 50, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_cached(path, read) is None
    for place in rng.integers(len(whole), size=150).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert read_cached(path, read) in (None, [*range(9), 1, 1, 1])


def test_what_a_system_took_is_measured_again(tmp_path):
    runner = SystemRunner(SystemSpec("one", "chromaprint"), tmp_path)
    write_json(tmp_path / "index.json", dataclasses.asdict(IndexCost(1.0, 2, 3)))
    assert runner.index(lambda: []) == IndexCost(1.0, 2, 3)
    (tmp_path / "index.json").write_text('{"wall_s":')

    class ReachedError(Exception):
        pass

    def files():
        raise ReachedError

    with pytest.raises(ReachedError):
        runner.index(files)
    (tmp_path / "clean-x.json").write_text('{"answers": 7}')
    with pytest.raises(ReachedError):
        runner.ask("clean", "x", files)


def test_a_second_run_in_one_place_is_refused_by_name(tmp_path):
    locks = [tmp_path / "out" / RUN_LOCK, tmp_path / ".decision.json.lock"]
    with one_run(locks):
        for lock in locks:
            with (
                pytest.raises(EvaluationInUseError, match=rf"by process {os.getpid()} on .*wait"),
                one_run([lock]),
            ):
                pass
    with one_run(locks):
        pass
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("program", ["benchmark", "calibrate"])
def test_both_programs_hold_what_they_write_to(tmp_path, program):
    import importlib
    import types

    module = importlib.import_module(f"confp_jax.evaluation.{program}")
    config = importlib.import_module(f"configs.{program}").get_config()
    config.cache = str(tmp_path / "cache")
    values = types.SimpleNamespace(out=str(tmp_path / "out"))
    with (
        one_run([tmp_path / "cache" / RUN_LOCK]),
        pytest.raises(EvaluationInUseError, match=r"cache is being written to by process"),
    ):
        module.main(config, values)
