"""Systems on real clips, each in its own process; those that are missing, crash or hang are bounded
and told of.
"""

import os
import pathlib
import shutil
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from confp_jax.audio.decode import decode
from confp_jax.data.records import to_int16
from confp_jax.evaluation.measure.query_sets import find_query_sets
from confp_jax.evaluation.systems import external, runner
from confp_jax.evaluation.systems.bounded import run_bounded
from confp_jax.evaluation.systems.chromaprint import best_alignments
from confp_jax.evaluation.systems.external import CommandConfig
from confp_jax.evaluation.systems.protocol import SystemFailedError
from confp_jax.evaluation.systems.registry import SystemSpec, system_version
from confp_jax.evaluation.systems.results import SystemRun, measure_systems
from confp_jax.evaluation.systems.runner import SystemRunner, write_wav
from confp_jax.typed_config import ConfigError

QUERY_BEGIN_S = 3.2
QUERY_S = 4.0


@pytest.fixture(scope="module")
def wavs(music_dir, tmp_path_factory):
    """Four clips whole, and a part of each with a little noise."""
    folder = tmp_path_factory.mktemp("wavs with a space; and more")
    rng = np.random.default_rng(0)
    index = []
    queries = []
    for path in sorted(music_dir.glob("*.mp3"))[:4]:
        samples = decode(path, sample_rate_hz=16_000).samples
        index.append(folder / f"{path.stem}.wav")
        write_wav(str(index[-1]), to_int16(samples), 16_000)
        part = samples[round(QUERY_BEGIN_S * 16_000) :][: round(QUERY_S * 16_000)]
        noisy = part + rng.normal(scale=0.02 * np.sqrt(np.mean(part**2)), size=len(part)).astype(
            np.float32
        )
        queries.append(folder / f"{path.stem}_query.wav")
        write_wav(str(queries[-1]), to_int16(noisy), 16_000)
    return index, queries


def run_both(spec, wavs, cache):
    index, queries = wavs
    runner = SystemRunner.of(spec, cache, "content")
    cost = runner.index(lambda: index)
    return cost, runner.ask("clean", "set", lambda: queries)


@pytest.mark.parametrize(
    ("kind", "offset_limit_s"), [("ours", 0.1), ("audfprint", 0.1), ("chromaprint", 0.2)]
)
def test_each_system_finds_parts_and_places(kind, offset_limit_s, wavs, tmp_path):
    if kind == "audfprint":
        pytest.importorskip("audfprint2", reason="the extra `evaluate` is not installed")
    if kind == "chromaprint" and shutil.which("fpcalc") is None:
        pytest.skip("fpcalc is not installed")
    cost, asked = run_both(SystemSpec(kind, kind, "edge" if kind == "ours" else ""), wavs, tmp_path)
    assert asked.failure == ""
    for query, answer in zip(wavs[1], asked.answers, strict=True):
        assert answer.error == "" and answer.elapsed_s > 0
        assert f"{answer.found[0].track}_query" == query.stem
        assert answer.found[0].offset_s == pytest.approx(QUERY_BEGIN_S, abs=offset_limit_s)
        assert len({found.track for found in answer.found}) == len(answer.found)
    assert cost.num_bytes > 1000 and cost.wall_s > 0.05
    assert 20e6 < cost.peak_bytes < 3e9 and 20e6 < asked.peak_bytes < 3e9


def test_what_was_made_is_not_made_again(wavs, tmp_path):
    spec = SystemSpec("chromaprint", "chromaprint")
    if shutil.which("fpcalc") is None:
        pytest.skip("fpcalc is not installed")
    cost, asked = run_both(spec, wavs, tmp_path)
    again = SystemRunner.of(spec, tmp_path, "content")

    def none():
        raise AssertionError("asked for the files again")

    assert again.index(none) == cost and again.ask("clean", "set", none) == asked
    assert SystemRunner.of(spec, tmp_path, "other content").folder != again.folder


PEER = """
import pathlib, sys, wave
step, folder, *files = sys.argv[1:]
if step == "index":
    (pathlib.Path(folder) / "names").write_text("\\n".join(files))
else:
    query = pathlib.Path(files[0]).stem.removesuffix("_query")
    {trouble}
    for name in (pathlib.Path(folder) / "names").read_text().splitlines():
        if pathlib.Path(name).stem == query:
            print(f"found: {{name}}, 3.25, 17")
    print("and this line is no result")
"""


def command(tmp_path, trouble="pass", **limits):
    program = tmp_path / "peer program.py"
    program.write_text(PEER.format(trouble=trouble))
    line = f"'{sys.executable}' '{program}'"
    config = CommandConfig(
        "peer", f"{line} index {{folder}} {{files}}", f"{line} query {{folder}} {{query}}",
        r"^found: (?P<track>.+?), (?P<offset>[\d.]+), (?P<score>\d+)$",
    )  # fmt: skip
    config.check()
    return SystemSpec("peer", "command", "", config, **limits)


def test_any_command_line_takes_part(wavs, tmp_path):
    _, asked = run_both(command(tmp_path), wavs, tmp_path / "cache")
    for query, answer in zip(wavs[1], asked.answers, strict=True):
        (found,) = answer.found
        assert f"{found.track}_query" == query.stem and (found.offset_s, found.score) == (3.25, 17)


def test_one_crash_costs_one_query_and_three_end_it(wavs, tmp_path):
    first = wavs[1][0].stem.removesuffix("_query")
    _, asked = run_both(
        command(tmp_path, f"if query == {first!r}: raise SystemExit('it broke')"),
        wavs,
        tmp_path / "one",
    )
    assert [bool(answer.error) for answer in asked.answers] == [True, False, False, False]
    assert "it broke" in asked.answers[0].error
    _, asked = run_both(command(tmp_path, "raise SystemExit('it broke')"), wavs, tmp_path / "all")
    assert (
        asked.answers == ()
        and "after 2 of 4 queries" in asked.failure
        and "it broke" in asked.failure
    )


def has_ended(pid: int) -> bool:
    """Within 20 s."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if "\nState:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text():
                return True  # whoever adopted it has not looked yet
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_a_hang_is_ended_with_all_that_it_started(tmp_path):
    child = tmp_path / "child"
    started = f"p = subprocess.Popen(['sleep', '300']); open({str(child)!r}, 'w').write(str(p.pid))"
    code = f"import subprocess, time; {started}; time.sleep(300)"
    began = time.monotonic()
    ran = run_bounded([sys.executable, "-c", code], limit_s=3)
    assert (
        ran.status is None and "beyond its limit" in ran.trouble and time.monotonic() - began < 60
    )
    assert has_ended(int(child.read_text()))


def test_a_system_that_hangs_is_asked_no_more(wavs, prepared, queries, tmp_path, monkeypatch):
    """Neither for the other conditions, nor does its program keep running."""
    pid = tmp_path / "pid"
    hang = (
        f"import os, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(300)"
    )
    monkeypatch.setattr(runner, "_START_S", -24.0)  # of the 30 s that an answer may take 6 are left
    run = SystemRun(str(prepared), ("training", "validation", "test"),
    *find_query_sets(str(queries)), 4, tmp_path / "wavs",
                    tmp_path / "cache", 100, 0)  # fmt: skip
    began = time.monotonic()
    rows, told = measure_systems(
        [command(tmp_path, hang, query_limit_s=30.0)], run, Console(quiet=True)
    )
    assert time.monotonic() - began < 60
    assert "after 0 of 4 queries" in rows[0].trouble and "beyond its limit" in rows[0].trouble
    assert [row.trouble for row in rows[1:]] == ["not run: it hung in clean"] * 3 and told == []
    assert has_ended(int(pid.read_text()))


def test_a_program_that_has_changed_is_asked_again(tmp_path):
    spec = command(tmp_path)
    before = system_version(spec)
    assert system_version(spec) == before
    (tmp_path / "peer program.py").write_text("another")
    assert system_version(spec) != before


def test_memory_is_the_commands_own(tmp_path):
    """Not what the process that measures holds, and with what the command starts."""
    ballast = np.ones(60_000_000)  # 480 MB here
    small = run_bounded([sys.executable, "-S", "-c", "pass"], limit_s=60)
    grandchild = (
        f"import subprocess; subprocess.run([{sys.executable!r}, '-S', '-c', 'b = "
        "bytes(range(256)) * 800_000'])"
    )
    large = run_bounded([sys.executable, "-S", "-c", grandchild], limit_s=60)
    assert ballast[-1] and small.peak_bytes < 60e6 and 200e6 < large.peak_bytes < 300e6


def test_who_is_not_installed_is_told_of(wavs, tmp_path):
    spec = SystemSpec(
        "olaf", "command", "", CommandConfig("olaf", "no-such-olaf {files}", "no-such-olaf {query}")
    )
    with pytest.raises(
        SystemFailedError, match=r"olaf, making the index: no-such-olaf is not installed"
    ):
        SystemRunner.of(spec, tmp_path, "").index(lambda: wavs[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query": "olaf query"}, r"with \{query\} in it"),
        ({"query": "olaf {querry} {query}"}, r"querry.*known: \{folder\}, \{query\}"),
        ({"answer": "(?P<track>"}, "no regular expression"),
        ({"answer": "(?P<name>.*)"}, "needs a group"),
    ],
)
def test_a_template_that_cannot_work_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        CommandConfig(**({"name": "olaf", "query": "olaf {query}"} | changed)).check()


def test_no_shell_reads_the_arguments(tmp_path):
    argv = external.arguments(
        "tool --db={folder} 'two words' {query}", {"folder": "/a b", "query": "x; touch $HOME"}
    )
    assert argv == ["tool", "--db=/a b", "two words", "x; touch $HOME"]


def test_bit_errors_by_a_plain_loop():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 2**32, 60, dtype=np.uint32)
    query = items[31:38].copy()
    query[2] ^= np.uint32(0b1011)
    best = best_alignments(query, items, np.array([20, 60]), np.array(["a", "b"]))
    assert best[0].track == "b" and best[0].offset_s == pytest.approx(11 * 1365 / 11_025)
    assert best[0].score == pytest.approx(1 - 3 / (7 * 32))
    expected = max(
        1
        - sum(
            bin(int(q) ^ int(i)).count("1")
            for q, i in zip(query, items[place : place + 7], strict=True)
        )
        / 224
        for place in range(14)
    )
    assert best[1].score == pytest.approx(expected)
    assert os.environ["OPENBLAS_NUM_THREADS"]
