"""Power loss at any write of what changes a database: what the disk then holds, and what is lost.

python -m benchmarks.power_loss --crashes 400

The system calls of each operation are recorded by strace, with all that is written. They are then
played to a model of a disk that forgets: a file's content is safe when the file was flushed, a name
when its folder was. At many places between two calls the power is lost, in three ways: all that
was not flushed is gone; a part of it, by chance; nothing (as by a kill). Each time the database
must open, `verify` must find nothing, no track may be lost that was there before the operation,
and none that an ended operation has brought.
"""

import argparse
import collections
import copy
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from confp_jax.database import Database, ModelId, NewTrack
from confp_jax.database.compact import compact_shards
from confp_jax.database.merge import merge_databases
from confp_jax.database.verify import verify

STAMP = ModelId("tiny", "0123456789abcdef", 0.3)
OPERATIONS = ("create", "add", "remove", "compact", "merge")
_CALLS = "open,openat,creat,read,pread64,write,pwrite64,lseek,ftruncate,fsync,fdatasync,close"
_CALLS += ",rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,dup,fcntl"
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")


def track_of(number: int) -> NewTrack:
    """A track whose rows follow from its number."""
    rng = np.random.default_rng(number)
    signs = rng.choice(np.array([-0.25, 0.25], np.float32), (50, 16))
    return NewTrack(f"{number}", f"/m/{number}.wav", f"{number:064x}", 15.0, signs)


def carry_out(kind: str, folder: pathlib.Path) -> None:
    """One operation; what it says on its standard output comes after its end."""
    if kind == "create":
        Database.create(folder / "db", STAMP)
    else:
        database = Database(folder / "db")
        if kind == "merge":
            merge_databases(database, Database(folder / "other"))
        else:
            with database.writing():
                if kind == "add":
                    database.add([track_of(number) for number in (10, 11)])
                    database.add([track_of(12)])
                elif kind == "remove":
                    database.remove([1, 2])
                else:
                    compact_shards(database)
    print("done", flush=True)


def prepare(kind: str, folder: pathlib.Path) -> None:
    """Makes what is there before an operation, flushed."""
    folder.mkdir()
    if kind == "create":
        return
    database = Database.create(folder / "db", STAMP)
    with database.writing():
        for number in range(4):
            database.add([track_of(number)])
        database.remove([4])
    if kind == "merge":
        other = Database.create(folder / "other", STAMP)
        with other.writing():
            other.add([track_of(20), track_of(21)])


class Disk:
    """Files and folders as programs see them, and what of them would be there after a loss of
    power.
    """

    def __init__(self, root: pathlib.Path):
        self.names: dict[str, int] = {}  # path: number of a file, -1 of a folder
        self.safe_names: dict[str, int] = {}
        self.files: dict[int, bytearray] = {}
        self.safe_files: dict[int, bytes] = {}
        self.open: dict[int, list] = {}  # descriptor: [path, file or -1, place]
        for path in sorted([root, *root.rglob("*")]):
            number = -1
            if path.is_file():
                number = len(self.files)
                self.files[number] = bytearray(path.read_bytes())
                self.safe_files[number] = bytes(self.files[number])
            self.names[str(path)] = number
        self.safe_names = dict(self.names)

    def opened(self, path: str, flags: str, descriptor: int) -> None:
        if path not in self.names:
            self.names[path] = len(self.files)
            self.files[self.names[path]] = bytearray()
            self.safe_files[self.names[path]] = b""
        number = self.names[path]
        if "O_TRUNC" in flags and number >= 0:
            self.files[number] = bytearray()
        place = len(self.files[number]) if "O_APPEND" in flags and number >= 0 else 0
        self.open[descriptor] = [path, number, place]

    def written(self, descriptor: int, content: bytes, at: int | None) -> None:
        entry = self.open[descriptor]
        place = entry[2] if at is None else at
        data = self.files[entry[1]]
        data.extend(bytes(max(0, place - len(data))))
        data[place : place + len(content)] = content
        if at is None:
            entry[2] += len(content)

    def flushed(self, descriptor: int) -> None:
        path, number, _ = self.open[descriptor]
        if number >= 0:
            self.safe_files[number] = bytes(self.files[number])
            return
        inside = {name for name in self.names | self.safe_names if _parent(name) == path}
        for name in inside:
            if name in self.names:
                self.safe_names[name] = self.names[name]
            else:
                self.safe_names.pop(name, None)

    def after(self, how: str, rng: random.Random) -> tuple[dict[str, int], dict[int, bytes]]:
        """Names and contents after the power came back."""
        if how == "all":
            return dict(self.names), {n: bytes(data) for n, data in self.files.items()}
        names = dict(self.safe_names)
        files = dict(self.safe_files)
        if how == "some":
            for name in self.names.keys() | self.safe_names.keys():
                if self.names.get(name) != self.safe_names.get(name) and rng.random() < 0.5:
                    if name in self.names:
                        names[name] = self.names[name]
                    else:
                        names.pop(name, None)
            for number, data in self.files.items():
                files[number] = _partly(self.safe_files[number], bytes(data), rng)
        return names, files


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _partly(safe: bytes, now: bytes, rng: random.Random) -> bytes:
    """Some sectors as they are now, the others as they were."""
    size = rng.choice((len(safe), len(now)))
    out = bytearray(safe[:size].ljust(size, b"\0"))
    for first in range(0, min(size, len(now)), 512):
        if rng.random() < 0.5:
            out[first : first + 512] = now[first : min(first + 512, size)]
    return bytes(out)


def record(kind: str, folder: pathlib.Path) -> list[tuple[str, str, int]]:
    """The calls of one operation: name, arguments, result."""
    log = folder.with_name(f"{folder.name}.strace")
    command = ["strace", "-f", "-y", "-xx", "-s", "16777216", "-e", f"trace={_CALLS}", "-o", log]
    command += [sys.executable, "-m", "benchmarks.power_loss", "--run", kind, folder]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    calls = []
    for line in log.read_text("latin-1").splitlines():
        found = _LINE.match(line)
        if found and int(found[3]) >= 0:
            calls.append((found[1], found[2], int(found[3])))
    log.unlink()
    return calls


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _strings(arguments: str) -> list[bytes]:
    return [_bytes(part) for part in re.findall(r'(?<!<)"((?:\\x[0-9a-f]{2})*)"', arguments)]


def play(disk: Disk, call: tuple[str, str, int], root: str) -> bool:
    """Carries out a call on the disk; returns whether it changes anything."""
    name, arguments, result = call
    number = re.match(r"(\d+)<", arguments)
    descriptor = int(number[1]) if number else -1
    paths = [text.decode("utf-8", "replace") for text in _strings(arguments)]
    if name in ("open", "openat", "creat"):
        disk.open.pop(result, None)
        if paths and (paths[0] == root or paths[0].startswith(root + "/")):
            flags = arguments.rpartition('"')[2]
            disk.opened(paths[0].rstrip("/"), flags + (" O_TRUNC" * (name == "creat")), result)
            return "O_CREAT" in flags
        return False
    if name == "close":
        disk.open.pop(descriptor, None)
        return False
    if name.startswith(("rename", "unlink", "mkdir", "rmdir")):
        if not paths or not paths[0].startswith(root + "/"):
            return False
        if name.startswith("rename"):
            disk.names[paths[1]] = disk.names.pop(paths[0])
        elif name.startswith("mkdir"):
            disk.names[paths[0]] = -1
        else:
            disk.names.pop(paths[0], None)
        return True
    if descriptor not in disk.open:
        return False
    if (name == "fcntl" and "F_DUPFD" in arguments) or name == "dup":
        disk.open[result] = disk.open[descriptor]
        return False
    if disk.open[descriptor][1] < 0 and name not in ("fsync", "fdatasync"):
        return False
    if name == "write":
        disk.written(descriptor, _strings(arguments)[0], None)
    elif name == "pwrite64":
        disk.written(descriptor, _strings(arguments)[0], int(arguments.rpartition(",")[2]))
    elif name == "read":
        disk.open[descriptor][2] += result
        return False
    elif name == "lseek":
        disk.open[descriptor][2] = result
        return False
    elif name == "ftruncate":
        data = disk.files[disk.open[descriptor][1]]
        size = int(arguments.rpartition(",")[2])
        del data[size:]
        data.extend(bytes(size - len(data)))
    elif name in ("fsync", "fdatasync"):
        disk.flushed(descriptor)
    else:
        return False
    return True


def materialize(
    names: dict[str, int], files: dict[int, bytes], root: str, target: pathlib.Path
) -> None:
    """Writes what a disk holds into a folder; SQLite's shared memory is none of it."""
    for path in sorted(names):
        place = target / path[len(root) :].lstrip("/")
        if not place.parent.is_dir() or path.endswith("-shm"):
            continue  # its folder's name was lost
        if names[path] < 0:
            place.mkdir(exist_ok=True)
        else:
            place.write_bytes(files[names[path]])


def found_in(folder: pathlib.Path) -> set[int]:
    """The tracks that are there, every row as it must be."""
    if not (folder / "db" / "catalogue.sqlite").exists():
        return set()
    database = Database(folder / "db")
    snapshot = database.snapshot()
    problems = verify(database)
    if problems or snapshot.damaged:
        raise AssertionError(f"{problems} {[track.name for track in snapshot.damaged]}")
    for track in snapshot.tracks:
        rows = snapshot.vectors[track.first_row : track.first_row + track.num_rows]
        if not np.array_equal(rows, track_of(int(track.name)).vectors):
            raise AssertionError(f"track {track.name} has other rows")
    return {int(track.name) for track in snapshot.tracks}


def lose_power(kind: str, folder: pathlib.Path, num_crashes: int, rng: random.Random) -> dict:
    """Records one operation and loses the power at so many of its places."""
    work = folder / kind
    root = str(folder / kind)
    prepare(kind, work)
    before = found_in(work)
    disk = Disk(work)
    calls = record(kind, work)
    after = found_in(work)
    states = []
    ends = []
    for call in calls:
        if call[0] == "write" and call[1].endswith(r'"\x64\x6f\x6e\x65\x0a", 5'):
            ends.append(len(states))
        if play(disk, call, root):
            states.append(copy.deepcopy(disk))
    now = {path: disk.files[number] for path, number in disk.names.items() if number >= 0}
    for path, content in now.items():
        if not path.endswith(("-shm", "lock")) and pathlib.Path(path).read_bytes() != content:
            raise SystemExit(f"the model of the disk is wrong: {path}")
    counts: collections.Counter[str] = collections.Counter()
    failures = []
    for number in range(num_crashes):
        place = number * len(states) // num_crashes
        how = ("none", "some", "all")[number % 3]
        target = folder / f"{kind}-{number}"
        target.mkdir()
        names, files = states[place].after(how, rng)
        materialize(names, files, root, target)
        counts["crashes"] += 1
        try:
            found = found_in(target)
            if not before & after <= found <= before | after:
                raise AssertionError(f"{found}, before {before}, after {after}")
            if ends and place >= ends[0] and found != after:
                raise AssertionError(f"it had ended, and {found} is there instead of {after}")
            counts["in the midst"] += found not in (before, after)
        except Exception as error:  # noqa: BLE001 - counted
            counts["lost"] += 1
            failures.append(f"call {place} of {len(states)}, {how} kept: {error}"[:300])
        shutil.rmtree(target)
    return {"lost": 0} | dict(counts) | {"calls": len(states), "failures": failures[:5]}


def main() -> None:
    """Records, loses the power, and prints a line of JSON for each operation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--crashes", type=int, default=400, help="of each operation")
    parser.add_argument("--run", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        carry_out(args.run[0], pathlib.Path(args.run[1]))
        return
    print("$ python", " ".join(sys.argv), flush=True)
    with tempfile.TemporaryDirectory() as name:
        for kind in OPERATIONS:
            found = lose_power(kind, pathlib.Path(name).resolve(), args.crashes, random.Random(0))
            print(kind, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
