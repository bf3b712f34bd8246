"""Fetches the corpus of the shipped models: freely licensed music from Debian's packages.

    python -m data_prep.fetch_corpus corpus

Downloads each package of the table with `apt-get download` (run `apt-get update` before), unpacks
it in a scratch folder (nothing is installed), and copies the originals to OUT/NNN/NNNNNN.SUFFIX.
OUT/tracks.csv gets FMA's columns, so that `data_prep.make_train --config.music_dir=OUT
--config.tracks_csv=OUT/tracks.csv` prepares it. A second run fetches only what is missing. Tracker
modules are rendered with FFmpeg. data_prep/corpus.csv names 792 tracks, about 38 hours and 4 GB of
downloads, each with its licence; `--table data_prep/prompts.csv` names 683 telephone prompts.
"""

import argparse
import csv
import dataclasses
import functools
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from confp_jax.files import RUN_LOCK, one_process
from data_prep.tracks import SPLITS, Failure, SourceError

TABLE = pathlib.Path(__file__).with_name("corpus.csv")
PROMPTS = pathlib.Path(__file__).with_name("prompts.csv")
_MODULES = {".mod", ".xm", ".it", ".s3m"}  # tracker music: a score with its instruments
_MODULE_S = 600  # of a module that is rendered: some repeat for ever
_NO_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
_SCRATCH = ".fetching"  # below OUT: packages that are unpacked
_MOST_FAILED = 0.1  # of the tracks; with more the run counts as failed
# FMA's columns that data_prep/fma.py reads, and the licence.
_FMA_COLUMNS = (
    ("set", "split", "split"),
    ("set", "subset", "subset"),
    ("track", "title", "title"),
    ("track", "license", "licence"),
    ("artist", "name", "artist"),
    ("album", "id", "album"),
)


@dataclasses.dataclass(frozen=True)
class Original:
    """A track, and the file of a package that it is."""

    track_id: int
    split: str
    subset: str
    package: str
    version: str  # of the package that the shipped models learned from
    path: str  # in the package; a folder X.d stands for the contents of the zip file X
    title: str
    artist: str
    album: str
    licence: str


def read_table(path: pathlib.Path) -> list[Original]:
    """Returns the rows of a table of originals.

    Raises:
      SourceError: there is no such file, a column is missing, or a row is not complete.
    """
    names = [field.name for field in dataclasses.fields(Original)]
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = sorted(set(names) - set(reader.fieldnames or []))
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read ({error}); name a table with --table") from error
    if missing:
        raise SourceError(f"{path}: expected the columns {', '.join(names)}; {missing} are missing")
    return [_original(path, number, row, names) for number, row in enumerate(rows, start=2)]


def _original(path: pathlib.Path, line: int, row: dict[str, str], names: Sequence[str]) -> Original:
    values = {name: row[name] or "" for name in names}
    if not values["track_id"].isdecimal() or values["split"] not in SPLITS:
        raise SourceError(
            f"{path}, line {line}: expected a whole number as track_id and one of "
            f"{', '.join(SPLITS)} as split, found {values['track_id']!r} and {values['split']!r}"
        )
    inside = pathlib.PurePosixPath(values["path"])
    if inside.is_absolute() or ".." in inside.parts or not values["package"]:
        raise SourceError(
            f"{path}, line {line}: expected a package and a path inside it, found "
            f"{values['package']!r} and {values['path']!r}"
        )
    return Original(**{**values, "track_id": int(values["track_id"])})  # pyrefly: ignore


def unpack_package(package: str, folder: pathlib.Path) -> None:
    """Downloads a Debian package and unpacks it into `folder`.

    Raises:
      SourceError: apt-get or dpkg-deb is missing, or refuses the package.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
        _run(["apt-get", "download", package], cwd=pathlib.Path(downloads))
        files = list(pathlib.Path(downloads).glob("*.deb"))
        if not files:
            raise SourceError(f"apt-get download {package}: no file came; run `apt-get update`")
        _run(["dpkg-deb", "-x", str(files[0]), str(folder)], cwd=folder.parent)


def _run(command: Sequence[str], *, cwd: pathlib.Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)  # noqa: S603
    except FileNotFoundError as error:
        raise SourceError(f"{command[0]} is not installed; this needs a Debian system") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise SourceError(f"{' '.join(command[:3])}: {lines[-1]}") from error


def fetch_package(
    package: str,
    originals: Sequence[Original],
    out: pathlib.Path,
    *,
    unpack: Callable[[str, pathlib.Path], None] = unpack_package,
) -> list[Failure]:
    """Copies the originals of one package to their places; returns those that it could not."""
    failures = []
    scratches = out / _SCRATCH
    scratches.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratches) as scratch:
        root = pathlib.Path(scratch) / "root"
        root.mkdir()
        try:
            unpack(package, root)
        except SourceError as error:
            return [Failure(one.track_id, one.path, str(error)) for one in originals]
        for one in originals:
            try:
                _copy(_find(root, one.path), one, out)
            except SourceError as error:
                failures.append(Failure(one.track_id, one.path, str(error)))
    return failures


def _find(root: pathlib.Path, path: str) -> pathlib.Path:
    """Returns the file at `path` below root; unpacks the zip file that a folder X.d stands for."""
    parts = pathlib.PurePosixPath(path).parts
    for i, part in enumerate(parts):
        container = root.joinpath(*parts[:i], part[:-2])
        if part.endswith(".d") and container.is_file():
            folder = container.with_name(part)
            if not folder.exists():
                _unpack_zip(container, folder)
    file = root / path
    if not file.is_file():
        raise SourceError(f"{path} is not in the package; its version may have changed")
    return file


def _unpack_zip(container: pathlib.Path, folder: pathlib.Path) -> None:
    partial = folder.with_name(f"{folder.name}.part")
    try:
        with zipfile.ZipFile(container) as archive:
            archive.extractall(partial)
    except _NO_ZIP as error:
        raise SourceError(f"{container.name} cannot be unpacked ({error})") from error
    partial.rename(folder)


def _copy(source: pathlib.Path, one: Original, out: pathlib.Path) -> None:
    suffix = source.suffix.lower()
    target = place(out, one.track_id).with_suffix(".flac" if suffix in _MODULES else suffix)
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f"{target.stem}.part{target.suffix}")
    if suffix in _MODULES:
        options = ["-t", str(_MODULE_S), "-i", str(source), "-ac", "1", "-ar", "22050"]
        _run(["ffmpeg", "-v", "error", "-y", *options, str(partial)], cwd=out)
    else:
        shutil.copyfile(source, partial)
    partial.replace(target)


def place(out: pathlib.Path, track_id: int) -> pathlib.Path:
    """Returns FMA's place of a track, without a suffix."""
    return out / f"{track_id // 1000:03d}" / f"{track_id:06d}"


def is_there(out: pathlib.Path, track_id: int) -> bool:
    """Returns whether the track was fetched before, whatever its format."""
    stem = place(out, track_id)
    return any(".part" not in path.name for path in stem.parent.glob(f"{stem.name}.*"))


def write_tracks_csv(path: pathlib.Path, originals: Iterable[Original]) -> None:
    """Writes the table that data_prep/fma.py reads: FMA's two header rows, index row, tracks."""
    rows = [["", *(column[i] for column in _FMA_COLUMNS)] for i in range(2)]
    rows.append(["track_id", *[""] * len(_FMA_COLUMNS)])
    rows += [
        [str(one.track_id), *(getattr(one, name) for _, _, name in _FMA_COLUMNS)]
        for one in originals
    ]
    partial = path.with_name(f"{path.name}.part")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    partial.replace(path)


def fetch(
    originals: Sequence[Original],
    out: pathlib.Path,
    *,
    num_jobs: int = 2,
    unpack: Callable[[str, pathlib.Path], None] = unpack_package,
) -> list[Failure]:
    """Fetches what is not there yet, package by package; returns the tracks that it could not."""
    wanted: dict[str, list[Original]] = {}
    for one in originals:
        if not is_there(out, one.track_id):
            wanted.setdefault(one.package, []).append(one)
    failures: list[Failure] = []
    with ThreadPoolExecutor(num_jobs) as pool:
        jobs = {
            package: pool.submit(fetch_package, package, rows, out, unpack=unpack)
            for package, rows in wanted.items()
        }
        for number, (package, job) in enumerate(jobs.items(), start=1):
            failed = job.result()
            failures += failed
            num = len(wanted[package])
            print(f"[{number}/{len(jobs)}] {package}: {num - len(failed)} of {num}", flush=True)
    return failures


def _in_use(out: pathlib.Path, by: str) -> SourceError:
    return SourceError(f"{out} is being filled{by}; wait until it ends, or name another folder")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, or 1 where more than a tenth is missing."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m data_prep.fetch_corpus", description=__doc__, formatter_class=formatter
    )
    parser.add_argument("out", type=pathlib.Path, metavar="OUT", help="the folder to fill")
    parser.add_argument(
        "--table", type=pathlib.Path, default=TABLE, help="the tracks (data_prep/corpus.csv)"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="packages at a time (2)")
    parser.add_argument("--only", nargs="+", metavar="PACKAGE", help="these packages alone")
    args = parser.parse_args(argv)
    try:
        originals = read_table(args.table)
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.only:
        originals = [one for one in originals if one.package in args.only]
    try:
        with one_process(args.out / RUN_LOCK, functools.partial(_in_use, args.out)):
            shutil.rmtree(args.out / _SCRATCH, ignore_errors=True)  # of a run that was killed
            failures = fetch(originals, args.out, num_jobs=max(1, args.jobs))
            shutil.rmtree(args.out / _SCRATCH, ignore_errors=True)
            there = [one for one in originals if is_there(args.out, one.track_id)]
            write_tracks_csv(args.out / "tracks.csv", there)
    except (SourceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for failure in failures:
        print(f"failed {failure.track_id}: {failure.why}", file=sys.stderr)
    print(f"{len(there)} of {len(originals)} tracks in {args.out}, {len(failures)} failed")
    return 1 if len(failures) > _MOST_FAILED * len(originals) else 0


if __name__ == "__main__":
    sys.exit(main())
