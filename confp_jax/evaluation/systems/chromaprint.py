"""Chromaprint (`fpcalc`), matched by bit errors at every alignment: AcoustID's own server matches
whole tracks only.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, UInt32

from confp_jax.evaluation.systems.bounded import run_bounded
from confp_jax.evaluation.systems.protocol import (
    NUM_FOUND,
    Answer,
    Found,
    QueryError,
    SystemFailedError,
    answers,
)

_ITEM_S = (
    1365 / 11_025
)  # between items: a frame of 4,096 samples at 11,025 Hz overlaps the next by two thirds
_LONGEST_S = 36_000
_BITS = 32


@dataclasses.dataclass(frozen=True)
class Chromaprint:
    """The score is the share of equal bits at the best alignment; half of them is chance."""

    folder: pathlib.Path

    def version(self) -> str:
        """Returns what `fpcalc -version` prints."""
        try:
            return " ".join(run_bounded(["fpcalc", "-version"], limit_s=30).stdout.split()[:3])
        except FileNotFoundError:
            return "not installed"

    def index(self, files: Sequence[pathlib.Path]) -> None:
        """Keeps the items of every file."""
        items = [raw_items(file) for file in files]
        ends = np.cumsum([len(part) for part in items])
        names = np.array([file.stem for file in files])
        np.savez(self.folder / "items.npz", items=np.concatenate(items), ends=ends, names=names)

    def query(self, files: Sequence[pathlib.Path]) -> Iterator[Answer]:
        """Returns the alignments of fewest bit errors, one a track."""
        with np.load(self.folder / "items.npz") as kept:
            items = kept["items"]
            ends = kept["ends"]
            names = kept["names"]

        def answer(file: pathlib.Path) -> list[Found]:
            return best_alignments(raw_items(file), items, ends, names)

        return answers(files, answer)


def best_alignments(
    query: UInt32[np.ndarray, " q"],
    items: UInt32[np.ndarray, " n"],
    ends: np.ndarray,
    names: np.ndarray,
) -> list[Found]:
    """Returns the best place of every track that the whole query lies in, best first; `ends` are
    the tracks' ends in `items`.
    """
    if not len(query) or len(items) < len(query):
        return []
    equal = 1 - bit_errors(query, items) / (_BITS * len(query))
    begins = np.concatenate([[0], ends[:-1]])
    found = []
    for name, begin, end in zip(names, begins, ends, strict=True):
        inside = equal[begin : end - len(query) + 1]
        if len(inside):
            place = int(np.argmax(inside))
            found.append(Found(str(name), place * _ITEM_S, float(inside[place])))
    return sorted(found, key=lambda one: -one.score)[:NUM_FOUND]


def bit_errors(
    query: UInt32[np.ndarray, " q"], items: UInt32[np.ndarray, " n"]
) -> Float64[np.ndarray, " a"]:
    """Bits that differ at each of the n - q + 1 alignments."""
    num = len(items) - len(query) + 1
    return sum(
        (
            np.bitwise_count(items[i : i + num] ^ item).astype(np.float64)
            for i, item in enumerate(query)
        ),
        np.zeros(num),
    )


def raw_items(file: pathlib.Path) -> UInt32[np.ndarray, " n"]:
    """Returns the 32-bit items of a file, about 8 a second; none where it is too short for one.

    Raises:
      QueryError: fpcalc cannot read the file.
      SystemFailedError: fpcalc is not installed.
    """
    if shutil.which("fpcalc") is None:
        raise SystemFailedError(
            "fpcalc is not installed; it is in Debian's libchromaprint-tools, or at "
            "acoustid.org/chromaprint"
        )
    command = ["fpcalc", "-raw", "-json", "-length", str(_LONGEST_S), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    # Its status is no measure: it complains about the last frame of many a whole file, and has
    # fingerprinted it all.
    try:
        return np.array(json.loads(done.stdout)["fingerprint"], np.uint32)
    except (ValueError, KeyError) as error:
        if "Empty fingerprint" in done.stderr:
            return np.zeros(0, np.uint32)
        raise QueryError(f"fpcalc: {done.stderr.strip() or f'status {done.returncode}'}") from error
