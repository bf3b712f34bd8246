"""Kills processes that write to a database and checks what they leave. Run by test_database.py; prints one JSON line.

    python killed_writer.py random FOLDER NUM SEED    SIGKILL at random instants of a loop of adds
    python killed_writer.py lines FOLDER STEP         SIGKILL before each (STEP-th) line that create and add execute

A child is forked for each kill: this process holds no threads and no open database. A track's vectors follow from its number,
so whatever is found can be checked.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import sys
import time
import traceback

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from confp_jax.retrieval import database as module
from confp_jax.retrieval.database import Database, ModelStamp, NewTrack

STAMP = ModelStamp("tiny", "0123456789abcdef", 0.3)


def vectors_of(number: int) -> np.ndarray:
    """Multiples of 1/8: exact in float16."""
    rng = np.random.default_rng(number)
    return rng.integers(-8, 9, (int(rng.integers(1, 60)), 16)).astype(np.float32) / 8


def track_of(number: int) -> NewTrack:
    return NewTrack(f"track {number}", f"/music/{number}.wav", f"{number:064x}", 1.0 + number, vectors_of(number))


def write(folder: pathlib.Path, num_batches: int) -> None:
    """Creates the database where there is none, and adds 1 to 3 tracks at a time."""
    database = Database(folder) if (folder / "catalogue.sqlite").exists() else Database.create(folder, STAMP)
    with database.writing():
        number = len(database.tracks())
        for _ in range(num_batches):
            batch = [track_of(number + i) for i in range(1 + number % 3)]
            database.add(batch)
            number += len(batch)


def check(folder: pathlib.Path) -> int:
    """Opens what is there and compares all of it with what was written; returns the number of tracks."""
    database = Database(folder)
    assert database.stamp == STAMP
    snapshot = database.snapshot()
    assert [t.name for t in snapshot.tracks] == [f"track {i}" for i in range(len(snapshot.tracks))]
    assert len(snapshot.vectors) == len(snapshot.row_tracks) == sum(t.num_rows for t in snapshot.tracks)
    for number, track in enumerate(snapshot.tracks):
        rows = slice(track.first_row, track.first_row + track.num_rows)
        assert np.array_equal(snapshot.vectors[rows], vectors_of(number)), f"track {number} differs"
        assert (snapshot.row_tracks[rows] == number).all()
        assert track.duration_s == 1.0 + number
    # Whole batches only: 1 + number % 3 tracks were added at once.
    number = 0
    while number < len(snapshot.tracks):
        number += 1 + number % 3
    assert number == len(snapshot.tracks), "a batch is there in part"
    return len(snapshot.tracks)


def check_next_writer(folder: pathlib.Path) -> None:
    """The next writer gets the lock, removes strays and adds."""
    before = check(folder) if (folder / "catalogue.sqlite").exists() else 0
    write(folder, 1)
    assert check(folder) > before
    with Database(folder).connect() as connection:
        known = {file for (file,) in connection.execute("SELECT file FROM shards")}
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    found = {p.name for p in (folder / "vectors").iterdir()}
    assert found == known, f"strays: {found - known}"


def fork(work) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    return child


def kill_at_random(folder: pathlib.Path, num: int, seed: int) -> dict:
    rng = random.Random(seed)
    write(folder, 1)
    began = time.perf_counter()
    write(folder, 1)
    unit_s = time.perf_counter() - began  # a commit, as busy as this machine is
    num_tracks, num_strays = [], 0
    for _ in range(num):
        child = fork(lambda: write(folder, 10**6))
        time.sleep(rng.uniform(0.0, 4 * unit_s))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "the writer failed by itself"
        num_tracks.append(check(folder))
        assert num_tracks[-1] >= (num_tracks[-2] if len(num_tracks) > 1 else 1), "tracks were lost"
        with Database(folder).connect() as connection:
            known = connection.execute("SELECT COUNT(*) FROM shards").fetchone()[0]
        num_strays += len(list((folder / "vectors").iterdir())) > known
    check_next_writer(folder)
    return {"tracks": num_tracks[-1], "kills_that_left_strays": num_strays}


def kill_at_line(number: int, work) -> None:
    """Runs `work` and dies before the `number`-th line of database.py that it executes."""
    left = number

    def trace(frame, event, _argument):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()


def kill_at_lines(folder: pathlib.Path, step: int) -> dict:
    counts = {}
    for case in ("create", "add"):
        base = folder / case
        if case == "add":
            write(base, 3)
        failures: list[str] = []
        number = 0
        while True:
            target = folder / f"{case}-{number}"
            if base.exists():
                shutil.copytree(base, target)
            child = fork(lambda number=number, target=target: kill_at_line(number, lambda: write(target, 1)))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, -signal.SIGKILL), f"the writer failed by itself: {status}"
            try:
                if case == "add":
                    assert check(target) in (4, 6)
                check_next_writer(target)
            except (AssertionError, ValueError, OSError, sqlite3.Error) as error:
                failures.append(f"{case}, line {number}: {type(error).__name__}: {error}")
            shutil.rmtree(target, ignore_errors=True)
            if status == 0:
                break
            number += 1 if case == "create" and number < 24 else step  # create's own lines come first
        counts[case] = {"lines": number, "failures": failures}
    return counts


if __name__ == "__main__":
    mode, place, *numbers = sys.argv[1], pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:])
    print(json.dumps(kill_at_random(place, *numbers) if mode == "random" else kill_at_lines(place, *numbers)))
