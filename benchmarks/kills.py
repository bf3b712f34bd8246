"""SIGKILL at random instants of what changes a database or a run: what is lost, and whether the
same command continues.

python -m benchmarks.kills --rounds 200 add compact remove update merge import save

Each round copies a database, forks a child that carries out the operation, kills it at a random
instant and checks what lies on the disk: nothing that was there before is lost, `verify` finds
nothing, and the same operation, repeated, ends as if nothing had happened. Files are read by a
stand-in that makes vectors from their checksums, as the model has no part in this. "save" trains
nothing: a run's checkpoints are written one after the other, and each child first compares what it
restores with what was saved.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.forked import exit_status, in_child
from confp_jax.database import Database, ModelId, NewTrack
from confp_jax.database.compact import compact_shards
from confp_jax.database.digests import add_missing_sums
from confp_jax.database.merge import merge_databases
from confp_jax.database.verify import verify
from confp_jax.fingerprint.files import ReadFile, known_file
from confp_jax.library import add as adding
from confp_jax.library.parquet import export_database, import_files

STAMP = ModelId("tiny", "0123456789abcdef", 0.3)
EMBEDDER: Any = SimpleNamespace(model_id=STAMP)
NUM_TRACKS = 24
_NUM_WHOLE = 3  # that are measured: kills come at any instant of the longest
Contents = set[tuple[str, str]]  # path and SHA-256 of tracks


def vectors_of(sha256: str) -> np.ndarray:
    """Unit vectors of a content, exact in float16."""
    rng = np.random.default_rng(int(sha256[:12], 16))
    signs = rng.choice(np.array([-1, 1], np.float32), (int(rng.integers(20, 200)), 16))
    return np.concatenate([signs, np.zeros_like(signs)], axis=1) / 4


def read_stand_in(
    _embedder: Any, paths: Iterable[pathlib.Path], *, wanted: Callable[..., bool]
) -> Iterator[ReadFile]:
    """Yields files as `read_files` does, without sound."""
    for path in paths:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        file = known_file(path, sha256)
        track = None
        if wanted(file):
            track = NewTrack(
                path.stem,
                str(path),
                sha256,
                600.0,  # six make an hour: a commit
                vectors_of(sha256),
                size_bytes=file.size_bytes,
                mtime_ns=file.mtime_ns,
            )
        yield ReadFile(path, file, track)


def write_files(folder: pathlib.Path, numbers: Iterable[int], text: str = "") -> None:
    """Makes files whose content is their number and a text."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.wav").write_text(f"{number} {text}")


def contents(database: Database) -> Contents:
    """Returns path and SHA-256 of all tracks; every row is compared with what it must be."""
    snapshot = database.snapshot()
    if snapshot.damaged:
        raise AssertionError(f"damaged: {[track.path for track in snapshot.damaged]}")
    for track in snapshot.tracks:
        rows = snapshot.vectors[track.first_row : track.first_row + track.num_rows]
        if not np.array_equal(rows, vectors_of(track.sha256)):
            raise AssertionError(f"{track.path}: its rows are others")
    return {(track.path, track.sha256) for track in snapshot.tracks}


@dataclasses.dataclass(frozen=True)
class Operation:
    """What is done to a copy of a database, and what may be there when it was killed."""

    prepare: Callable[[pathlib.Path], None]  # the folder of a round, before the child starts
    run: Callable[[pathlib.Path], object]


def _add(folder: pathlib.Path) -> None:
    adding.add_paths(Database(folder / "db"), EMBEDDER, [folder / "more"])


def _update(folder: pathlib.Path) -> None:
    adding.update_tracks(Database(folder / "db"), EMBEDDER)


def _remove(folder: pathlib.Path) -> None:
    database = Database(folder / "db")
    for number in range(0, NUM_TRACKS, 4):
        with database.writing():
            database.remove([track.id for track in database.find(f"{number}")])


def _compact(folder: pathlib.Path) -> None:
    database = Database(folder / "db")
    with database.writing():
        compact_shards(database)


def _merge(folder: pathlib.Path) -> None:
    merge_databases(Database(folder / "db"), Database(folder / "other"))


def _import(folder: pathlib.Path) -> None:
    import_files(Database(folder / "db"), [folder / "other.parquet"])


def _changed(folder: pathlib.Path) -> None:
    write_files(folder / "music", range(0, NUM_TRACKS, 3), "other content")


OPERATIONS = {
    "add": Operation(lambda folder: write_files(folder / "more", range(100, 114)), _add),
    "compact": Operation(lambda folder: None, _compact),
    "remove": Operation(lambda folder: None, _remove),
    "update": Operation(_changed, _update),
    "merge": Operation(lambda folder: None, _merge),
    "import": Operation(lambda folder: None, _import),
}


def make_template(folder: pathlib.Path) -> None:
    """A database with removed tracks and several shards, another one, and its export."""
    for name, numbers in (("db", range(NUM_TRACKS)), ("other", range(200, 220))):
        music = folder / ("music" if name == "db" else "music2")
        write_files(music, numbers)
        database = Database.create(folder / name, STAMP)
        adding.add_paths(database, EMBEDDER, [music])
        gone = music / "gone"
        write_files(gone, range(1_000, 1_010), name)
        adding.add_paths(database, EMBEDDER, [gone])
        with database.writing():
            database.remove([t.id for t in database.tracks() if "/gone/" in t.path])
    export_database(Database(folder / "other"), folder / "other.parquet")


def relocate(folder: pathlib.Path) -> None:
    """The tracks' paths are those of the copy."""
    database = Database(folder / "db")
    with database.connect() as connection:
        for table in ("tracks", "files"):
            connection.execute(
                f"UPDATE {table} SET path = ? || substr(path, instr(path, '/music/'))",
                (str(folder),),
            )
        connection.execute("DELETE FROM row_sums")
        add_missing_sums(connection)


def check(before: Contents, found: Contents, wanted: Contents) -> None:
    """Compares what is there with what was there before and what there is to be."""
    if lost := (before & wanted) - found:
        raise AssertionError(f"lost: {lost}")
    if more := found - before - wanted:
        raise AssertionError(f"nobody added {more}")
    paths = {path for path, _ in found}
    if lost := {path for path, _ in before} & {path for path, _ in wanted} - paths:
        raise AssertionError(f"neither the old nor the new track is there: {lost}")


def unfinished_files(folder: pathlib.Path) -> set[str]:
    """Returns the files that a killed writer left, and that no commit knows."""
    database = Database(folder)
    with database.connect() as connection:
        known = {file for (file,) in connection.execute("SELECT file FROM shards")}
    shards = {path.name for path in (folder / "vectors").iterdir()} - known
    known = {database.setting("generation")}
    return shards | {path.name for path in folder.glob("index/*") if path.name not in known}


def kill_rounds(kind: str, rounds: int, template: pathlib.Path, seed: int) -> dict[str, Any]:
    """Kills an operation so many times; returns the counts."""
    rng = random.Random(seed)
    operation = OPERATIONS[kind]
    keys = ("kills", "finished first", "in the midst", "left files", "done already", "lost")
    counts = dict.fromkeys(keys, 0)
    whole = template.parent / f"{kind}-whole"
    durations_s: list[float] = []
    failures = []
    number = 0
    while counts["kills"] < rounds:
        folder = template.parent / f"{kind}-{number}"
        number += 1
        shutil.copytree(template, folder)
        relocate(folder)
        before = contents(Database(folder / "db"))
        operation.prepare(folder)
        if len(durations_s) < _NUM_WHOLE:  # left alone: how long it takes, and how it ends
            began = time.perf_counter()
            if exit_status(in_child(lambda folder=folder: operation.run(folder))):
                raise SystemExit(f"{kind} fails by itself")
            durations_s.append(time.perf_counter() - began)
            shutil.rmtree(whole, ignore_errors=True)
            folder.rename(whole)
            continue
        child = in_child(lambda folder=folder: operation.run(folder))
        time.sleep(rng.uniform(0, max(durations_s)))
        os.kill(child, signal.SIGKILL)
        was_killed = exit_status(child) == -signal.SIGKILL
        counts["kills" if was_killed else "finished first"] += 1
        wanted = {
            (path.replace(f"/{kind}-{_NUM_WHOLE - 1}/", f"/{folder.name}/"), sha256)
            for path, sha256 in contents(Database(whole / "db"))
        }
        try:
            database = Database(folder / "db")
            found = contents(database)
            counts["in the midst"] += was_killed and found not in (before, wanted)
            counts["left files"] += was_killed and bool(unfinished_files(folder / "db"))
            counts["done already"] += was_killed and found == wanted != before
            check(before, found, wanted)
            problems = verify(database)
            if problems:
                raise AssertionError(str(problems))
            if exit_status(in_child(lambda folder=folder: operation.run(folder))):
                raise AssertionError("the same command does not continue")
            if contents(Database(folder / "db")) != wanted or verify(database):
                raise AssertionError("the same command ends otherwise")
            shutil.rmtree(folder)
        except Exception as error:  # noqa: BLE001 - counted, and the folder is kept
            counts["lost"] += 1
            failures.append(f"{folder}: {type(error).__name__}: {error}"[:300])
    seconds = [round(duration_s, 3) for duration_s in durations_s]
    return counts | {"seconds of one": seconds, "failures": failures[:5]}


def newest_step(folder: pathlib.Path) -> int:
    """The newest complete checkpoint, 0 without one."""
    names = [path.name for path in folder.glob("checkpoints/*") if path.name.isdecimal()]
    return max(map(int, names), default=0)


def save_steps(folder: pathlib.Path, num_steps: int) -> None:
    """Restores a run, compares it with what was saved, and saves step after step."""
    import jax
    import jax.numpy as jnp

    from configs.fma import get_config
    from confp_jax.config import TrainConfig
    from confp_jax.training.checkpoint import Checkpoints
    from confp_jax.training.step import TrainState
    from confp_jax.typed_config import from_mapping

    settings = get_config("tiny")
    settings.checkpoint.every_steps = 1
    config = from_mapping(TrainConfig, settings)

    def state_of(step: int) -> TrainState:
        values: Any = {
            f"w{n}": jnp.full((64, 64), 1000.0 * step + n, jnp.float32) for n in range(8)
        }
        mean: Any = {"mean": jnp.full((64,), float(step))}
        return TrainState(
            params=values,
            average=values,
            statistics=mean,
            optimizer={"mu": values},
            step=jnp.asarray(step),
        )

    least = max(
        (int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdecimal()), default=0
    )
    with Checkpoints.open(folder, config) as checkpoints:
        state, step = checkpoints.restore(state_of(0))
        if step < least:
            raise AssertionError(f"step {least} was complete, and {step} came back")
        same = jax.tree.map(np.array_equal, state, state_of(step))
        if not all(jax.tree.leaves(same)):
            raise AssertionError(f"step {step} is not as it was saved")
        for number in range(step + 1, step + 1 + num_steps):
            checkpoints.save(number, state_of(number))


def kill_saves(rounds: int, folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """Kills a run while it saves; each child first checks what the one before it left."""
    import confp_jax.training.checkpoint
    import confp_jax.training.step  # noqa: F401

    rng = random.Random(seed)
    counts = {"kills": 0, "lost": 0, "steps saved": 0}
    folder.mkdir(parents=True)

    while counts["kills"] < rounds:
        before = newest_step(folder)
        child = in_child(lambda: save_steps(folder, 10**6))
        until = time.monotonic() + 300
        status = None
        while newest_step(folder) <= before and status is None and time.monotonic() < until:
            time.sleep(0.01)
            ended, raw = os.waitpid(child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(raw) if ended else None
        if status is None:
            time.sleep(rng.uniform(0, 0.5))
            os.kill(child, signal.SIGKILL)
            status = exit_status(child)
        if status != -signal.SIGKILL:
            counts["lost"] += 1
            break
        counts["kills"] += 1
        counts["steps saved"] = newest_step(folder)
    return counts


def main() -> None:
    """Kills, checks and prints a line of JSON for each operation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operations", nargs="+", choices=[*OPERATIONS, "save"])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    adding.read_files = read_stand_in  # type: ignore[assignment]
    print("$ python", " ".join(sys.argv), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_template(folder / "template")
        for kind in args.operations:
            if kind == "save":
                found = kill_saves(args.rounds, folder / "run", args.seed)
            else:
                found = kill_rounds(kind, args.rounds, folder / "template", args.seed)
            print(kind, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
