"""Parallel, restartable shard writing: a shard exists when it is complete, and its note (.json)
says what is in it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process

from rich.console import Console

from confp_jax.audio.decode import DecodeError
from confp_jax.data.records import Clip, ClipRow, WrittenShard, shard_path, write_shard
from confp_jax.files import is_disk_full, write_atomically
from confp_jax.texts import parse_json
from data_prep.progress import counting
from data_prep.tracks import Failure, Outcome, SourceError, Track, UnfitError


@dataclasses.dataclass(frozen=True)
class Shard:
    """One unit of work and what came of it."""

    path: pathlib.Path
    split: str
    tracks: tuple[Track, ...]


# What reading a note raises: it is not there, damaged, or of an older form.
_NO_NOTE = (OSError, ValueError, LookupError, TypeError, AttributeError)
Runner = Callable[[list[Shard], Callable[[Shard], object]], Iterable[Shard]]


def write_shards(
    shards: Sequence[Shard],
    make_clips: Callable[[Track, str], list[Clip]],
    *,
    sample_rate_hz: int,
    bytes_per_track: float,
    num_workers: int,
    console: Console,
    run: Runner | None = None,
) -> tuple[dict[str, list[WrittenShard]], list[Failure]]:
    """Makes every shard that is not there yet; returns what each split's shards hold, in order,
    and the failures.

    `make_clips(track, split)` must be picklable. A run that was killed is simply started again:
    complete shards stay; one with failures, or whose files have changed in size, is made again.
    `run` does the work somewhere else than in this machine's processes
    (data_prep/beam.py).

    Raises:
      SourceError: the disk has not enough space.
    """
    todo = [shard for shard in shards if not _is_written(shard)]
    if len(todo) < len(shards):
        console.print(f"{len(shards) - len(todo)} of {len(shards)} shards are already there")
    check_room(
        shards[0].path.parent, bytes_per_track * sum(len(shard.tracks) for shard in todo), console
    )
    write = functools.partial(_write_one, make_clips=make_clips, sample_rate_hz=sample_rate_hz)
    done = 0
    total = sum(len(shard.tracks) for shard in todo)
    with counting(console, "tracks") as report:
        report(done, total)
        for shard in (run or functools.partial(_run_here, num_workers=num_workers))(todo, write):
            done += len(shard.tracks)
            report(done, total)
    splits: dict[str, list[WrittenShard]] = {}
    failures: list[Failure] = []
    for shard in shards:
        note = _read_note(shard.path)
        splits.setdefault(shard.split, []).append(note.written)
        failures += note.failures
    return splits, failures


def plan_shards(
    tracks: Sequence[Track], folder: pathlib.Path, name: str, split: str, *, tracks_per_shard: int
) -> list[Shard]:
    """Cuts a split's tracks into shards of equal size; the plan depends on the tracks alone."""
    groups = [
        tuple(tracks[i : i + tracks_per_shard]) for i in range(0, len(tracks), tracks_per_shard)
    ]
    return [
        Shard(shard_path(folder, name, split, i, len(groups)), split, g)
        for i, g in enumerate(groups)
    ]


def claim_folder(folder: pathlib.Path, settings: str) -> None:
    """Says whose the folder is before the first shard is written: one folder, one set of settings.

    A folder whose shards hold nothing, for all of their tracks failed, is emptied of them.

    Raises:
      SourceError: it holds shards made with other settings.
    """
    file = folder / ".shards" / "identity"
    identity = hashlib.sha256(settings.encode()).hexdigest()
    found = file.read_text(errors="replace") if file.is_file() else None
    shards = [path for path in folder.glob("*.array_record*") if path.suffix != ".part"]
    if found != identity and not all(_holds_nothing(path) for path in shards):
        raise SourceError(
            f"{folder} holds shards made with other settings, other tracks or other sounds; write "
            "to another --config.out, or delete that folder to make it again"
        )
    for path in shards if found != identity else []:
        path.unlink()
        _note(path).unlink()
    write_atomically(file, identity)


def check_room(folder: pathlib.Path, needed_bytes: float, console: Console) -> None:
    """Says how much will be written, and refuses to begin where it does not fit.

    Raises:
      SourceError: the disk has not enough space.
    """
    free_bytes = shutil.disk_usage(folder).free
    console.print(
        f"{needed_bytes / 1e9:.2f} GB to write, {free_bytes / 1e9:.1f} GB free", highlight=False
    )
    if needed_bytes > free_bytes:
        raise SourceError(
            f"{folder}: about {needed_bytes / 1e9:.1f} GB are to be written and "
            f"{free_bytes / 1e9:.1f} GB are free; free more or choose another --config.out, a "
            "smaller subset or fewer replicas"
        )


@contextlib.contextmanager
def explains_a_full_disk(folder: pathlib.Path) -> Iterator[None]:
    """Turns the system's errors about disk space into one that says what to do.

    Raises:
      SourceError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise SourceError(
            f"{folder}: {error.strerror}; free space and start again: finished shards stay"
        ) from error


def write_manifest(
    folder: pathlib.Path, shards: Sequence[Shard], splits: Mapping[str, Sequence[WrittenShard]]
) -> None:
    """Lists every shard with its counts and its checksum in manifest.json, for `--verify` and for
    copies elsewhere.
    """
    written = [shard for of_split in splits.values() for shard in of_split]
    entries = [
        {
            "file": str(shard.path.relative_to(folder)),
            "split": shard.split,
            "tracks": len(shard.tracks),
            "clips": len(w.clips),
        }
        | {"records": w.num_records, "bytes": w.num_bytes, "sha256": w.sha256}
        for shard, w in zip(shards, written, strict=True)
    ]
    write_atomically(folder / "manifest.json", json.dumps({"shards": entries}, indent=1))


def report_failures(
    failures: Sequence[Failure],
    splits: Mapping[str, Sequence[WrittenShard]],
    folder: pathlib.Path,
    console: Console,
) -> Outcome:
    """Lists what was left out, on the screen and in failures.jsonl; returns how much came."""
    lines = [
        json.dumps(dataclasses.asdict(failure), ensure_ascii=False) + "\n" for failure in failures
    ]
    write_atomically(folder / "failures.jsonl", "".join(lines))
    for failure in failures[:20]:
        console.print(
            f"[yellow]left out[/] track {failure.track_id}: {failure.why}", highlight=False
        )
    if failures:
        console.print(
            f"{len(failures)} tracks left out; all of them are in {folder / 'failures.jsonl'}"
        )
    num_clips = sum(len(shard.clips) for of_split in splits.values() for shard in of_split)
    outcome = Outcome(num_clips, sum(not failure.final for failure in failures))
    if outcome.num_missing:
        found = "no track could be used" if not num_clips else f"{outcome.num_missing} are missing"
        console.print(f"[yellow]{found}[/]; mend them and run the same command again")
    return outcome


def _run_here(
    todo: list[Shard], write: Callable[[Shard], object], *, num_workers: int
) -> Iterator[Shard]:
    num_workers = min(num_workers or os.cpu_count() or 1, len(todo))
    if num_workers <= 1:
        for shard in todo:
            write(shard)
            yield shard
        return
    # One BLAS thread each: two workers with two threads each were 35 times slower
    # (docs/develop/facts.md). Children read it at import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        futures = {pool.submit(write, shard): shard for shard in todo}
        for future in as_completed(futures):
            future.result()
            yield futures[future]


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_one(
    shard: Shard, *, make_clips: Callable[[Track, str], list[Clip]], sample_rate_hz: int
) -> None:
    failures: list[Failure] = []
    source_bytes = _source_bytes(shard)  # before they are read: they may grow meanwhile

    def clips() -> Iterator[Clip]:
        for track in shard.tracks:
            try:
                yield from make_clips(track, shard.split)
            except DecodeError as error:
                final = isinstance(error, UnfitError)
                failures.append(Failure(track.track_id, str(track.path), str(error), final))

    written = write_shard(shard.path, clips(), sample_rate_hz=sample_rate_hz)
    contents = {
        "records": written.num_records,
        "bytes": written.num_bytes,
        "sha256": written.sha256,
        "clips": written.clips,
    }
    note = contents | {"failures": [dataclasses.asdict(failure) for failure in failures]}
    write_atomically(_note(shard.path), json.dumps(note | {"source_bytes": source_bytes}))


def _is_written(shard: Shard) -> bool:
    try:
        note = _read_note(shard.path)
        is_whole = shard.path.stat().st_size == note.written.num_bytes
    except _NO_NOTE:  # made again
        return False
    is_current = note.source_bytes in (None, _source_bytes(shard))
    return is_whole and is_current and all(failure.final for failure in note.failures)


@dataclasses.dataclass(frozen=True)
class _Note:
    written: WrittenShard
    failures: list[Failure]
    source_bytes: list[int] | None  # None: of an older form


def _read_note(path: pathlib.Path) -> _Note:
    """Reads what a shard holds; raises one of _NO_NOTE where that is not known."""
    note = parse_json(_note(path).read_text())
    clips = [ClipRow(*row) for row in note["clips"]]
    written = WrittenShard(clips, int(note["records"]), int(note["bytes"]), str(note["sha256"]))
    failures = [Failure(**failure) for failure in note["failures"]]
    return _Note(written, failures, note.get("source_bytes"))


def _source_bytes(shard: Shard) -> list[int]:
    """Sizes of the files that a shard is made of: one that was being unpacked has grown since."""
    return [t.path.stat().st_size if t.path.is_file() else 0 for t in shard.tracks]


def _holds_nothing(path: pathlib.Path) -> bool:
    try:
        return not _read_note(path).written.clips
    except _NO_NOTE:
        return False


def _note(path: pathlib.Path) -> pathlib.Path:
    return path.parent / ".shards" / (path.name + ".json")
