"""SIGKILL at any instant of what changes a database: everything that was committed is there."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def killed_writer(*arguments: str | int | pathlib.Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.database.killed_writer", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestKilled:
    """SIGKILL: all that was committed is there, whole, and the next writer continues.

    (killed_writer.py does the work.)
    """

    def test_at_random_instants(self, tmp_path):
        found = killed_writer("random", tmp_path / "r" / "db", 14, 1)
        assert found["operations"] > 20
        assert sum(found["killed_in"].values()) == 14

    @pytest.mark.slow
    def test_at_many_random_instants(self, tmp_path):
        kinds: dict[str, int] = {}
        for seed in range(4):
            for kind, num in killed_writer("random", tmp_path / str(seed) / "db", 100, seed)[
                "killed_in"
            ].items():
                kinds[kind] = kinds.get(kind, 0) + num
        # How many fall into which operation is the clock's choice (a remove takes a hundredth of
        # the time); test_before_each_line
        # kills in every one of them.
        assert sum(kinds.values()) == 400 and len(kinds) > 2, kinds

    @pytest.mark.parametrize("step", [47, pytest.param(2, marks=pytest.mark.slow)])
    def test_before_each_line(self, tmp_path, step):
        found = killed_writer("lines", tmp_path, step)
        assert set(found) == {"create", "add", "remove", "compact", "reindex", "fold"}
        for kind, result in found.items():
            assert result["lines"] > 80, kind
            assert result["failures"] == []
