"""What `monitor` does beside matching: moments, stopping, outputs; and text from outside."""

import datetime
import os
import signal
import time

import numpy as np
import pytest

from confp_jax.cli.cue_sheet import check_writable
from confp_jax.cli.monitoring import Stopping
from confp_jax.cli.output import Output, drop_output
from confp_jax.library.clock import Moments

RATE = 1_000


def test_a_stream_goes_by_the_clock_also_after_a_pause(monkeypatch):
    times = iter([101.0, 102.0, 203.0])
    monkeypatch.setattr("confp_jax.library.clock.time.time", lambda: next(times))
    moments = Moments(RATE, start=None, is_live=True)
    assert len(list(moments.seen([np.zeros(RATE, np.float32)] * 3))) == 3
    at = [datetime.datetime.fromisoformat(moments.at(s)).timestamp() for s in (0, 1, 2)]
    assert at == [100, 101, 202]


def test_a_second_without_sound_is_a_pause(monkeypatch):
    times = iter([101.0, 102.1, 104.0])  # a tenth is how blocks arrive
    monkeypatch.setattr("confp_jax.library.clock.time.time", lambda: next(times))
    moments = Moments(RATE, start=None, is_live=True)
    assert len(list(moments.seen([np.zeros(RATE, np.float32)] * 3))) == 3
    assert [moments.seconds_at(place_s) for place_s in (1, 2)] == [101, 103]


def test_a_file_goes_by_its_start_or_has_no_moments():
    start = datetime.datetime(2026, 11, 30, 6, tzinfo=datetime.UTC)
    found = Moments(RATE, start=start, is_live=False).at(90)
    assert datetime.datetime.fromisoformat(found) == start + datetime.timedelta(seconds=90)
    before = Moments(RATE, start=start, is_live=False).seconds_at(-1.0)  # a match's beginning
    assert before == start.timestamp() - 1
    assert Moments(RATE, start=None, is_live=False).at(90) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_ends_what_is_heard(number, request):
    before = signal.signal(number, signal.SIG_DFL)  # a shell's background jobs ignore SIGINT
    request.addfinalizer(lambda: signal.signal(number, before))

    def endless():
        yield 1
        os.kill(os.getpid(), number)
        while True:  # not signal.pause: another thread of the process may take the signal
            time.sleep(0.01)

    with Stopping() as stopping:
        assert list(stopping.until_stopped(endless())) == [1] and stopping.is_asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_who_ignores_the_end_of_the_terminal_is_not_stopped():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping.is_asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_files_are_written_where_standard_output_fails(monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        output = Output(is_alone=False)
        output.say("one")
        output.say("two")
        assert output.error == "standard output cannot be written (No space left on device)"
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(OSError, match="No space left"):
            Output(is_alone=True).say("one")
        drop_output()


def test_outputs_are_tried_and_left_as_they_are(tmp_path):
    (tmp_path / "old.csv").write_text("kept")
    for name in ("old.csv", "new.csv"):
        check_writable(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")  # nobody reads it: to open it would wait
    (tmp_path / "pipe").unlink()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]
    for path in (tmp_path, tmp_path / "none" / "x.cue"):
        with pytest.raises(OSError, match="directory"):
            check_writable(path)
