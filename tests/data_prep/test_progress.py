"""Progress in a log: lines, not a bar."""

import io

import pytest
from rich.console import Console

from data_prep import progress


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    shown = io.StringIO()
    with progress.counting(Console(file=shown, width=100), "tracks") as report:
        for done in range(100, 201):  # 100 were there before; 2 s each
            report(done, 200)
            now_s += 2.0
    lines = shown.getvalue().splitlines()
    assert lines[0] == "tracks: 100 of 200 after 0.0 min"
    assert lines[1] == "tracks: 115 of 200 after 0.5 min, about 3 min left"
    assert lines[-1] == "tracks: 200 of 200 after 3.3 min"
    assert len(lines) == 8
