"""Which tracks are one recording: files that are equal to the bit, and near-duplicates by chromaprint (`fpcalc`).

    python -m data_prep.duplicates --config=configs/prepare.py:large --config.music_dir=fma_large ... --config.out=prepared/fma

Writes OUT/duplicates.json. Training then keeps one track of each group and none whose copy is held out; the benchmark counts a
hit on a copy as right.
"""

import collections
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import flags
from jaxtyping import UInt32
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track as progress

from confp_jax import command_line
from confp_jax.config import from_mapping
from confp_jax.data.duplicates import DUPLICATES_FILE
from data_prep.config import PrepareConfig
from data_prep.shards import write_atomically
from data_prep.sources import output_folder, read_tracks
from data_prep.tracks import SourceError, Track

_FPCALC_S = 120  # of every track; FMA's clips last 30 s
_MIN_COMMON = 6  # equal values at one offset before two tracks are compared in full (8 a second)
_MAX_HOLDERS = 16  # a value that stands in more places (silence, a steady tone) tells nothing
_OFFSETS = 1 << 12  # twice the most values of a track that _FPCALC_S allows
_MIN_OVERLAP = 64  # values: 8 s
_MAX_BIT_ERRORS = 0.12  # unrelated tracks differ in half their bits, a re-encoded copy in 1 to 8 %


def main(config: ConfigDict, _: flags.FlagValues) -> None:
    """Looks for duplicates among the tracks of a configuration of make_train."""
    chosen, console = from_mapping(PrepareConfig, config), Console(stderr=True)
    groups = find_duplicates(read_tracks(chosen), console)
    file = output_folder(chosen.out) / DUPLICATES_FILE
    write_atomically(file, json.dumps({"groups": groups}, indent=1))
    console.print(f"{file}: {sum(len(group) for group in groups)} tracks in {len(groups)} groups", highlight=False)


def find_duplicates(tracks: Sequence[Track], console: Console) -> list[list[int]]:
    """Groups of two and more track ids, each sorted. Files that cannot be read are in none.

    Raises:
      SourceError: `fpcalc` is not installed.
    """
    if shutil.which("fpcalc") is None:
        raise SourceError("fpcalc is not installed; it is in Debian's libchromaprint-tools, or at acoustid.org/chromaprint")
    by_content: dict[str, list[int]] = collections.defaultdict(list)
    for track in progress(tracks, "checksums", console=console, transient=True):
        if track.path.is_file():
            with open(track.path, "rb") as file:
                by_content[hashlib.file_digest(file, "sha256").hexdigest()].append(track.track_id)
    firsts = {ids[0] for ids in by_content.values()}
    wanted = [track for track in tracks if track.track_id in firsts]
    with ThreadPoolExecutor() as pool:  # fpcalc is a process: threads only wait for it
        found = progress(pool.map(_fingerprint, wanted), "chromaprint", total=len(wanted), console=console, transient=True)
        prints = {track.track_id: values for track, values in zip(wanted, found, strict=True) if len(values)}
    exact = [ids for ids in by_content.values() if len(ids) > 1]
    return _groups([(ids[0], other) for ids in exact for other in ids[1:]] + near_duplicates(prints))


def near_duplicates(prints: dict[int, UInt32[np.ndarray, " n"]]) -> list[tuple[int, int]]:
    """Pairs of track ids whose chromaprints agree over 8 s and more, wherever these lie in each.

    Candidates share many values at one offset; they are then compared bit by bit over the whole overlap.
    """
    ids = list(prints)
    if not ids:
        return []
    lengths = [len(prints[track_id]) for track_id in ids]
    values = np.concatenate([prints[track_id] for track_id in ids])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], np.repeat(np.arange(len(ids)), lengths)[order]
    place = np.concatenate([np.arange(length) for length in lengths])[order]
    _, holders = np.unique(values, return_counts=True)
    telling = np.repeat(holders <= _MAX_HOLDERS, holders)
    values, owner, place = values[telling], owner[telling], place[telling]
    keys = []  # of two tracks and an offset, one for each value that they share there; owners rise within a value
    for step in range(1, _MAX_HOLDERS):
        same = (values[step:] == values[:-step]) & (owner[step:] != owner[:-step])
        first, second = owner[:-step][same], owner[step:][same]
        keys.append((first * len(ids) + second) * _OFFSETS + place[step:][same] - place[:-step][same] + _OFFSETS // 2)
    found, num = np.unique(np.concatenate(keys), return_counts=True)
    pairs = set()
    for key in found[num >= _MIN_COMMON].tolist():
        both, offset = divmod(key, _OFFSETS)
        a, b = (ids[number] for number in divmod(both, len(ids)))
        if (a, b) not in pairs and _agree(prints[a], prints[b], offset - _OFFSETS // 2):
            pairs.add((a, b))
    return sorted(pairs)


def _agree(one: UInt32[np.ndarray, " n"], other: UInt32[np.ndarray, " m"], offset: int) -> bool:
    one, other = one[max(0, -offset) :], other[max(0, offset) :]
    num = min(len(one), len(other))
    if num < _MIN_OVERLAP:
        return False
    return float(np.bitwise_count(one[:num] ^ other[:num]).mean()) / 32 <= _MAX_BIT_ERRORS


def _fingerprint(track: Track) -> UInt32[np.ndarray, " n"]:
    command = ["fpcalc", "-raw", "-json", "-length", str(_FPCALC_S), str(track.path)]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (a list of arguments, no shell)
    # Its status is no measure: it complains about the last frame of many a whole mp3, and has fingerprinted it all.
    try:
        return np.array(json.loads(done.stdout)["fingerprint"], np.uint32)
    except (ValueError, KeyError):
        return np.zeros(0, np.uint32)  # the preparation lists files that cannot be read


def _groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Pairs to groups: whatever hangs together."""
    leader: dict[int, int] = {}

    def find(track_id: int) -> int:
        while leader.setdefault(track_id, track_id) != track_id:
            track_id = leader[track_id]
        return track_id

    for a, b in pairs:
        first, second = sorted((find(a), find(b)))
        leader[second] = first
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for track_id in leader:
        groups[find(track_id)].append(track_id)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


if __name__ == "__main__":
    command_line.run(main, config_file="configs/prepare.py", errors=(SourceError,))
