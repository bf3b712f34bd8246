"""Parallel, restartable shard writing: a shard exists when it is complete, and its note (.json) says what is in it."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from confp_jax.audio.decode import DecodeError
from confp_jax.data.records import Clip, ClipRow, WrittenShard, shard_path, write_shard
from data_prep.tracks import Failure, SourceError, Track


@dataclasses.dataclass(frozen=True)
class Shard:
    """One unit of work and what came of it."""

    path: pathlib.Path
    split: str
    tracks: tuple[Track, ...]


def write_shards(
    shards: Sequence[Shard],
    make_clips: Callable[[Track, str], list[Clip]],
    *,
    sample_rate_hz: int,
    num_workers: int,
    console: Console,
) -> tuple[dict[str, Sequence[WrittenShard]], list[Failure]]:
    """Makes every shard that is not there yet; returns what each split's shards hold, in order, and the failures.

    `make_clips(track, split)` must be picklable. A run that was killed is simply started again: complete shards stay.
    """
    todo = [shard for shard in shards if not (_note(shard).is_file() and shard.path.is_file())]
    if len(todo) < len(shards):
        console.print(f"{len(shards) - len(todo)} of {len(shards)} shards are already there")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("tracks", total=sum(len(shard.tracks) for shard in todo))
        for shard in _write_all(
            todo, functools.partial(_write_one, make_clips=make_clips, sample_rate_hz=sample_rate_hz), num_workers
        ):
            progress.advance(task, len(shard.tracks))
    splits: dict[str, Sequence[WrittenShard]] = {}
    failures: list[Failure] = []
    for shard in shards:
        note = json.loads(_note(shard).read_text())
        written = WrittenShard([ClipRow(*row) for row in note["clips"]], note["records"], note["bytes"])
        splits[shard.split] = [*splits.get(shard.split, []), written]
        failures += [Failure(**failure) for failure in note["failures"]]
    return splits, failures


def plan_shards(tracks: Sequence[Track], folder: pathlib.Path, name: str, split: str, *, tracks_per_shard: int) -> list[Shard]:
    """Cuts a split's tracks into shards of equal size; the plan depends on the tracks alone."""
    groups = [tuple(tracks[i : i + tracks_per_shard]) for i in range(0, len(tracks), tracks_per_shard)]
    return [Shard(shard_path(folder, name, split, i, len(groups)), split, g) for i, g in enumerate(groups)]


def claim_folder(folder: pathlib.Path, settings: str) -> None:
    """Says whose the folder is before the first shard is written: one folder, one set of settings.

    Raises:
      SourceError: it holds shards made with other settings.
    """
    file, identity = folder / ".shards" / "identity", hashlib.sha256(settings.encode()).hexdigest()
    found = file.read_text() if file.is_file() else None
    if found != identity and (found or any(folder.glob("*.array_record*"))):
        raise SourceError(
            f"{folder} holds shards made with other settings, other tracks or other sounds; write to another --config.out, "
            "or delete that folder to make it anew"
        )
    partial = file.with_name("identity.part")
    partial.write_text(identity)
    partial.rename(file)


def report_failures(failures: Sequence[Failure], folder: pathlib.Path, console: Console) -> None:
    """Lists what was left out, on the screen and in failures.jsonl."""
    (folder / "failures.jsonl").write_text("".join(json.dumps(dataclasses.asdict(f)) + "\n" for f in failures))
    for failure in failures[:20]:
        console.print(f"[yellow]left out[/] track {failure.track_id}: {failure.why}", highlight=False)
    if failures:
        console.print(f"{len(failures)} tracks left out; all of them are in {folder / 'failures.jsonl'}")


def _write_all(todo: list[Shard], write: Callable[[Shard], None], num_workers: int) -> Iterator[Shard]:
    num_workers = min(num_workers or os.cpu_count() or 1, len(todo))
    if num_workers <= 1:
        for shard in todo:
            write(shard)
            yield shard
        return
    # One BLAS thread each: two workers with two threads each were 35 times slower (FACTS). Children read it at import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
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


def _write_one(shard: Shard, *, make_clips: Callable[[Track, str], list[Clip]], sample_rate_hz: int) -> None:
    failures: list[Failure] = []

    def clips() -> Iterator[Clip]:
        for track in shard.tracks:
            try:
                yield from make_clips(track, shard.split)
            except DecodeError as error:
                failures.append(Failure(track.track_id, str(track.path), str(error)))

    written = write_shard(shard.path, clips(), sample_rate_hz=sample_rate_hz)
    contents = {"records": written.num_records, "bytes": written.num_bytes, "clips": written.clips}
    note = contents | {"failures": [dataclasses.asdict(failure) for failure in failures]}
    partial = _note(shard).with_suffix(".part")
    partial.write_text(json.dumps(note))
    partial.rename(_note(shard))


def _note(shard: Shard) -> pathlib.Path:
    return shard.path.parent / ".shards" / (shard.path.name + ".json")
