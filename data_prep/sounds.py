"""Noise and impulse responses: their layouts, their two parts that never mix, and the cache that
replicas draw from.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable

import numpy as np
import soundfile
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode
from confp_jax.audio.folders import find_audio
from confp_jax.files import write_atomically
from data_prep.tracks import SourceError

PARTS = ("train", "test")
_SILENT_RMS = 1e-4
_ESC_TEST_FOLD = "5"  # docs/research/paper.md: folds 1-4 train
_MIT_NAME = re.compile(r"^h\d{3}_.*\.wav$", re.IGNORECASE)
_MIT_TEST_SHARE = 0.2
_LAYOUTS = (
    "ESC-50 (meta/esc50.csv), MS-SNSD (noise_train/, noise_test/), the MIT IR Survey "
    "(h001_*.wav) or train/ and test/"
)


@dataclasses.dataclass(frozen=True)
class Sounds:
    """Noise and impulse responses of one part (train or test), as 16 kHz wav files of the cache;
    relative names are drawn.
    """

    noise: tuple[str, ...] = ()
    impulse_responses: tuple[str, ...] = ()
    music: tuple[str, ...] = ()  # other tracks to lay over one, as they are on the disk
    speech: tuple[str, ...] = ()  # likewise of people who speak

    def identity(self) -> str:
        """Names and sizes as a hash: other sounds make other replicas."""
        files = [
            ("/".join(pathlib.PurePath(f).parts[-3:]), pathlib.Path(f).stat().st_size)
            for f in (*self.noise, *self.impulse_responses)
        ]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def prepare_sounds(
    noise_dir: str, ir_dir: str, part: str, *, cache: pathlib.Path, sample_rate_hz: int
) -> Sounds:
    """Decodes the noise and impulse responses of `part` ("train" or "test") once, to mono wav at
    the working rate.

    `noise_dir` and `ir_dir` name a folder or several, separated by commas. Impulse responses are
    cut to begin at the direct sound, so that a reverberated replica is not late; silence is cut
    out of noise, and a silent file left out.

    Raises:
      SourceError: a folder was named that has no such part or no usable sound.
    """
    found = {
        kind: _cached_sounds(folders, part, kind, cache, sample_rate_hz) if folders else ()
        for kind, folders in (("noise", noise_dir), ("ir", ir_dir))
    }
    return Sounds(found["noise"], found["ir"])


def check_sounds(noise_dir: str, ir_dir: str, parts: Iterable[str]) -> None:
    """Checks whether every folder has sounds of each of the parts; reads and writes none.

    Raises:
      SourceError: one has not.
    """
    for part in sorted(parts):
        for folders in filter(None, (noise_dir, ir_dir)):
            _find_all(folders, part)


def find_sounds(folder: pathlib.Path, part: str) -> dict[str, pathlib.Path]:
    """Returns the sounds of one part, by their name inside the folder; its layout is recognised.

    What is to the bit in both parts counts as test: nothing that a model is measured by is heard
    in training.

    Raises:
      SourceError: none of the known layouts.
    """
    found = _find_part(folder, part)
    if part == "test":
        return found
    test = _find_part(folder, "test", may_lack=True)
    sizes = {path.stat().st_size for path in test.values()}
    held_out = (
        {_digest(path) for path in test.values()}
        if any(p.stat().st_size in sizes for p in found.values())
        else set()
    )
    return {
        n: p
        for n, p in found.items()
        if p.stat().st_size not in sizes or _digest(p) not in held_out
    }


@functools.lru_cache(maxsize=64)  # 1 MiB each
def read_sound(path: str) -> Float32[np.ndarray, " n"]:
    """Returns a sound of the cache."""
    return soundfile.read(path, dtype="float32")[0]


def _find_part(
    folder: pathlib.Path, part: str, *, may_lack: bool = False
) -> dict[str, pathlib.Path]:
    if (folder / "meta" / "esc50.csv").is_file():
        paths = _esc50(folder, part)
        return {path.name: path for path in paths}
    for root in (folder / part, folder / f"noise_{part}"):
        if root.is_dir():
            return {path.relative_to(root).as_posix(): path for path in find_audio([root]).files}
    survey = (
        {path.name: path for path in find_audio([folder]).files if _MIT_NAME.match(path.name)}
        if folder.is_dir()
        else {}
    )
    if survey:
        return {
            name: path for name, path in survey.items() if _is_mit_test(name) == (part == "test")
        }
    if may_lack:
        return {}
    raise SourceError(
        f"{folder / part}: no such folder; {folder} must hold train/ and test/, or be {_LAYOUTS}"
    )


def _esc50(folder: pathlib.Path, part: str) -> list[pathlib.Path]:
    """Returns the files by ESC-50's own folds, which keep the clips of one recording together."""
    table = folder / "meta" / "esc50.csv"
    try:
        with open(table, newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
    except csv.Error as error:
        raise SourceError(f"{table}: is no table ({error}); download ESC-50 again") from error
    if not rows or not all(row.get("filename") and row.get("fold") for row in rows):
        raise SourceError(f"{table}: columns filename and fold are missing; download ESC-50 again")
    paths = [
        folder / "audio" / row["filename"]
        for row in rows
        if (row["fold"] == _ESC_TEST_FOLD) == (part == "test")
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise SourceError(
            f"{missing[0]} and {len(missing) - 1} more of {table} are missing; unpack ESC-50 again"
        )
    return paths


def _is_mit_test(name: str) -> bool:
    """The survey has one response for each place, so a hash of its number (h001) splits by room,
    for ever.
    """
    digest = hashlib.sha256(name[:4].lower().encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < _MIT_TEST_SHARE


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached_sounds(
    folders: str, part: str, kind: str, cache: pathlib.Path, rate_hz: int
) -> tuple[str, ...]:
    names = []
    for name, path in _find_all(folders, part).items():
        target = cache / kind / part / (name + ".wav")  # rain.ogg and rain.flac are two
        source = target.with_name(target.name + ".source")
        if not _is_sound_file(target) or _read_digest(source) != _digest(path):
            source.unlink(missing_ok=True)
            _write_sound(path, target, kind, rate_hz)
            source.write_text(_digest(path))
        if soundfile.info(target).frames:
            names.append(str(target))
    if not names:
        raise SourceError(f"{folders}: its {part} part holds no sound that is not silent")
    return tuple(names)


def _find_all(folders: str, part: str) -> dict[str, pathlib.Path]:
    """Returns the sounds of one part in one or several folders, by their name."""
    found: dict[str, pathlib.Path] = {}
    for folder in folders.split(","):
        for name, path in find_sounds(pathlib.Path(folder.strip()), part).items():
            if name in found:
                raise SourceError(
                    f"{found[name]} and {path} have the same name; rename one of them, as the "
                    "records name a sound by it"
                )
            found[name] = path
    if not found:
        raise SourceError(f"{folders}: its {part} part holds no sound; unpack it again")
    return found


def _read_digest(file: pathlib.Path) -> str:
    return file.read_text(errors="replace") if file.is_file() else ""


def _is_sound_file(path: pathlib.Path) -> bool:
    """Returns whether the cache holds a file that can be opened: a damaged one is made again."""
    try:
        return soundfile.info(path).frames >= 0
    except (OSError, RuntimeError):
        return False


def _write_sound(path: pathlib.Path, target: pathlib.Path, kind: str, rate_hz: int) -> None:
    try:
        samples = decode(path, sample_rate_hz=rate_hz).samples
    except DecodeError as error:
        raise SourceError(f"{error}, or remove it from {path.parent}") from error
    samples = _from_direct_sound(samples) if kind == "ir" else _without_silence(samples, rate_hz)
    write_atomically(
        target,
        lambda file: soundfile.write(file, samples, rate_hz, subtype="FLOAT", format="WAV"),
    )


def _without_silence(samples: Float32[np.ndarray, " n"], rate_hz: int) -> Float32[np.ndarray, " m"]:
    """Returns the noise without its silent stretches (ESC-50 pads with zeros): a part of it is
    mixed in, and must be heard.
    """
    block = rate_hz // 20
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    return blocks[np.sqrt(np.mean(np.square(blocks), axis=1)) > _SILENT_RMS].reshape(-1)


def _from_direct_sound(samples: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " m"]:
    """Returns the impulse response from its first strong sample on; nothing if it is silent."""
    peak = np.abs(samples).max(initial=0.0)
    return (
        samples[np.argmax(np.abs(samples) >= 0.5 * peak) :] if peak > _SILENT_RMS else samples[:0]
    )
