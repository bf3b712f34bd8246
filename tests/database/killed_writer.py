"""Kills processes that write to a database and checks what they leave. Run by test_kills.py;
prints one JSON line.

    python -m tests.database.killed_writer random FOLDER NUM SEED
        SIGKILL at random instants of adds, removals, compactions, ...
    python -m tests.database.killed_writer lines FOLDER STEP
        SIGKILL before each (STEP-th) line that each of them executes

A child is forked for each kill: this process holds no threads and no open database. What an
operation does follows from its number, and a track's vectors from its own, so whatever is found
can be checked.
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

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.forked import exit_status, in_child
from confp_jax import database as package
from confp_jax import index as indexes
from confp_jax.database import Database, ModelId, NewTrack
from confp_jax.database.compact import compact_shards
from confp_jax.database.stage import begin_staging, stage, swap
from confp_jax.index import ApproximateIndex, on_disk

STAMP = ModelId("tiny", "0123456789abcdef", 0.3)
OTHER = ModelId("other", "fedcba9876543210", 0.3)  # its vectors are the negative ones
indexes.BRUTE_FORCE_ROWS = 64  # small databases are to have an index here
TRACED = (str(pathlib.Path(package.__file__).parent), on_disk.__file__)


def vectors_of(number: int) -> np.ndarray:
    """Unit vectors of 16 values of a quarter each: exact in float16."""
    rng = np.random.default_rng(number)
    return rng.choice(np.array([-0.25, 0.25], np.float32), (int(rng.integers(1, 60)), 16))


def track_of(number: int, model_id: ModelId) -> NewTrack:
    vectors = vectors_of(number) * SIGNS[model_id]
    return NewTrack(
        f"track {number}", f"/music/{number}.wav", f"{number:064x}", 1.0 + number, vectors
    )


SIGNS = {STAMP: 1, OTHER: -1}


def tracks_after(num_operations: int) -> set[int]:
    """The numbers of the tracks that are there when so many operations are done."""
    live: set[int] = set()
    for number in range(num_operations):
        kind, arguments = operation(number)
        if kind == "add":
            live.update(arguments)
        elif kind == "remove":
            live.difference_update(arguments)
    return live


def operation(number: int) -> tuple[str, list[int]]:
    """Two adds of 1 to 3 tracks, then something else; removed is part of what came some adds
    before.
    """
    turn, place = divmod(number, 3)
    if place < 2:
        first = 10 * (2 * turn + place)
        return "add", list(range(first, first + 1 + number % 3))
    kind = ("remove", "compact", "reindex", "fold")[turn % 4]
    return kind, [10 * turn, 10 * turn + 1] if kind == "remove" else []


def carry_out(database: Database, number: int) -> None:
    kind, arguments = operation(number)
    if kind == "add":
        database.add([track_of(i, database.model_id) for i in arguments])
    elif kind == "remove":
        names = {f"track {i}" for i in arguments}
        database.remove([track.id for track in database.tracks() if track.name in names])
    elif kind == "compact":
        compact_shards(database)
    elif kind == "reindex":
        reindex(database)
    else:
        on_disk.rebuild(database)


def reindex(database: Database) -> None:
    """The other model's vectors, staged in two commits and swapped."""
    model_id = OTHER if database.model_id == STAMP else STAMP
    missing = begin_staging(database, model_id)
    for part in (missing[::2], missing[1::2]):
        stage(
            database,
            [
                (t.id, vectors_of(int(t.name.removeprefix("track "))) * SIGNS[model_id])
                for t in part
            ],
        )
    swap(database, model_id)


def write(folder: pathlib.Path, first: int, num: int) -> None:
    """Creates the database where there is none, and carries out operations from `first` on, noting
    each as it begins.
    """
    database = (
        Database(folder)
        if (folder / "catalogue.sqlite").exists()
        else Database.create(folder, STAMP)
    )
    with database.writing(), open(folder.parent / "log", "wb", buffering=0) as log:
        for number in range(first, first + num):
            log.write(f"{number}\n".encode())
            carry_out(database, number)


def check(folder: pathlib.Path, num_done: int) -> int:
    """Compares all that is there with what `num_done` or one more operation leave; returns which it
    was.
    """
    database = Database(folder)
    sign = SIGNS[database.model_id]
    snapshot = database.snapshot()
    assert (
        len(snapshot.vectors)
        == len(snapshot.row_tracks)
        == sum(t.num_rows for t in snapshot.tracks)
    )
    found = set()
    for place, track in enumerate(snapshot.tracks):
        number = int(track.name.removeprefix("track "))
        rows = slice(track.first_row, track.first_row + track.num_rows)
        assert np.array_equal(snapshot.vectors[rows], vectors_of(number) * sign), (
            f"track {number} differs"
        )
        assert (snapshot.row_tracks[rows] == place).all()
        assert track.duration_s == 1.0 + number
        found.add(number)
    assert len(found) == len(snapshot.tracks)
    expected = [tracks_after(num_done), tracks_after(num_done + 1)]
    assert found in expected, f"{sorted(found)} is neither of {[sorted(e) for e in expected]}"
    if snapshot.generation:
        on_disk.check_generation(folder / "index" / snapshot.generation)
    return num_done + 1 if found == expected[1] else num_done


def check_next_writer(folder: pathlib.Path, num_done: int) -> None:
    """The next writer gets the lock, removes strays, writes, and its index finds what there is."""
    num_done = check(folder, num_done) if (folder / "catalogue.sqlite").exists() else 0
    write(folder, num_done, 1)
    assert check(folder, num_done + 1) in (
        num_done + 1,
        num_done + 2,
    )  # the second where it changes nothing
    database = Database(folder)
    with database.writing():
        pass
    with database.connect() as connection:
        known = {file for (file,) in connection.execute("SELECT file FROM shards")}
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    strays = {p.name for p in (folder / "vectors").iterdir()} ^ known
    assert not strays, f"strays: {strays}"
    folders = [p.name for p in (folder / "index").glob("*")]
    assert folders == [g for g in [database.setting("generation")] if g], f"strays: {folders}"
    assert {p.name for p in folder.iterdir()} <= {"catalogue.sqlite", "vectors", "lock", "index"}


def check_index(folder: pathlib.Path) -> None:
    """In a child, as it starts threads: every row finds itself."""
    database = Database(folder)
    snapshot = database.snapshot()
    index = on_disk.open_index(database, snapshot)
    assert isinstance(index, ApproximateIndex) or len(snapshot.vectors) < indexes.BRUTE_FORCE_ROWS
    rows = np.asarray(snapshot.vectors)
    scores = index.search(rows, k=1).scores[:, 0]
    assert np.mean(scores >= np.sum(rows * rows, axis=1) - 1e-4) > 0.95


def kill_at_random(folder: pathlib.Path, num: int, seed: int) -> dict:
    rng = random.Random(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    assert exit_status(in_child(lambda: write(folder, 0, 12))) == 0
    unit_s = (time.perf_counter() - began) / 12  # an operation, as busy as this machine is
    num_done = 12
    killed_in = {"add": 0, "remove": 0, "compact": 0, "reindex": 0, "fold": 0}
    for _ in range(num):
        child = in_child(lambda first=num_done: write(folder, first, 10**6))
        time.sleep(rng.uniform(0.0, 12 * unit_s))
        os.kill(child, signal.SIGKILL)
        assert exit_status(child) == -signal.SIGKILL, "the writer failed by itself"
        begun = max([num_done, *map(int, (folder.parent / "log").read_text().split())])
        num_done = check(folder, begun)
        killed_in[operation(begun)[0]] += 1
    check_next_writer(folder, num_done)
    assert exit_status(in_child(lambda: check_index(folder))) == 0
    return {"operations": num_done, "killed_in": killed_in}


def kill_at_line(number: int, work) -> None:
    """Runs `work` and dies before the `number`-th line of the database's code that it executes."""
    left = number

    def trace(frame, event, _argument):
        nonlocal left
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()


def kill_at_lines(folder: pathlib.Path, step: int) -> dict:
    """Each kind of operation on its own, on a copy of a database on which all before it are
    done.
    """
    cases = {"create": 0}
    for kind in ("add", "remove", "compact", "reindex", "fold"):
        cases[kind] = next(number for number in range(6, 99) if operation(number)[0] == kind)
    counts = {}
    for case, first in cases.items():
        base = folder / case / "base"
        base.parent.mkdir(parents=True)
        if case != "create":
            assert exit_status(in_child(lambda base=base, first=first: write(base, 0, first))) == 0
        failures: list[str] = []
        line = 0
        status = -1
        while status != 0:
            target = folder / case / str(line)
            if base.exists():
                shutil.copytree(base, target)
            child = in_child(
                lambda line=line, target=target, first=first: kill_at_line(
                    line, lambda: write(target, first, 1)
                )
            )
            status = exit_status(child)
            assert status in (0, -signal.SIGKILL), f"the writer failed by itself: {status}"
            try:
                check_next_writer(target, first)
            except (AssertionError, ValueError, OSError, sqlite3.Error) as error:
                failures.append(f"{case}, line {line}: {type(error).__name__}: {error}")
            shutil.rmtree(target, ignore_errors=True)
            line += 1 if case == "create" and line < 24 else step  # create's own lines come first
        counts[case] = {"lines": line, "failures": failures}
    return counts


if __name__ == "__main__":
    mode, place, *numbers = sys.argv[1], pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:])
    print(
        json.dumps(
            kill_at_random(place, *numbers) if mode == "random" else kill_at_lines(place, *numbers)
        )
    )
