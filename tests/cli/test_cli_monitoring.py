"""What `monitor` does beside matching: moments, stopping, outputs; and text from outside."""

import datetime
import json
import os
import signal

import numpy as np
import pytest

from confp_jax.cli.cue_sheet import check_writable
from confp_jax.cli.monitoring import Moments, Stopping
from confp_jax.cli.output import plain, print_json

RATE = 1_000


def test_a_stream_goes_by_the_clock_also_after_a_pause(monkeypatch):
    times = iter([101.0, 102.0, 203.0])
    monkeypatch.setattr("confp_jax.cli.monitoring.time.time", lambda: next(times))
    moments = Moments(RATE, start=None, is_live=True)
    assert len(list(moments.seen([np.zeros(RATE, np.float32)] * 3))) == 3
    at = [datetime.datetime.fromisoformat(moments.at(s)).timestamp() for s in (0, 1, 2)]
    assert at == [100, 101, 202]


def test_a_file_goes_by_its_start_or_has_no_moments():
    start = datetime.datetime(2026, 11, 30, 6, tzinfo=datetime.UTC)
    found = Moments(RATE, start=start, is_live=False).at(90)
    assert datetime.datetime.fromisoformat(found) == start + datetime.timedelta(seconds=90)
    assert Moments(RATE, start=None, is_live=False).at(90) == ""


def test_the_first_interrupt_ends_what_is_heard():
    def endless():
        yield 1
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            signal.pause()

    with Stopping() as stopping:
        assert list(stopping.until_stopped(endless())) == [1] and stopping.is_asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outputs_are_tried_and_left_as_they_are(tmp_path):
    (tmp_path / "old.csv").write_text("kept")
    for name in ("old.csv", "new.csv"):
        check_writable(tmp_path / name)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]
    for path in (tmp_path, tmp_path / "none" / "x.cue"):
        with pytest.raises(OSError, match="directory"):
            check_writable(path)


def test_text_from_outside_is_plain(capsys):
    assert plain("\x1b[31mred\n\x9b\u202etxt") == "\\x1b[31mred\\n\\x9b\\u202etxt"
    letters = "می\u200cخواهم 👩\u200d🎤 é"
    assert plain(letters) == letters
    value = {"title": "\x1b\x9b\u202e" + letters}
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value and letters in printed
    assert not {"\x1b", "\x9b", "\u202e"} & set(printed)
